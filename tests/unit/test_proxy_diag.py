"""What the kernel is asked of a socket, and what is believed of its answers. The bytes are a Linux 6.18's."""

import socket
import struct
import sys

import pytest

from meshd.api.names import Address
from proxy.capture.diag import Process, Undecided, answered, request
from proxy.capture.original import decoded4, decoded6, original_destination, plain

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="what was recorded is little-endian")

CALLER, DESTINATION = Address("127.0.0.1", 49166), Address("127.0.0.1", 36309)
ASKED = request(CALLER, DESTINATION, 7)

_REST = "00000000" + "0110000000000000" + "00000000" * 3 + "e8030000" + "68ba4d00"
"""The interface, the cookie, timer and queues, uid 1000, the inode."""
V4 = "02010000" + "c00e8dd5" + ("7f000001" + "00" * 12) * 2 + _REST
V6 = "0a010000" + "c00e8dd5" + ("00" * 10 + "ffff" + "7f000001") * 2 + _REST
ATTRIBUTES = "050008000000000008000f00000000000c0015002a100000000000000600160052000000"


def answer(message: str = V4, attributes: str = ATTRIBUTES, *, sequence: int = 7, kind: int = 20) -> bytes:
    body = bytes.fromhex(message + attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 4711) + body


def refusal(number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 7, 4711, -number) + ASKED[:16]


def state(number: int, message: str = V4) -> str:
    return message[:2] + f"{number:02x}" + message[4:]


def test_the_question_names_one_connection() -> None:
    assert len(ASKED) == 72
    assert ASKED[:16] == struct.pack("=IHHII", 72, 20, 1, 7, 0)  # no NLM_F_DUMP
    assert ASKED[16:24] == bytes((socket.AF_INET, socket.IPPROTO_TCP, 0, 0)) + b"\xff\xff\xff\xff"
    assert ASKED[24:28] == struct.pack("!HH", 49166, 36309)
    assert ASKED[28:32] == ASKED[44:48] == socket.inet_aton("127.0.0.1")
    assert ASKED[64:] == b"\xff" * 8
    v6 = request(Address("2001:db8::1", 1), Address("2001:db8::2", 2), 1)
    assert v6[16] == socket.AF_INET6
    assert v6[28:60] == socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(
        socket.AF_INET6, "2001:db8::2"
    )


@pytest.mark.parametrize("message", [V4, V6])
def test_the_answer_says_whose_it_is(message: str) -> None:
    assert answered(answer(message), ASKED) == Process(cgroup=0x102A, uid=1000)


@pytest.mark.parametrize(("number", "open_"), [(1, True), (4, True), (5, True), (2, False), (6, False), (10, False)])
def test_only_what_is_open_is_somebody_s(number: int, open_: bool) -> None:
    assert (answered(answer(state(number)), ASKED) is not None) is open_


def test_a_socket_that_its_process_has_closed_is_nobody_s() -> None:
    assert answered(answer(V4[:-8] + "00000000"), ASKED) is None


def test_that_there_is_none_is_an_answer() -> None:
    assert answered(refusal(2), ASKED) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (ASKED[:15], "too short"),
        (refusal(1), "Operation not permitted"),
        (refusal(0), "no error"),
        (refusal(2)[:18], "another question"),
        (answer(sequence=6), "another question"),
        (answer()[:-1], "another question"),
        (answer(kind=3), "type 3"),
        (answer(V4[:-2], ""), "type 20"),
        (answer(V4.replace("c00e", "c00f")), "another connection"),
        (answer(V4.replace("8dd5", "8dd4")), "another connection"),
        (answer(V4.replace("7f000001", "7f000002", 1)), "another connection"),
        (answer(V6.replace("ffff7f000001", "00007f000001", 1)), "another connection"),
        (answer(attributes=""), "older than 5.8"),
        (answer(attributes="0c001500" + "00" * 8), "older than 5.8"),
        (answer(attributes="08001500" + "01000000"), "has 4 bytes"),
        (answer(attributes="0c001500" + "01000000"), "cut short"),
        (answer(attributes="00001500" + "01000000"), "cut short"),
    ],
)
def test_an_answer_that_is_odd_is_none(data: bytes, why: str) -> None:
    with pytest.raises(Undecided, match=why):
        answered(data, ASKED)


class Accepted:
    """A socket, as uvloop shows it."""

    def __init__(self, family: int, here: tuple[object, ...], original: bytes | OSError) -> None:
        self.family, self._here, self._original = family, here, original

    def getsockname(self) -> tuple[object, ...]:
        return self._here

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert option == 80
        assert level == (socket.IPPROTO_IPV6 if size == len(IN6) else socket.IPPROTO_IP)
        if isinstance(self._original, OSError):
            raise self._original
        assert len(self._original) == size
        return self._original


IN4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 80) + socket.inet_aton("240.0.0.7") + bytes(8)
IN6 = (
    struct.pack("=H", socket.AF_INET6)
    + struct.pack("!HI", 80, 0)
    + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + bytes(4)
)


def test_where_it_was_going() -> None:
    here = ("127.0.0.1", 4140)
    assert original_destination(Accepted(socket.AF_INET, here, IN4)) == Address("240.0.0.7", 80)
    assert original_destination(Accepted(socket.AF_INET6, ("::1", 4140, 0, 0), IN6)) == Address("2001:db8::7", 80)


def test_what_was_not_redirected_came_to_the_listener() -> None:
    assert original_destination(Accepted(socket.AF_INET, ("240.0.0.7", 80), IN4)) is None
    assert original_destination(Accepted(socket.AF_INET6, ("2001:db8::7", 80, 0, 0), IN6)) is None
    assert original_destination(Accepted(socket.AF_INET, ("127.0.0.1", 4140), FileNotFoundError())) is None


def test_what_came_by_ipv4_to_a_listener_of_both_families_is_of_ipv4() -> None:
    here = ("::ffff:127.0.0.1", 4140, 0, 0)
    assert original_destination(Accepted(socket.AF_INET6, here, IN4)) == Address("240.0.0.7", 80)
    assert original_destination(Accepted(socket.AF_INET6, ("::ffff:240.0.0.7", 80, 0, 0), IN4)) is None
    assert plain(("::ffff:0:1", 80, 0, 0)) == Address("::ffff:0:1", 80)  # which is one of IPv6
    assert plain(("fe80::1%eth0", 80, 0, 2)) == Address("fe80::1%eth0", 80)


def test_an_address_of_another_family_is_none() -> None:
    assert decoded4(IN6[:16]) is None
    assert decoded6(IN4 + bytes(12)) is None
    assert decoded4(IN4[:15]) is None
    assert decoded6(IN6[:27]) is None
