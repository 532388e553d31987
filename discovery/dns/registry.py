"""Services whose endpoints are DNS records, as `discovery.registry` has registries.

DNS says nothing of identities: an endpoint is meshed only where the settings name the workload behind the service, and
it must then prove that it is.

SRV as RFC 2782 has it, but for what is not to be known here: of the priorities, the lowest that has addresses is taken;
whether anything answers at these, who calls them finds out.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple, cast

import dns.name
import dns.rdatatype
from dns.name import Name
from dns.rdtypes.IN.SRV import SRV

from discovery.dns.names import Key, Names
from discovery.dns.resolver import MAX_TTL_S, MIN_TTL_S, UNKNOWN_TTL_S, Found, Resolver, usable
from discovery.names import Authority
from discovery.registry import Away, Located
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.logs import about
from meshd.api.names import canonical_address

log = logging.getLogger(__name__)

MAX_TARGETS = 256
"""SRV records of one name."""

MAX_WEIGHT = 65535

SHARES = 100
"""Into how many parts a weight is divided at most, so that the addresses of a record can share it."""

LOCATE_S = 30.0
"""How long looking up all services of the settings may take."""

JITTER = 0.1
"""Up to this part of a TTL is waited longer, so that hosts which learned together do not all ask together."""


class DnsRegistry:
    """Services of `names`, looked up by `resolver`; IPv6 addresses too, unless `ipv6` is off."""

    key = Key

    def __init__(self, name: str, names: Names, resolver: Resolver, ipv6: bool = True) -> None:
        self.name, self._names, self._resolver = name, names, resolver
        self._kinds = (dns.rdatatype.A, dns.rdatatype.AAAA) if ipv6 else (dns.rdatatype.A,)
        self._complained: dict[Key, str] = {}
        self._locating = asyncio.Lock()
        self._located: dict[tuple[str, int], Key] = {}
        self._located_until = 0.0

    def claim(self, authority: Authority) -> Key | None:
        return self._names.claim(authority)

    async def locate(self, address: str, port: int) -> Located[Key] | None:
        """Among the services in the settings: a domain cannot be asked for all that is in it."""
        async with self._locating:
            if self._resolver.clock() >= self._located_until:
                try:
                    async with asyncio.timeout(LOCATE_S):
                        self._located, self._located_until = await self._all()
                except TimeoutError:
                    raise Away(f"not all services could be looked up within {LOCATE_S:g} s") from None
        key = self._located.get((address, port))
        return None if key is None else Located(key)

    async def _all(self) -> tuple[dict[tuple[str, int], Key], float]:
        """Whose every place is, by the records of now, and until when. What cannot be looked up is where it was, unless
        that is everything: to what is nobody's, callers speak in plain text."""
        keys = list(self._names.services.values())
        places: dict[tuple[str, int], Key] = {}
        until = self._resolver.clock() + MAX_TTL_S
        lost: dict[Key, Away] = {}
        for key, read in zip(keys, await asyncio.gather(*map(self._tried, keys)), strict=True):
            if isinstance(read, Away):
                lost[key] = read
                until = min(until, self._resolver.clock() + UNKNOWN_TTL_S)
                continue
            until = min(until, read.until)
            for each in read.endpoints:
                places.setdefault((each.address, each.port), key)
        if lost and len(lost) == len(keys):
            raise next(iter(lost.values()))
        for place, key in self._located.items():
            if key in lost:
                places.setdefault(place, key)
        return places, until

    async def _tried(self, key: Key) -> "_Read | Away":
        try:
            return await self._read(key)
        except Away as error:
            return error

    async def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
        try:
            while True:
                read = await self._read(key)
                self._complain(key, read.trouble)
                yield EndpointSet(key.service, read.endpoints, key.protocol) if read.exists else None
                left_s = max(read.until - self._resolver.clock(), MIN_TTL_S)
                await asyncio.sleep(left_s * random.uniform(1.0, 1.0 + JITTER))  # noqa: S311 - no secret
        finally:
            self._complained.pop(key, None)

    def _complain(self, key: Key, trouble: str) -> None:
        if trouble and trouble != self._complained.get(key):
            known = about(service=key.service)
            log.warning("%s: part of it cannot be looked up, and is as it was: %s", key.service, trouble, extra=known)
        self._complained[key] = trouble

    async def probe(self) -> None:
        await self._resolver.check(_absolute(self._names.any_host))

    async def close(self) -> None:
        """There is nothing that outlasts a question."""

    async def _read(self, key: Key) -> "_Read":
        return await (self._read_srv(key) if key.kind == "srv" else self._read_addresses(key))

    async def _read_addresses(self, key: Key) -> "_Read":
        host = await self._host(_absolute(key.host))
        if host.trouble and not host.is_fresh:
            raise Away(host.trouble)
        endpoints = (_endpoint(key, address, key.port, 1) for address in host.addresses)
        return _Read(tuple(endpoints), host.exists, host.until, host.trouble)

    async def _read_srv(self, key: Key) -> "_Read":
        found = await self._resolver.look_up(_absolute(key.host), dns.rdatatype.SRV)
        if found.trouble:
            raise Away(found.trouble)
        if len(found.records) > MAX_TARGETS:
            raise Away(f"{key.host}: {len(found.records)} SRV records, and at most {MAX_TARGETS} can be")
        records = sorted((cast(SRV, each) for each in found.records), key=lambda each: each.priority)
        heard: list[_Host] = []
        endpoints: tuple[Endpoint, ...] = ()
        for _, group in groupby(records, key=lambda each: each.priority):
            targets = [each for each in group if each.target != dns.name.root]  # RFC 2782: "." is no service
            hosts = await asyncio.gather(*(self._host(each.target) for each in targets))
            heard += hosts
            endpoints = _merged(key, targets, hosts)
            if endpoints:
                break
        trouble = next((host.trouble for host in heard if host.trouble), "")
        if trouble and not any(host.is_fresh for host in heard):
            raise Away(trouble)
        return _Read(endpoints, found.exists, min([found.until, *(host.until for host in heard)]), trouble)

    async def _host(self, name: Name) -> "_Host":
        found = await asyncio.gather(*(self._resolver.look_up(name, kind) for kind in self._kinds))
        return _Host.of(found)


