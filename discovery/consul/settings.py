"""What an operator says of Consul: the `consul` item of `discovery` in the agent's settings, as types."""

import re
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from discovery.backends import Place
from discovery.consul.names import Key
from discovery.registry import Registry
from discovery.store import DocumentStore, Kinds
from meshd.api.durations import parse_duration
from meshd.api.names import DEFAULT_NAMESPACE, is_label

MAX_STALE: Final = "10s"

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""A service's name or a datacenter's, as far as it can stand in a path."""


_PREFIX: Final = re.compile(r"(?:(?!\.{1,2}/)[A-Za-z0-9_.-]{1,64}/){1,16}")


def is_consul_name(text: str) -> bool:
    """Whether Consul can be asked for a service, a prepared query or a datacenter of this name."""
    return _NAME.fullmatch(text) is not None


class ConsulTls(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Files (PEM) for HTTPS; they are read again when they change."""

    ca: Annotated[
        str, Meta(description="The roots that Consul's certificate must chain to; when empty, those of the system.")
    ] = ""
    certificate: Annotated[str, Meta(description="The certificate that is shown to Consul, where it asks for one.")] = (
        ""
    )
    key: Annotated[str, Meta(description="Its key.")] = ""
    server_name: Annotated[
        str,
        Meta(description="The name in Consul's certificate, as in `server.dc1.consul`; when empty, the host of `url`."),
    ] = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together: one of them is missing")


class ConsulService(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a name of the mesh stands for in Consul, where it is not the service of that name."""

    service: Annotated[str, Meta(description="The service's name in Consul; when empty, the name in the mesh.")] = ""
    datacenter: Annotated[str, Meta(description="The datacenter it is looked for in; when empty, the back end's.")] = ""
    tags: Annotated[tuple[str, ...], Meta(description="Only instances with all of these tags.")] = ()
    meta: Annotated[dict[str, str], Meta(description="Only instances whose service meta has all of these.")] = {}
    failover: Annotated[
        tuple[str, ...],
        Meta(
            description="Datacenters whose instances are taken, in this order, while the first has none; callers come "
            "back when it has any."
        ),
    ] = ()
    only_passing: Annotated[bool | None, Meta(description="As of the back end; when absent, the back end's.")] = None
    meshed_only: Annotated[bool | None, Meta(description="As of the back end; when absent, the back end's.")] = None

    def __post_init__(self) -> None:
        named = (("service", self.service), ("datacenter", self.datacenter))
        failover = ((f"failover[{number}]", name) for number, name in enumerate(self.failover))
        for field, name in (*named, *failover):
            if (name or field.startswith("failover")) and not is_consul_name(name):
                raise ValueError(f"{field}: {name!r} is not a name in Consul: letters, digits, `.`, `_` and `-`")


class ConsulDocuments(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The mesh's documents in Consul's KV store."""

    prefix: Annotated[
        str, Meta(description="The keys below it hold documents, each as a file in `conf.d` does; it ends with `/`.")
    ] = "meshd/config/"
    kinds: Kinds = ("Service",)

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix: {self.prefix!r} is not one or more words that end with `/`, as in meshd/config/")


class ConsulDiscovery(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Services that are registered in Consul."""

    url: Annotated[
        str,
        Meta(description="The HTTP API of a Consul agent, best this host's own. `http` for this host alone."),
    ] = "http://127.0.0.1:8500"
    token_file: Annotated[
        str, Meta(description="File with the ACL token, read again each time; when empty, there is none.")
    ] = ""
    tls: Annotated[ConsulTls, Meta(description="For an https URL.")] = ConsulTls()
    datacenter: Annotated[
        str, Meta(description="The datacenter that services are looked for in; when empty, the Consul agent's own.")
    ] = ""
    domain: Annotated[str, Meta(description="Consul's DNS domain: what `web.service.consul` ends with.")] = "consul"
    only_passing: Annotated[
        bool,
        Meta(description="Whether instances with a check in the state `warning` are left out; `critical` always are."),
    ] = True
    meshed_only: Annotated[
        bool,
        Meta(
            description="Whether instances with no identity are left out, so that nothing from here is ever called in "
            "plain text, whatever is registered."
        ),
    ] = False
    max_stale: Annotated[
        str,
        Meta(
            description="Any server may answer, which spares the leader, if it heard from the leader within this time; "
            "otherwise the leader is asked."
        ),
    ] = MAX_STALE
    max_connections: Annotated[
        int,
        Meta(
            ge=16,
            le=10_000,
            description="Connections to the Consul agent, which by itself allows 200 from one address "
            "(`http_max_conns_per_client`). A service has one to itself while it is followed, as far as they go; when "
            "there are more services, they take turns.",
        ),
    ] = 100
    services: Annotated[
        dict[str, ConsulService],
        Meta(description="What names in the mesh, NAME or NAME.NAMESPACE, stand for, where it is not what they say."),
    ] = {}
    publish: Annotated[
        bool,
        Meta(description="Whether this host's workloads are registered with the Consul agent, which is then its own."),
    ] = False

    config: Annotated[
        ConsulDocuments | None,
        Meta(description="The mesh's documents in the KV store; when absent, none are read there."),
    ] = None

    def __post_init__(self) -> None:
        self._check_url()
        if self.datacenter and not is_consul_name(self.datacenter):
            raise ValueError(f"datacenter: {self.datacenter!r} is not the name of a datacenter")
        if not all(map(is_label, self.domain.split("."))):
            raise ValueError(f"domain: {self.domain!r} is not DNS labels joined by dots, as in consul")
        try:
            sensible = 0 < self.max_stale_s <= 86400
        except ValueError as error:
            raise ValueError(f"maxStale: {error}") from error
        if not sensible:
            raise ValueError(f"maxStale: {self.max_stale} is not from 1ms to 24h")
        for name in self.services:
            labels = name.split(".")
            if not (1 <= len(labels) <= 2 and all(map(is_label, labels))):
                raise ValueError(f"services: {name!r} is not NAME or NAME.NAMESPACE")

    def _check_url(self) -> None:
        url = urlsplit(self.url)
        try:
            good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:  # no such port
            good = False
        if not good or url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
            raise ValueError("url is not http://HOST:PORT or https://HOST:PORT, as in http://127.0.0.1:8500")
        if url.scheme == "http" and not _is_this_host(url.hostname or ""):
            raise ValueError(
                f"url: {self.url}: what comes over a network in the clear can be changed on its way, identities too: "
                "name an agent on this host, or use https"
            )

    @property
    def max_stale_s(self) -> float:
        return parse_duration(self.max_stale)

    @property
    def mapped(self) -> dict[tuple[str, str], ConsulService]:
        """`services` by (name, namespace)."""
        parts = {name: name.partition(".") for name in self.services}
        return {(parts[name][0], parts[name][2] or DEFAULT_NAMESPACE): each for name, each in self.services.items()}

    def registry(self, place: Place) -> Registry[Key]:
        from discovery.consul.registry import ConsulRegistry, PublishingConsulRegistry  # noqa: PLC0415

        return PublishingConsulRegistry(self, place) if self.publish else ConsulRegistry(self, place)

    def documents(self, place: Place) -> DocumentStore | None:
        from discovery.consul.documents import ConsulDocumentStore  # noqa: PLC0415

        return None if self.config is None else ConsulDocumentStore(self, self.config, place)


def _is_this_host(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
