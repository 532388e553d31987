"""A question's bytes in, an answer's out: DNS as an authoritative server for a few domains speaks it (RFC 1034, 1035).

    the address of a service      A and AAAA; the service by the address: PTR
    a domain                      SOA, NS
    no such name                  NXDOMAIN; a name that has no such records: no error, and nothing (RFC 2308)
    a registry is away            what was known; SERVFAIL of what never was, for NXDOMAIN would be believed
    not the mesh's                REFUSED, and the host's resolver asks others

What the question has in capitals has the answer too: some resolvers know answers to their questions by that.
"""

import struct
from collections.abc import Coroutine
from typing import Any, NamedTuple, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.message import QueryMessage
from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from meshd.agent.complaints import complaints
from meshd.agent.names.existence import NEGATIVE_S, Existence
from meshd.agent.names.table import Given, Table
from meshd.agent.names.zones import Place, Zones

TTL_S = 5
"""How long an answer is believed: a service that ends is seen to have ended so soon. Its address stays its own."""

MAX_QUERY_BYTES = 1232
"""A question with all that may be in it (EDNS, a cookie, padding) is shorter."""

PAYLOAD_BYTES = 1232
"""Answers in a datagram; they are far shorter."""

PATIENCE_S = 2.0
"""How long discovery has, for a name that nobody asked for before; resolvers have 5 s, and ask again."""

KNOWN_PATIENCE_S = 0.25
"""The same, where what was known before is an answer too."""

_SERVER = "localhost."
_SOA = f"{_SERVER} nobody.invalid. 1 3600 600 86400 {NEGATIVE_S:.0f}"
"""Server and person as RFC 6303 has them for zones that every host may have for itself."""

_HEADER = struct.Struct("!HH4H")


class Question(NamedTuple):
    """One that is the mesh's to answer; `limit` is how long the answer may be."""

    message: QueryMessage
    place: Place
    limit: int


class Reply(NamedTuple):
    """An answer, and what it is, as in NOERROR."""

    wire: bytes
    code: str


class Responder:
    """For `zones`, with the addresses in `table`."""

    def __init__(self, zones: Zones, table: Table, existence: Existence) -> None:
        self._zones, self._table, self._existence = zones, table, existence

    def respond(self, data: bytes, *, stream: bool = False) -> Reply | Coroutine[Any, Any, Reply] | None:
        """The answer to a message, or what it can be waited for with; None: there is nothing to be answered. `stream`:
        it came by TCP."""
        question = self.read(data, stream=stream)
        if not isinstance(question, Question):
            return question
        if question.place.kind != "service":
            return self._answer(question, found=None)
        found = self._existence.now(question.place.host)
        return self._later(question) if found is None else self._answer(question, found)

    def read(self, data: bytes, *, stream: bool = False) -> Question | Reply | None:
        """What is asked, or the answer to what cannot be."""
        if len(data) < _HEADER.size or data[2] & 0x80:  # too short to be answered, or an answer itself
            return None
        if (data[2] >> 3) & 0xF != dns.opcode.QUERY:
            return _bare(data, Rcode.NOTIMP)
        if len(data) > MAX_QUERY_BYTES or data[4:6] != b"\0\1":
            return _bare(data, Rcode.FORMERR)
        try:
            message = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError):
            return _bare(data, Rcode.FORMERR)
        if not isinstance(message, QueryMessage) or len(message.question) != 1 or message.answer or message.had_tsig:
            return _bare(data, Rcode.FORMERR)
        limit = 65535 if stream else max(512, min(message.payload, PAYLOAD_BYTES)) if message.edns >= 0 else 512
        if message.edns > 0:
            return _finished(_reply_to(message, Rcode.BADVERS), limit)
        asked = message.question[0]
        place = self._zones.place(asked.name) if asked.rdclass == dns.rdataclass.IN else None
        if place is None or asked.rdtype in (RdataType.AXFR, RdataType.IXFR):
            return _finished(_reply_to(message, Rcode.REFUSED), limit)
        return Question(message, place, limit)

    async def _later(self, question: Question) -> Reply:
        host = question.place.host
        patience_s = PATIENCE_S if self._table.known(host) is None else KNOWN_PATIENCE_S
        return self._answer(question, await self._existence.later(host, patience_s))

    def refused(self, question: bytes) -> Reply:
        """To one that there is no room for."""
        return _bare(question, Rcode.SERVFAIL)

    # --- what is said -------------------------------------------------------------------------------------------

    def _answer(self, question: Question, found: bool | None) -> Reply:
        message, place, limit = question
        reply = _reply_to(message, Rcode.NOERROR)
        reply.flags |= dns.flags.AA
        given = self._given(place, found)
        if place.kind == "service" and given is None and found is not False:
            return _finished(_reply_to(message, Rcode.SERVFAIL), limit)
        asked = message.question[0]
        if place.kind == "apex":
            _add(reply, asked.name, _kinds(asked.rdtype, {RdataType.SOA: _SOA, RdataType.NS: _SERVER}))
        elif given is not None:
            _add(reply, asked.name, _kinds(asked.rdtype, {RdataType.A: given.v4, RdataType.AAAA: given.v6}))
        elif place.kind == "address" and (host := self._table.host(place.address)):
            _add(reply, asked.name, _kinds(asked.rdtype, {RdataType.PTR: f"{host}."}))
        elif not self._is_above(place):
            reply.set_rcode(Rcode.NXDOMAIN)
        if not reply.answer:
            soa = dns.rrset.from_text(place.zone, int(NEGATIVE_S), "IN", "SOA", _SOA)
            reply.authority.append(soa)
        return _finished(reply, limit)

    def _given(self, place: Place, found: bool | None) -> Given | None:
        """The addresses of a service that there is, or was as far as is known."""
        if place.kind != "service" or found is False:
            return None
        given = self._table.give(place.host) if found else self._table.known(place.host)
        if given is None and found:
            complaints.error("names: there is no address left for %s: see `names.range`", place.host)
        return given

    def _is_above(self, place: Place) -> bool:
        """Whether a name that has no records is there all the same, because names below it are (RFC 8020)."""
        if place.above:
            return self._table.is_above(place.above)
        return place.kind == "above"


def _reply_to(message: QueryMessage, code: Rcode) -> QueryMessage:
    reply = cast(QueryMessage, dns.message.make_response(message, our_payload=PAYLOAD_BYTES))
    reply.set_rcode(code)
    return reply


def _kinds(asked: RdataType, records: dict[RdataType, str]) -> dict[RdataType, str]:
    """Those of the records that are asked for."""
    return {kind: text for kind, text in records.items() if text and asked in (kind, RdataType.ANY)}


def _add(reply: QueryMessage, name: Name, records: dict[RdataType, str]) -> None:
    for kind, text in records.items():
        reply.answer.append(dns.rrset.from_text(name, TTL_S, "IN", kind, text))


def _finished(reply: QueryMessage, limit: int) -> Reply:
    """The answer's bytes; what does not fit is left out, and said to be."""
    wire = reply.to_wire(max_size=limit, prefer_truncation=True)
    return Reply(wire, dns.rcode.to_text(reply.rcode()))


def _bare(data: bytes, code: Rcode) -> Reply:
    """An answer to what was not understood: its id and what kind of message it was, and nothing of what was in it."""
    number, flags, *_ = _HEADER.unpack_from(data)
    answered = 0x8000 | flags & (0x7800 | dns.flags.RD) | code
    return Reply(_HEADER.pack(number, answered, 0, 0, 0, 0), dns.rcode.to_text(code))
