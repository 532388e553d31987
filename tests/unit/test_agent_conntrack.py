"""What the kernel's connection tracking is asked, and what is believed of its answers. The bytes are a Linux 6.18's."""

import struct
import sys

import pytest

from meshd.agent.conntrack import CT_GET, CT_NEW, Untold, answered, request
from meshd.api.names import Address

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="what is here is little-endian")

HERE, PEER = Address("127.0.0.1", 4140), Address("10.77.0.1", 43414)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(*attributes: bytes, kind: int = CT_NEW) -> bytes:
    body = b"\2\0\0\0" + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 4711) + body


def connection(kind: int, port: bytes) -> bytes:
    """A CTA_TUPLE of that kind."""
    addresses = attribute(1, bytes((10, 77, 0, 1))) + attribute(2, bytes((10, 77, 0, 3)))
    ports = attribute(1, b"\6") + attribute(2, port) + attribute(3, b"\x23\x28")
    return attribute(kind | 0x8000, attribute(1 | 0x8000, addresses) + attribute(2 | 0x8000, ports))


ORIGINAL, REPLY = connection(1, (50000).to_bytes(2)), connection(2, (4140).to_bytes(2))


def refusal(number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 1, 4711, -number) + bytes(16)


def test_the_question_is_for_the_answers_of_the_listener() -> None:
    asked = request(HERE, PEER)
    addresses = attribute(1, bytes((127, 0, 0, 1))) + attribute(2, bytes((10, 77, 0, 1)))
    ports = attribute(1, b"\6") + attribute(2, (4140).to_bytes(2)) + attribute(3, (43414).to_bytes(2))
    assert asked[20:] == attribute(2 | 0x8000, attribute(1 | 0x8000, addresses) + attribute(2 | 0x8000, ports))
    assert struct.unpack_from("=IHHII", asked) == (len(asked), CT_GET, 1, 1, 0)
    assert asked[16:20] == b"\2\0\0\0"
    assert request(Address("::1", 4140), Address("2001:db8::1", 5))[16] == 10


def test_an_address_that_is_none_is_not_asked_for() -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        request(HERE, Address("localhost", 1))


@pytest.mark.parametrize("data", [message(ORIGINAL, REPLY), message(REPLY, ORIGINAL), message(ORIGINAL) + b"more"])
def test_the_answer_has_the_port_of_the_caller(data: bytes) -> None:
    assert answered(data) == 50000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (message(ORIGINAL)[:19], "too short"),
        (refusal(2), "it is not tracked"),
        (refusal(1), "Operation not permitted"),
        (refusal(0), "no error"),
        (message(ORIGINAL, kind=3), "type 3"),
        (message(ORIGINAL)[:-4], f"type {CT_NEW}"),
        (message(REPLY), "no port"),
        (message(connection(1, b"\1")), "no port"),
        (message(), "no port"),
        (message(struct.pack("=HH", 40, 1) + bytes(8)), "cut short"),
        (message(struct.pack("=HH", 0, 1) + bytes(8)), "cut short"),
    ],
)
def test_an_answer_that_is_odd_is_none(data: bytes, why: str) -> None:
    with pytest.raises(Untold, match=why):
        answered(data)
