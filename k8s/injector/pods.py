"""Pods as the injector reads them: the few fields that it decides by. Everything else of a pod goes through unread.

The API server has checked a pod's types before it asks a webhook; a manifest on a person's disk nobody has checked, so
what does not fit is an error with its path (`meshd.api.faults`).
"""

from typing import Any

import msgspec
from msgspec import Struct

from meshd.api.faults import faults


class _Read(Struct, frozen=True, rename="camel"):
    """Of the API: what is not known here is passed over, and null is as nothing."""


class Metadata(_Read, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class Port(_Read, frozen=True):
    container_port: int = 0
    name: str | None = None
    protocol: str | None = None


class SecurityContext(_Read, frozen=True):
    run_as_user: int | None = None


class Container(_Read, frozen=True):
    name: str = ""
    ports: tuple[Port, ...] | None = None
    security_context: SecurityContext | None = None
    restart_policy: str | None = None


class Volume(_Read, frozen=True):
    name: str = ""


class Os(_Read, frozen=True):
    name: str | None = None


class PodSpec(_Read, frozen=True):
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None
    host_network: bool | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    security_context: SecurityContext | None = None
    node_selector: dict[str, str] | None = None
    os: Os | None = None
    restart_policy: str | None = None
    termination_grace_period_seconds: int | None = None


class Pod(_Read, frozen=True):
    """A pod, or the template of one."""

    spec: PodSpec
    metadata: Metadata | None = None

    @property
    def meta(self) -> Metadata:
        return self.metadata or Metadata()

    @property
    def annotations(self) -> dict[str, str]:
        return self.meta.annotations or {}

    @property
    def account(self) -> str:
        return self.spec.service_account_name or self.spec.service_account or "default"

    @property
    def containers(self) -> tuple[Container, ...]:
        """Those that run beside each other, native sidecars among them."""
        sidecars = tuple(each for each in self.spec.init_containers or () if each.restart_policy == "Always")
        return (*(self.spec.containers or ()), *sidecars)

    @property
    def ends(self) -> bool:
        """Whether it is over when its containers are, as a Job's."""
        return self.spec.restart_policy in ("Never", "OnFailure")

    @property
    def port_numbers(self) -> dict[str, int]:
        """The numbers of ports that have names."""
        return {port.name: port.container_port for each in self.containers for port in each.ports or () if port.name}


class NoPod(ValueError):
    """What should be a pod is none; one line for each path in it."""


def pod_of(value: Any) -> Pod:
    try:
        return msgspec.convert(value, Pod)
    except msgspec.ValidationError as error:
        raise NoPod(
            "; ".join(f"{path}: {message}" if path else message for path, message in faults(value, Pod))
        ) from error
