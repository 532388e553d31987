"""The settings of the name server, `names`, and the ranges of addresses that follow from them."""

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from discovery.dns.names import is_host
from meshd.api.names import DEFAULT_NAMESPACE, Address, check_label

AUTO = "auto"

LONGEST4, LONGEST6 = 24, 112
"""Prefixes; a range that is smaller would soon be full, and its addresses be others on each host."""

MAX_DOMAINS = 32


class Ranges(NamedTuple):
    """Where the addresses of services are from."""

    v4: IPv4Network
    v6: IPv6Network | None

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Both, or the one that there is."""
        return (self.v4,) if self.v6 is None else (self.v4, self.v6)

    def own(self, address: str | IPv4Address | IPv6Address) -> bool:
        """Whether an address is in one of them; ValueError for what is no address."""
        found = ip_address(address)
        return found in self.v4 if isinstance(found, IPv4Address) else self.v6 is not None and found in self.v6


class NamesSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The name server, for programs that look names up: each service has an address of its own, which the proxy takes
    for the service."""

    listen: Annotated[
        str, Meta(description="IP:PORT at which it answers, by UDP and TCP, a loopback address; empty for none.")
    ] = "127.0.0.1:4153"
    range: Annotated[
        str,
        Meta(
            description="Services get their addresses from this network, which must be one that is nobody's; the same "
            "on every host of a mesh, so that a service has one address on all of them."
        ),
    ] = "240.0.0.0/4"
    range6: Annotated[
        str,
        Meta(
            description="The same for IPv6; `auto`: a unique local /64 (RFC 4193) that follows from the trust domain; "
            "empty: services have no IPv6 address."
        ),
    ] = AUTO
    domains: Annotated[
        tuple[str, ...],
        Meta(
            description="The domains it answers for, and no others. `service.consul` is one of them besides, where "
            "`discovery` has a Consul, whose domain that is."
        ),
    ] = ("mesh", "svc", "svc.cluster.local")
    search: Annotated[
        bool,
        Meta(description="Whether the host's resolver is to search `mesh`, so that `api` alone is `api.mesh`."),
    ] = False
    namespace: Annotated[
        str, Meta(description="The namespace of names that have none, as `api.mesh`: who asks is not known.")
    ] = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_label(self.namespace, "namespace")
        if self.listen and not ip_address(Address.parse(self.listen).host).is_loopback:
            raise ValueError(f"listen: {self.listen!r} is not at a loopback address, as 127.0.0.1:4153 is")
        v4 = IPv4Network(self.range)
        if v4.prefixlen > LONGEST4 or v4.prefixlen < 1:
            raise ValueError(f"range: {self.range} is not a network of /1 to /{LONGEST4}")
        if self.range6 not in ("", AUTO) and not 1 <= IPv6Network(self.range6).prefixlen <= LONGEST6:
            raise ValueError(f"range6: {self.range6} is not a network of /1 to /{LONGEST6}")
        if not 0 < len(self.domains) <= MAX_DOMAINS:
            raise ValueError(f"domains: {len(self.domains)} of them, and there are 1 to {MAX_DOMAINS}: see `listen`")
        for domain in self.domains:
            if not is_host(domain):
                raise ValueError(f"domains: {domain!r} is not a domain in small letters, as in svc.cluster.local")

    @property
    def address(self) -> Address | None:
        """Where it answers; None when it does not."""
        return Address.parse(self.listen) if self.listen else None

    def ranges(self, trust_domain: str) -> Ranges:
        """Where the addresses of services of that trust domain are from."""
        v6 = None
        if self.range6:
            v6 = local_network(trust_domain) if self.range6 == AUTO else IPv6Network(self.range6)
        return Ranges(IPv4Network(self.range), v6)


def local_network(trust_domain: str) -> IPv6Network:
    """The /64 of a trust domain, with the 40 bits that RFC 4193 (section 3.2.2) has drawn by chance from its name: so
    they are the same on every host."""
    drawn = hashlib.sha256(b"meshd names " + trust_domain.encode()).digest()[:5]
    return IPv6Network((b"\xfd" + drawn + bytes(10), 64))
