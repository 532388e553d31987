"""The installation's settings: what `meshd install` is told, writes into the ConfigMap `meshd-config`, and what the
controller, the injector and `meshd inject --manual` read there.

    image: registry.example/meshd:0.1.0
    trustDomain: prod.example
    trustAnchors: |
      -----BEGIN CERTIFICATE-----
    proxy: {cpuRequest: 100m, memoryLimit: 250Mi}

One frozen tree; every field has a type, a default, a unit where it is a quantity, and a sentence;
`docs/kubernetes-settings.md` is made from them (`k8s.settings_page`). As text they are in `k8s.settings_text`.
Annotations of a pod and of its namespace go before the settings in `proxy` (`k8s.injector.wishes`).
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Final, Literal

import msgspec
from cryptography import x509
from msgspec import Meta, Struct

from discovery.kubernetes.names import CLUSTER_DOMAIN
from k8s.values import check_request, port_ranges, quantity
from meshd import __version__
from meshd.agent.settings import RESERVED, Discovery
from meshd.api.detection import DEFAULT_OPAQUE_PORTS
from meshd.api.names import check_label, is_trust_domain

CONFIG_MAP: Final = "meshd-config"
CONFIG_KEY: Final = "settings.yaml"
"""Under which the ConfigMap has the settings, as YAML."""

PROXY_UID: Final = 2102
"""Linkerd's, so that policies written for it hold. What this user sends is not captured."""

CONTROLLER_PORT: Final = 8086
CA_PORT: Final = 4180
INJECTOR_PORT: Final = 8443
CONTROLLER_ADMIN_PORT: Final = 4192

CONTROLLER: Final = "meshd-controller"
INJECTOR: Final = "meshd-injector"
CA: Final = "meshd-ca"

CLUSTER_BACK_END: Final = "kubernetes"
"""How documents, the status and metrics call the cluster as a source of services."""

NATIVE_SIDECARS_SINCE: Final = (1, 29)
"""From this version of Kubernetes on, init containers with `restartPolicy: Always` are sidecars by default."""

Level = Literal["debug", "info", "warning", "error"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
FailurePolicy = Literal["Ignore", "Fail"]
NativeSidecar = Literal["auto"] | bool
Quantity = str
Port = Annotated[int, Meta(ge=1, le=65535)]

_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", re.ASCII)


def check_image(text: str) -> str:
    """text itself; ValueError when no image can be called so."""
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"image: found {text[:128]!r}; expected the name of an image, as in registry.example/meshd:1")
    return text


def _check_anchors(text: str) -> None:
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ValueError("expected certificates, PEM; found none that can be read") from error


def _check_address(text: str) -> None:
    host, colon, port = text.rpartition(":")
    if not colon or not is_trust_domain(host) or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError(f"found {text[:128]!r}; expected HOST:PORT with a name, as in controller.example:8086")


def _check_hosts(text: str) -> None:
    for name in (each.strip() for each in text.split(",") if text):
        try:
            ip_address(name)
        except ValueError as error:
            if not is_trust_domain(name):
                expected = "DNS names and addresses, with commas between"
                raise ValueError(f"found {name[:128]!r}; expected {expected}") from error


