"""What any program on the host may send to the agent's name server."""

from typing import Final

import dns.message
import dns.rdatatype

from meshd.agent.names.existence import Existence
from meshd.agent.names.responder import PAYLOAD_BYTES, Reply, Responder
from meshd.agent.names.settings import NamesSettings
from meshd.agent.names.table import Table
from meshd.agent.names.zones import Zones
from tests.support.names import Services

_RANGES: Final = NamesSettings().ranges("prod.example")

QUERIES: Final = [
    dns.message.make_query("api.shop.mesh", "A").to_wire(),
    dns.message.make_query("wEb.mesh.", "AAAA", use_edns=0, payload=4096).to_wire(),
    dns.message.make_query("api.shop.svc.cluster.local", "ANY").to_wire(),
    dns.message.make_query("1.0.0.240.in-addr.arpa", "PTR").to_wire(),
    dns.message.make_query("1.0.d.f.ip6.arpa", "PTR").to_wire(),
    dns.message.make_query("example.com", "SOA").to_wire(),
]


def query(data: bytes) -> None:
    """Answered with the question's id as an answer that can be read and fits, or not at all; an address is one of the
    range, and stands for a service."""
    table, services = Table(_RANGES), Services("api.shop.mesh", "web.default.mesh")
    existence = Existence(services.watch, "default", lambda: 1000.0)
    reply = Responder(Zones(("mesh", "svc", "svc.cluster.local"), _RANGES, "default"), table, existence).respond(data)
    if reply is None:
        assert len(data) < 12 or data[2] & 0x80
        return
    assert isinstance(reply, Reply)
    assert reply.wire[:2] == data[:2]
    assert reply.wire[2] & 0x80
    assert len(reply.wire) <= PAYLOAD_BYTES
    if len(reply.wire) == 12:  # nothing but a code
        return
    for records in dns.message.from_wire(reply.wire).answer:
        for record in records:
            if records.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                assert table.host(record.address) in services.there
