"""The settings of the `dns` back end.

domains: [example.internal]
services:
  web.shop: {srv: _web._tcp.example, workload: shop/web}
  db: {name: db.example, port: 5432}
"""

from typing import Annotated

from msgspec import Meta, Struct

from discovery.backends import Place
from discovery.dns.names import HTTP_PORT, Key, Names, is_host
from discovery.registry import Registry
from meshd.api.documents import Port, Protocol
from meshd.api.names import DEFAULT_NAMESPACE, Address, Identity, InvalidName, WorkloadName, canonical_address

DNS_PORT = 53

MAX_SERVICES = 1024


class DnsService(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where one service is in the DNS."""

    name: Annotated[
        str, Meta(description="The name whose A and AAAA records are the service's addresses; its port is `port`.")
    ] = ""
    srv: Annotated[
        str,
        Meta(description="In place of `name`, that of SRV records, which have hosts and ports: `_web._tcp.example`."),
    ] = ""
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="The port that callers name, or leave out: with `name` it must be given; with `srv`, 0 is 80.",
        ),
    ] = 0
    protocol: Annotated[Protocol, Meta(description="What the endpoints speak, as of a `Service`.")] = "auto"
    workload: Annotated[
        str,
        Meta(
            description="NAME or NAMESPACE/NAME of the workload there: the endpoints are meshed, and must prove that "
            "identity. When empty, they are reached in plain text."
        ),
    ] = ""
    inbound_port: Annotated[Port, Meta(description="The port of their proxies, where they are meshed.")] = 4143

    def __post_init__(self) -> None:
        if bool(self.name) == bool(self.srv):
            raise ValueError("a service has exactly one of `name` and `srv`")
        if not is_host(_host(self.name or self.srv)):
            raise ValueError(f"{self.name or self.srv!r} is not the name of a host or of records, as in db.example")
        if self.name and not self.port:
            raise ValueError("addresses have no port: set `port`")
        if self.workload:
            WorkloadName.parse(self.workload)


class DnsSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Services whose endpoints are DNS records."""

    domains: Annotated[
        tuple[str, ...],
        Meta(
            description="Domains whose names are services, each by its A and AAAA records at the port that was named, "
            "or, for a name as in `_http._tcp.web.example.internal`, by its SRV records. Not meshed."
        ),
    ] = ()
    services: Annotated[
        dict[str, DnsService],
        Meta(description="What is known of services by other names: `NAME` or `NAME.NAMESPACE` to where it is."),
    ] = {}
    resolvers: Annotated[
        tuple[str, ...],
        Meta(
            description="The servers that are asked, in this order, as IP or IP:PORT. When empty, those in "
            "`/etc/resolv.conf`, which is read again when it changes."
        ),
    ] = ()
    ipv6: Annotated[bool, Meta(description="Whether AAAA records are asked for too.")] = True

    def __post_init__(self) -> None:
        if not self.domains and not self.services:
            raise ValueError("it answers for nothing: name `domains` or `services`")
        if len(self.services) > MAX_SERVICES:
            raise ValueError(f"services: {len(self.services)} of them, and at most {MAX_SERVICES} can be")
        for index, domain in enumerate(self.domains):
            if not is_host(_host(domain)):
                raise ValueError(f"domains[{index}]: {domain!r} is not a domain, as in example.internal")
        names = [_mesh_name(text) for text in self.services]
        for text, name in zip(self.services, names, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"services: {text!r} is there twice, for {DEFAULT_NAMESPACE!r} may be left out")
        for index, text in enumerate(self.resolvers):
            try:
                _server(text)
            except InvalidName as error:
                raise ValueError(f"resolvers[{index}]: {error}") from error

    def registry(self, place: Place) -> Registry[Key]:
        from discovery.dns.registry import DnsRegistry  # noqa: PLC0415 - megabytes, for agents that use it alone
        from discovery.dns.resolver import Resolver  # noqa: PLC0415

        services = {
            _mesh_name(text): _key(_mesh_name(text), each, place.trust_domain) for text, each in self.services.items()
        }
        names = Names(services, tuple(map(_host, self.domains)))
        return DnsRegistry(place.name, names, Resolver(tuple(map(_server, self.resolvers))), self.ipv6)


def _key(name: tuple[str, str], service: DnsService, trust_domain: str) -> Key:
    identity, inbound_port = "", 0
    if service.workload:
        workload = WorkloadName.parse(service.workload, name[1])
        identity, inbound_port = str(Identity.of(trust_domain, workload)), service.inbound_port
    return Key(
        *name,
        service.port or HTTP_PORT,
        _host(service.srv or service.name),
        "srv" if service.srv else "address",
        identity,
        inbound_port,
        service.protocol,
    )


def _host(text: str) -> str:
    """A name as it is looked up: RFC 4343 on letters' case; a dot at the end says what is so anyhow."""
    return text.lower().removesuffix(".")


def _mesh_name(text: str) -> tuple[str, str]:
    """(name, namespace) of a service as it is named in the settings."""
    name, _, namespace = text.partition(".")
    return WorkloadName.parse(f"{namespace or DEFAULT_NAMESPACE}/{name}")[::-1]


def _server(text: str) -> Address:
    if address := canonical_address(text):
        return Address(address, DNS_PORT)
    server = Address.parse(text)
    if not canonical_address(server.host) or not server.port:
        raise InvalidName(f"{text!r} is not IP or IP:PORT, as in 192.0.2.53 or [2001:db8::53]:53")
    return server
