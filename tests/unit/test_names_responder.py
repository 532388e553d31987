"""Questions and answers, as dnspython writes and reads them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.reversename
import dns.update
import pytest
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from meshd.agent.names import existence, responder
from meshd.agent.names.existence import Existence
from meshd.agent.names.responder import Reply, Responder
from meshd.agent.names.settings import NamesSettings
from meshd.agent.names.table import MAX_NAMES, Table
from meshd.agent.names.zones import Zones
from tests.support import aio
from tests.support.names import Services

RANGES = NamesSettings().ranges("prod.example")
DOMAINS = (*NamesSettings().domains, "service.consul")


class Server:
    """A responder over services."""

    def __init__(self, *there: str, max_names: int = MAX_NAMES) -> None:
        self.services, self.table, self.now = Services(*there), Table(RANGES, max_names=max_names), 1000.0
        self.existence = Existence(self.services.watch, "default", lambda: self.now)
        self.responder = Responder(Zones(DOMAINS, RANGES, "default"), self.table, self.existence)

    def says(self, data: bytes, *, stream: bool = False) -> bytes | None:
        found = self.responder.respond(data, stream=stream)
        if found is not None and not isinstance(found, Reply):
            found = aio.run(found)
        return None if found is None else found.wire

    def ask(self, name: str, kind: str = "A", **more: object) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **more)  # type: ignore[arg-type]
        answer = self.says(query.to_wire())
        assert answer is not None
        found = dns.message.from_wire(answer)
        assert query.is_response(found)
        return found

    def address(self, name: str, kind: str = "A") -> str:
        found = self.ask(name, kind)
        assert found.rcode() == Rcode.NOERROR
        assert found.flags & dns.flags.AA
        assert not found.flags & dns.flags.RA
        return " ".join(str(record) for each in found.answer for record in each)


@pytest.fixture
def server() -> Server:
    return Server("api.shop.mesh", "web.default.mesh", "web.service.consul", "web-0.db.shop.svc")


def test_all_forms_of_a_name_have_the_address_of_the_service(server: Server) -> None:
    forms = ["api.shop.mesh", "api.shop.svc", "api.shop.svc.cluster.local", "API.Shop.MESH."]
    address, address6 = server.address("api.shop.mesh"), server.address("api.shop.mesh", "AAAA")
    assert {server.address(form) for form in forms} == {address}
    assert {server.address(form, "AAAA") for form in forms} == {address6}
    assert RANGES.own(address)
    assert RANGES.own(address6)
    assert server.address("web.mesh") == server.address("web.default.mesh") != address
    others = {server.address("web.service.consul"), server.address("web-0.db.shop.svc"), server.address("web.mesh")}
    assert len(others) == 3
    assert server.ask("api.shop.mesh").answer[0].ttl == 5
    assert len(server.ask("api.shop.mesh", "ANY").answer) == 2


def test_the_case_of_the_question_is_kept(server: Server) -> None:
    found = server.ask("aPi.sHOp.MesH")
    assert found.question[0].name.to_text() == found.answer[0].name.to_text() == "aPi.sHOp.MesH."


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nobody.mesh", "A", Rcode.NXDOMAIN),
        ("nobody.shop.svc", "AAAA", Rcode.NXDOMAIN),
        ("_http._tcp.api.shop.mesh", "SRV", Rcode.NXDOMAIN),
        ("a.api.shop.mesh", "A", Rcode.NXDOMAIN),
        ("a b.mesh", "A", Rcode.NXDOMAIN),
        ("-.mesh", "A", Rcode.NXDOMAIN),
        ("nobody.service.consul", "A", Rcode.NXDOMAIN),
        ("empty.svc", "A", Rcode.NXDOMAIN),
        ("api.shop.mesh", "MX", Rcode.NOERROR),  # there, but no such records
        ("shop.mesh", "A", Rcode.NOERROR),  # what is there is below it
        ("shop.svc.cluster.local", "A", Rcode.NOERROR),
        ("mesh", "A", Rcode.NOERROR),
        ("241.in-addr.arpa", "PTR", Rcode.NOERROR),
        ("1.241.in-addr.arpa", "PTR", Rcode.NOERROR),
        ("1.1.1.241.in-addr.arpa", "PTR", Rcode.NXDOMAIN),
        ("01.1.1.241.in-addr.arpa", "PTR", Rcode.NXDOMAIN),
        ("9.1.1.1.241.in-addr.arpa", "PTR", Rcode.NXDOMAIN),
    ],
)
def test_nothing_has_an_soa_and_says_whether_the_name_is_there(
    server: Server, name: str, kind: str, code: Rcode
) -> None:
    server.address("api.shop.mesh")
    found = server.ask(name, kind)
    assert found.rcode() == code
    assert not found.answer
    (soa,) = found.authority
    assert soa.rdtype == RdataType.SOA
    assert soa.ttl == soa[0].minimum == 2
    assert found.question[0].name.is_subdomain(soa.name)


@pytest.mark.parametrize(
    "name", ["example.com", "mesh.example", "api", ".", "cluster.local", "consul", "1.0.0.127.in-addr.arpa",
             "in-addr.arpa", "1.1.1.239.in-addr.arpa", "256.in-addr.arpa", "x.240.1.in-addr.arpa", "8.b.d.0.ip6.arpa"]
)  # fmt: skip
def test_what_is_not_the_meshs_is_refused(server: Server, name: str) -> None:
    found = server.ask(name)
    assert (found.rcode(), found.answer, found.authority) == (Rcode.REFUSED, [], [])
    assert not server.services.watched


def test_addresses_have_the_names_of_their_services(server: Server) -> None:
    for kind in ("A", "AAAA"):
        reverse = dns.reversename.from_address(server.address("api.shop.svc", kind))
        (record,) = server.ask(reverse.to_text(), "PTR").answer[0]
        assert str(record) == "api.shop.mesh."
        assert not server.ask(reverse.to_text(), "TXT").answer
    assert "SOA" in server.ask("mesh", "SOA").answer[0].to_text()
    assert server.ask("240.in-addr.arpa", "NS").answer[0][0].to_text() == "localhost."


def test_edns_is_answered_in_kind(server: Server) -> None:
    assert server.ask("web.mesh").edns == -1
    found = server.ask("web.mesh", use_edns=0, payload=4096)
    assert (found.edns, found.payload) == (0, responder.PAYLOAD_BYTES)
    assert server.ask("web.mesh", use_edns=1).rcode() == Rcode.BADVERS


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (dns.update.UpdateMessage("mesh.").to_wire(), Rcode.NOTIMP),
        (dns.message.make_query("web.mesh", "A").to_wire()[:-1], Rcode.FORMERR),
        (dns.message.make_query("web.mesh", "A").to_wire() + b"\0", Rcode.FORMERR),
        (b"\x12\x34\x01\0\0\0\0\0\0\0\0\0", Rcode.FORMERR),  # no question
        (b"\x12\x34\x01\0\0\2\0\0\0\0\0\0" + 2 * b"\3web\4mesh\0\0\1\0\1", Rcode.FORMERR),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", Rcode.FORMERR),  # a name that points to itself
        (dns.message.make_query("web.mesh", "A").to_wire() + bytes(1300), Rcode.FORMERR),
    ],
)
def test_what_is_no_question_is_answered_without_being_read(server: Server, data: bytes, code: Rcode) -> None:
    answer = server.says(data)
    assert answer is not None
    found = dns.message.from_wire(answer, ignore_trailing=True)
    assert found.id == int.from_bytes(data[:2])
    assert found.flags & dns.flags.QR
    assert found.rcode() == code
    assert len(answer) == 12


def test_answers_and_scraps_are_not_answered(server: Server) -> None:
    answer = server.says(dns.message.make_query("web.mesh", "A").to_wire())
    assert answer is not None
    assert server.says(answer) is None
    assert server.says(b"\x12\x34\x01") is None


def test_a_zone_is_not_handed_out_and_other_classes_are_refused(server: Server) -> None:
    assert server.ask("mesh", "AXFR").rcode() == Rcode.REFUSED
    assert server.ask("web.mesh", rdclass=dns.rdataclass.CH).rcode() == Rcode.REFUSED


@contextmanager
def impatient() -> Iterator[None]:
    """The time for discovery is over at once."""
    before = responder.PATIENCE_S, responder.KNOWN_PATIENCE_S
    responder.PATIENCE_S = responder.KNOWN_PATIENCE_S = 0.0
    try:
        yield
    finally:
        responder.PATIENCE_S, responder.KNOWN_PATIENCE_S = before


def test_what_cannot_be_said_is_what_was_known_or_a_failure_and_never_nothing(server: Server) -> None:
    server.services.away |= {"web.default.mesh", "api.shop.mesh"}
    given = server.table.give("web.default.mesh")
    assert given is not None
    with impatient():
        assert server.address("web.mesh") == given.v4
        assert server.ask("api.shop.mesh").rcode() == Rcode.SERVFAIL
    assert server.table.known("api.shop.mesh") is None


def test_an_answer_is_waited_for() -> None:
    server = Server("api.shop.mesh")
    server.services.away.add("api.shop.mesh")

    async def ask() -> Reply:
        waiting = server.responder.respond(dns.message.make_query("api.shop.mesh", "A").to_wire())
        assert waiting is not None
        assert not isinstance(waiting, Reply)
        task = asyncio.gather(waiting)
        await asyncio.sleep(0)
        server.services.say("api.shop.mesh")
        (reply,) = await task
        return reply

    assert aio.run(ask()).code == "NOERROR"


def test_a_service_that_ends_is_not_there_and_its_address_stays_its_own(server: Server) -> None:
    address = server.address("web.mesh")
    server.services.there.remove("web.default.mesh")
    server.services.say("web.default.mesh")
    assert server.ask("web.mesh").rcode() == Rcode.NXDOMAIN
    assert server.table.host(address) == "web.default.mesh"
    server.services.there.add("web.default.mesh")
    assert server.ask("web.mesh").rcode() == Rcode.NXDOMAIN, "for as long as that is believed"
    server.now += existence.NEGATIVE_S
    assert server.address("web.mesh") == address


def test_a_range_that_is_used_up_is_a_failure_and_not_a_service_that_is_not_there() -> None:
    server = Server("web.default.mesh", "api.shop.mesh", max_names=1)
    server.address("web.mesh")
    assert server.ask("api.shop.mesh").rcode() == Rcode.SERVFAIL


def test_names_that_are_not_known_are_looked_for_so_often_and_not_more() -> None:
    server = Server("web.default.mesh")
    server.address("web.mesh")
    with impatient():
        codes = [server.ask(f"n{number}.mesh").rcode() for number in range(400)]
    assert codes[: existence.NEW_BURST - 1] == [Rcode.NXDOMAIN] * (existence.NEW_BURST - 1)
    assert codes[existence.NEW_BURST :] == [Rcode.SERVFAIL] * (400 - existence.NEW_BURST)
    assert server.services.watched == existence.NEW_BURST
    assert server.address("web.mesh"), "what is known needs no looking for"
    server.now += 1.0
    assert server.ask("n399.mesh").rcode() == Rcode.NXDOMAIN


def test_what_nobody_asks_for_is_not_followed(server: Server) -> None:
    server.address("web.mesh")
    server.ask("nobody.mesh")
    assert set(server.services.watching) == {"web.default.mesh"}
    server.now += existence.FOLLOWED_S - 1
    server.existence.sweep()
    assert len(server.existence) == 1
    server.now += 1
    server.existence.sweep()
    assert not server.services.watching
    server.address("web.mesh")
    server.existence.close()
    assert not server.services.watching


def test_so_many_are_followed_and_not_more() -> None:
    hosts = [f"n{number}.default.mesh" for number in range(existence.MAX_FOLLOWED + 5)]
    server = Server(*hosts)
    for host in hosts:
        server.now += 1.0
        assert server.existence.now(host) is True
    assert len(server.existence) == len(server.services.watching) == existence.MAX_FOLLOWED
    assert hosts[0] not in server.services.watching
