"""What the DNS back end says of the zone `example` and of two services, at times of the test's own."""

from contextlib import aclosing

import dns.name
import dns.rdatatype

from discovery.dns.names import Key, Names
from discovery.dns.registry import DnsRegistry
from discovery.dns.resolver import Found, Resolver
from discovery.names import Authority
from meshd.api.endpoints import EndpointSet
from meshd.api.names import Address

WEB = Key("web", "shop", 80, "_web._tcp.example", "srv")
DB = Key("db", "default", 5432, "db.example", "address", "spiffe://prod.example/ns/default/sa/db", 4143, "tcp")


class Clock:
    """The resolver's, put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Known:
    """A registry that asks `servers`."""

    def __init__(self, *servers: Address, ipv6: bool = True) -> None:
        self.clock = Clock()
        self.resolver = Resolver(servers, clock=self.clock)
        names = Names({("web", "shop"): WEB, ("db", "default"): DB}, ["example"])
        self.registry = DnsRegistry("dns", names, self.resolver, ipv6)

    async def read(self, asked: str | Key) -> EndpointSet | None:
        """What `follow` says first."""
        key = self.registry.claim(Authority.parse(asked, "default")) if isinstance(asked, str) else asked
        assert key is not None
        async with aclosing(self.registry.follow(key)) as following:
            return await anext(following)

    async def places(self, asked: str | Key) -> list[str] | None:
        found = await self.read(asked)
        return None if found is None else [str(Address(each.address, each.port)) for each in found.endpoints]

    async def weights(self, asked: str | Key) -> dict[str, int]:
        found = await self.read(asked)
        assert found is not None
        return {str(Address(each.address, each.port)): each.weight for each in found.endpoints}

    async def look_up(self, name: str, kind: str) -> Found:
        return await self.resolver.look_up(dns.name.from_text(name), dns.rdatatype.from_text(kind))