def _said(name: str, check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


class ProxySettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The sidecars, where no annotation says otherwise."""

    log_level: Annotated[Level, Meta(description="The least that sidecars log.")] = "info"
    cpu_request: Annotated[Quantity, Meta(description="CPU that a sidecar requests, as in `100m`; empty for none.")] = (
        ""
    )
    cpu_limit: Annotated[Quantity, Meta(description="CPU that a sidecar may use at most; empty for no limit.")] = ""
    memory_request: Annotated[
        Quantity, Meta(description="Memory that a sidecar requests, as in `64Mi`; empty for none.")
    ] = ""
    memory_limit: Annotated[
        Quantity, Meta(description="Memory that a sidecar may use at most; empty for no limit.")
    ] = ""
    uid: Annotated[
        int, Meta(ge=1, le=2**31 - 1, description="The user that sidecars run as; what it sends is not captured.")
    ] = PROXY_UID
    inbound_port: Annotated[Port, Meta(description="Where sidecars take connections of the mesh.")] = 4143
    outbound_port: Annotated[Port, Meta(description="Where sidecars take what the pod sends.")] = 4140
    admin_port: Annotated[Port, Meta(description="Metrics and probes of sidecars.")] = 4191
    skip_inbound_ports: Annotated[
        str, Meta(description="Ports of pods that are not captured, as in `4567,8000-8010`.")
    ] = "4567,4568"
    skip_outbound_ports: Annotated[
        str, Meta(description="Ports that pods connect to past the mesh, as in `4567,8000-8010`.")
    ] = "4567,4568"
    opaque_ports: Annotated[
        str, Meta(description="Ports that carry opaque bytes: the server speaks first, or nothing that a proxy knows.")
    ] = ",".join(map(str, DEFAULT_OPAQUE_PORTS))
    await_: Annotated[
        bool,
        Meta(
            description="Whether the application starts only when its sidecar is ready. Native sidecars always have it "
            "so; without it, one that is none is the pod's last container."
        ),
    ] = msgspec.field(default=True, name="await")
    wait_before_exit_seconds: Annotated[
        int,
        Meta(ge=0, le=3600, description="How long a sidecar goes on after its pod is told to end, in seconds."),
    ] = 0

    def __post_init__(self) -> None:
        for name in ("skip_inbound_ports", "skip_outbound_ports", "opaque_ports"):
            _said(_camel(name), port_ranges, getattr(self, name))
        for name in ("cpu_request", "cpu_limit", "memory_request", "memory_limit"):
            if text := getattr(self, name):
                _said(_camel(name), quantity, text)
        check_request(self.cpu_request, self.cpu_limit, "CPU")
        check_request(self.memory_request, self.memory_limit, "memory")
        listening = (self.inbound_port, self.outbound_port, self.admin_port)
        if len(set(listening)) < len(listening):
            raise ValueError(f"inboundPort, outboundPort and adminPort: found {listening}; expected three of their own")


class AuthoritySettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The certificate authority in the cluster."""

    storage: Annotated[
        Literal["persistent", "ephemeral", "kubernetes"],
        Meta(
            description="Where it keeps who joined, what was issued and what is denied: on a volume that stays, on one "
            "that goes with its pod, or in custom resources of the cluster, which several CAs may share."
        ),
    ] = "persistent"
    replicas: Annotated[
        int, Meta(ge=1, le=16, description="How many CAs there are; several share `storage: kubernetes`.")
    ] = 1
    storage_class: Annotated[
        str, Meta(description="The class of the volume that stays; when empty, the cluster's default.")
    ] = ""
    storage_size: Annotated[Quantity, Meta(description="How large it is; not to be changed later.")] = "1Gi"
    names: Annotated[
        str,
        Meta(
            description="DNS names and addresses by which hosts outside the cluster reach it, with commas between; its "
            "certificate is for them, too."
        ),
    ] = ""
    log_level: Annotated[Level, Meta(description="The least that it logs.")] = "info"

    def __post_init__(self) -> None:
        _said("names", _check_hosts, self.names)
        _said("storageSize", quantity, self.storage_size)
        if self.replicas > 1 and self.storage != "kubernetes":
            raise ValueError(f"replicas: found {self.replicas}; expected 1 with `storage: {self.storage}`, of one CA")


class Installation(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One mesh in one cluster."""

    namespace: Annotated[str, Meta(description="Where the control plane is.")] = "meshd"
    image: Annotated[
        str, Meta(description="The image of the control plane and of sidecars, with its tag or digest.")
    ] = f"meshd:{__version__}"
    image_pull_policy: Annotated[PullPolicy, Meta(description="When nodes pull the image.")] = "IfNotPresent"
    trust_domain: Annotated[str, Meta(description="The trust domain: what identities of the mesh begin with.")] = (
        CLUSTER_DOMAIN
    )
    trust_anchors: Annotated[
        str,
        Meta(
            description="The roots that every peer must chain to, PEM. While there are none, no pod is injected: its "
            "sidecar could trust nobody."
        ),
    ] = ""
    cluster_domain: Annotated[str, Meta(description="What the cluster's names end with.")] = CLUSTER_DOMAIN
    controller: Annotated[
        str,
        Meta(description="Where sidecars find the controller, HOST:PORT; when empty, at its Service."),
    ] = ""
    replicas: Annotated[int, Meta(ge=1, le=64, description="How many controllers there are.")] = 1
    high_availability: Annotated[
        bool,
        Meta(
            description="Whether controllers, and CAs, are on nodes of their own, and one of each at a time may be "
            "evicted; `--ha` sets it, `replicas: 3`, `failurePolicy: Fail`, and `ca.storage: kubernetes` with "
            "`ca.replicas: 3`."
        ),
    ] = False
    priority_class: Annotated[
        str,
        Meta(
            description="The PriorityClass of the control plane's pods, as in `system-cluster-critical`; when empty, "
            "the cluster's default."
        ),
    ] = ""
    failure_policy: Annotated[
        FailurePolicy,
        Meta(
            description="What becomes of a pod while no injector answers: `Ignore` starts it without a sidecar, "
            "`Fail` has it wait."
        ),
    ] = "Ignore"
    native_sidecar: Annotated[
        NativeSidecar,
        Meta(
            description="Whether sidecars are init containers that go on (`restartPolicy: Always`); `auto` where the "
            "cluster is of version 1.29 or later."
        ),
    ] = "auto"
    discovery: Annotated[
        tuple[Discovery, ...],
        Meta(
            description="Where the controllers learn of services besides the cluster, which goes first; as `discovery` "
            "of an agent. Files that are named there are those of the controllers' pods."
        ),
    ] = ()
    controller_log_level: Annotated[Level, Meta(description="The least that the controller logs.")] = "info"
    ca: Annotated[AuthoritySettings, Meta(description="The certificate authority in the cluster.")] = (
        AuthoritySettings()
    )
    proxy: Annotated[
        ProxySettings, Meta(description="The sidecars, where no annotation of a pod or its namespace says otherwise.")
    ] = ProxySettings()

    def __post_init__(self) -> None:
        check_label(self.namespace, "namespace")
        check_image(self.image)
        for name in ("trust_domain", "cluster_domain"):
            if not is_trust_domain(getattr(self, name)):
                raise ValueError(f"{_camel(name)}: {getattr(self, name)!r} is not DNS labels joined by dots")
        if self.trust_anchors:
            _said("trustAnchors", _check_anchors, self.trust_anchors)
        called = [CLUSTER_BACK_END, *(each.called for each in self.discovery)]
        if repeated := next((name for name in called if called.count(name) > 1 or name in RESERVED), None):
            raise ValueError(f"discovery: a back end needs a name of its own, and {repeated!r} is taken: set `name`")
        if self.controller:
            _said("controller", _check_address, self.controller)
        if self.priority_class and not is_trust_domain(self.priority_class):
            raise ValueError(f"priorityClass: {self.priority_class[:128]!r} is not DNS labels joined by dots")

    @property
    def controller_address(self) -> str:
        """HOST:PORT of the control API."""
        return self.controller or f"{CONTROLLER}.{self.namespace}.svc.{self.cluster_domain}:{CONTROLLER_PORT}"

    @property
    def injector_name(self) -> str:
        """The name that the API server checks the webhook's certificate for."""
        return f"{INJECTOR}.{self.namespace}.svc"

    def native(self, server: tuple[int, int] | None) -> bool:
        """Whether sidecars are native on a cluster of that version; None where nobody knows it."""
        if self.native_sidecar == "auto":
            return server is not None and server >= NATIVE_SIDECARS_SINCE
        return self.native_sidecar