class _Read(NamedTuple):
    """What the records of a service say, until when. `trouble`: what of it is not as fresh as it could be."""

    endpoints: tuple[Endpoint, ...]
    exists: bool
    until: float
    trouble: str


class _Host(NamedTuple):
    """A host's addresses. `is_fresh`: some of them were looked up and found."""

    addresses: tuple[str, ...]
    exists: bool
    until: float
    trouble: str
    is_fresh: bool

    @classmethod
    def of(cls, found: Iterable[Found]) -> "_Host":
        found = tuple(found)
        addresses = {str(record) for each in found for record in each.records}
        return cls(
            tuple(sorted({canonical_address(each) for each in addresses if usable(each)})),
            any(each.exists for each in found),
            min(each.until for each in found),
            next((each.trouble for each in found if each.trouble), ""),
            any(each.records and not each.trouble for each in found),
        )


def _absolute(host: str) -> Name:
    return dns.name.from_text(host, origin=dns.name.root)


def _endpoint(key: Key, address: str, port: int, weight: int) -> Endpoint:
    return Endpoint(address, port, key.identity, key.inbound_port, key.protocol, weight)


def _merged(key: Key, targets: Sequence[SRV], hosts: Sequence[_Host]) -> tuple[Endpoint, ...]:
    """The endpoints of SRV records of one priority; a place that two records name has the weights of both."""
    there = [(target, host.addresses) for target, host in zip(targets, hosts, strict=True) if host.addresses]
    share = shares([target.weight for target, _ in there], [len(addresses) for _, addresses in there])
    weights: dict[tuple[str, int], int] = {}
    for (target, addresses), each in zip(there, share, strict=True):
        for place in ((address, target.port) for address in addresses):
            weights[place] = min(weights.get(place, 0) + each, MAX_WEIGHT)
    return tuple(_endpoint(key, address, port, weight) for (address, port), weight in sorted(weights.items()))


def shares(weights: Sequence[int], counts: Sequence[int]) -> list[int]:
    """The weight of each address, for records of these weights with so many addresses each. A record's weight is that
    of all its addresses together, and one of weight 0 is seldom chosen beside others (RFC 2782)."""
    weights = weights if any(weights) else [1] * len(weights)
    if all(weights) and len(set(counts)) <= 1:
        return list(weights)
    parts = max(min(SHARES, MAX_WEIGHT // max(weights)), 1)
    return [max(weight * parts // count, 1) for weight, count in zip(weights, counts, strict=True)]
