"""Names looked up in the DNS: by servers in turn, through aliases, and again no sooner than their TTL says.

A recursive server is expected; one that answers for its own zones alone serves for names in these. Search lists are
not heeded: every name is whole.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from dns.name import Name
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from discovery.dns.exchange import MAX_UDP_BYTES, Unanswered, ask
from discovery.registry import Away
from meshd.api.names import Address, canonical_address

RESOLV_CONF = Path("/etc/resolv.conf")

DNS_PORT = 53

MAX_SERVERS = 3
"""Of those in resolv.conf; the C library takes as many."""

TRY_S = 2.0
"""How long a server has for its answer."""

ROUNDS = 2
"""How often every server is asked: the first time with EDNS, then without, for those that do not know it."""

MIN_TTL_S, MAX_TTL_S = 1.0, 300.0
"""Between which what was learned is kept, whatever its TTL."""

UNKNOWN_TTL_S = 5.0
"""How long it is believed that something is not there whose zone does not say how long that may be (RFC 2308, section
5), and how soon what could not be looked up is tried again."""

MAX_ALIASES = 8
"""Questions to which an alias (CNAME) leads. In one answer there may be 16 besides."""

MAX_KEPT = 65536
"""Records that are kept, each name and type being one more."""

LOOK_UP_S = 15.0
"""How long a look-up may take, whatever it takes."""

MAX_ASKED = 64
"""Questions under way at a time."""


class Found(NamedTuple):
    """What is known of a name's records of one type. `exists`: whether there is such a name. `until`: how long that is
    believed, in the clock's seconds. `trouble`: why it could not be looked up now; the records are then those of
    before."""

    records: tuple[Rdata, ...] = ()
    exists: bool = True
    until: float = 0.0
    trouble: str = ""


class Resolver:
    """Asks `servers`, or those in resolv.conf when there are none; that file is read again when it changes."""

    def __init__(
        self,
        servers: Sequence[Address] = (),
        resolv_conf: Path = RESOLV_CONF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = Servers(tuple(servers), resolv_conf)
        self.clock = clock
        self._kept: dict[tuple[Name, RdataType], Found] = {}
        self._troubled: set[tuple[Name, RdataType]] = set()
        self._size = 0
        self._asked = asyncio.Semaphore(MAX_ASKED)

    async def look_up(self, name: Name, kind: RdataType) -> Found:
        """The records of an absolute name, as they were last asked for within their TTL. It always has an answer: see
        `Found.trouble`."""
        last = self._kept.get((name, kind))
        if last is not None and self.clock() < last.until:
            return last
        try:
            async with self._asked, asyncio.timeout(LOOK_UP_S):
                found = await self._through_aliases(name, kind)
        except Away as error:
            found = self._failed(last, str(error))
        except TimeoutError:
            found = self._failed(last, f"{name}: it could not be looked up within {LOOK_UP_S:g} s")
        self._keep((name, kind), found)
        return found

    async def check(self, name: Name) -> None:
        """Ask for something about name; Away when nobody says whether that is there or not."""
        await self._answer(name, dns.rdatatype.SOA)
        for key in self._troubled:  # what failed is worth another try now
            self._kept[key] = self._kept[key]._replace(until=0.0)
        self._troubled.clear()

    def _failed(self, last: Found | None, trouble: str) -> Found:
        return (last or Found())._replace(until=self.clock() + UNKNOWN_TTL_S, trouble=trouble)

    def _keep(self, key: tuple[Name, RdataType], found: Found) -> None:
        """What was learned longest ago makes room."""
        self._forget(key)
        self._kept[key] = found
        self._size += _size(found)
        if found.trouble:
            self._troubled.add(key)
        while self._size > MAX_KEPT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[Name, RdataType]) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._size -= _size(before)
            self._troubled.discard(key)

    async def _through_aliases(self, name: Name, kind: RdataType) -> Found:
        asked, ttl_s = name, MAX_TTL_S
        for _ in range(MAX_ALIASES):
            answer = await self._answer(asked, kind)
            try:
                chain = answer.resolve_chaining()
            except dns.exception.DNSException as error:
                raise Away(f"{asked}: the answer makes no sense: {type(error).__name__} {error}") from error
            ttl_s = min([ttl_s, *(each.ttl for each in chain.cnames)])
            if chain.answer is not None:
                return Found(tuple(chain.answer), until=self._until(min(ttl_s, chain.answer.ttl)))
            exists = answer.rcode() != dns.rcode.NXDOMAIN
            negative_s = _negative_ttl_s(answer, chain.canonical_name)
            if not exists or negative_s is not None or chain.canonical_name == asked:
                ttl_s = min(ttl_s, UNKNOWN_TTL_S if negative_s is None else negative_s)
                return Found(exists=exists, until=self._until(ttl_s))
            asked = chain.canonical_name
        raise Away(f"{name}: more than {MAX_ALIASES} aliases (CNAME) lead on from it")

    def _until(self, ttl_s: float) -> float:
        return self.clock() + min(max(ttl_s, MIN_TTL_S), MAX_TTL_S)

    async def _answer(self, name: Name, kind: RdataType) -> dns.message.QueryMessage:
        """What the first server says that can answer, be it that there is no such thing."""
        troubles: dict[Address, str] = {}
        servers = self._servers.now()
        for attempt in range(ROUNDS):
            for server in servers:
                question = dns.message.make_query(name, kind, use_edns=-1 if attempt else 0, payload=MAX_UDP_BYTES)
                try:
                    answer = await ask(server, question, TRY_S)
                except Unanswered as error:
                    troubles[server] = str(error)
                    continue
                refusal = _refusal(answer)
                if not refusal and isinstance(answer, dns.message.QueryMessage):
                    return answer
                troubles[server] = refusal or "its answer is none to a query"
        said = "; ".join(f"{server}: {trouble}" for server, trouble in troubles.items())
        raise Away(f"{name} {dns.rdatatype.to_text(kind)}: {said}")


def _size(found: Found) -> int:
    return 1 + len(found.records)


def _refusal(answer: dns.message.Message) -> str:
    """Why an answer is none, neither good news nor bad; empty where it is one."""
    code = answer.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return dns.rcode.to_text(code)
    if code == dns.rcode.NOERROR and not answer.answer:
        kinds = {rrset.rdtype for rrset in answer.authority}
        if dns.rdatatype.NS in kinds and dns.rdatatype.SOA not in kinds:  # RFC 2308, section 2.2: a referral
            return "it refers to other servers, so it is no recursive one"
    return ""


def _negative_ttl_s(answer: dns.message.Message, name: Name) -> float | None:
    """How long it may be believed that something is not there (RFC 2308, section 5); None where the zone does not
    say."""
    for rrset in answer.authority:
        if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name):
            return float(min([rrset.ttl, *(each.minimum for each in rrset)]))
    return None


class Servers:
    """Which servers are asked, in this order."""

    def __init__(self, given: tuple[Address, ...], file: Path) -> None:
        self._given, self._file = given, file
        self._signature: tuple[int, int, int] | None = None
        self._read: tuple[Address, ...] = ()

    def now(self) -> tuple[Address, ...]:
        if self._given:
            return self._given
        try:
            found = self._file.stat()
            signature = found.st_ino, found.st_size, found.st_mtime_ns
            if signature != self._signature:
                self._read = tuple(_nameservers(self._file.read_text(errors="replace").splitlines()))
                self._signature = signature
        except OSError as error:
            if not self._read:
                raise Away(f"{self._file}: {error.strerror}: name `resolvers` in the settings") from error
        if not self._read:
            raise Away(f"{self._file} names no server: name `resolvers` in the settings")
        return self._read


def _nameservers(lines: Iterable[str]) -> list[Address]:
    """Those of a resolv.conf(5)."""
    words = (line.split() for line in lines)
    hosts = (line[1] for line in words if len(line) > 1 and line[0] == "nameserver")
    return [Address(canonical_address(host), DNS_PORT) for host in hosts if canonical_address(host)][:MAX_SERVERS]


def usable(address: str) -> bool:
    """Whether an address may be an endpoint's. 0.0.0.0, which some resolvers answer in place of no, is this very host
    to connect(2)."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return False
    return not (parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255")
