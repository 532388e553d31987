"""What may not pass as opaque bytes: a request, as lax as a server might read it, in whatever pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.detect import RequestLine, detect

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\n \t\r\nGET / HTTP/1.1\r\n",
    b"get / http/1.1\n",
    b"GET / HTTP/1.1\rl5d-client-id: spiffe://a\r\r",
    b"GET / HTTP/1.1\x0bl5d-client-id: spiffe://a\x0b\x0b\r\n",
    b"GET / HTTP/1.1 \x85l5d-client-id: spiffe://a\r\n",
    b"GET\t/\tHTTP/1.10 \t\r\n",
    b"GET\x0b/\x1cHTTP/1.1\r\n",
    b"\xa0\x0cGET / HTTP/1.1\r\n",
    b"GET /\0 HTTP/1.1\r\n",
    b"!~|_" * 20 + b" / HTTP/1.1\n",
    b"GET / HTTP/" + b"0" * 500 + b"1.1\n",
    b"GET / HTTP/1.1" + b" " * 500 + b"\n",
    b"GET /" + b"x" * 50_000 + b" HTTP/1.1\r\n",
    b"POST / HTTP/3\n",
]
OTHERS = [
    b"\x16\x03\x01\x02\x00\x01",
    b"*1\r\n$4\r\nPING\r\n",
    b"PING\r\n",
    b"SET a HTTP/1.1x\r\n",
    b"GET key\r\nGET / HTTP/1.1\r\n",
    b"EHLO example\r\n",
    b'{"said": "GET / HTTP/1.1"}\r\n',
    b"<34>Oct 11 GET / HTTP/1.1\r\n",
    b'192.0.2.1 - - "GET / HTTP/1.1" 200\r\n',
    b"\0\0\0\x10GET / HTTP/1.1\r\n",
    b"AMQP\0\0\x09\x01",
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"OPTIONS sip:a@b SIP/2.0\r\n",
]


def fed(data: bytes, *places: int) -> list[bool | None]:
    """The verdicts on data that comes in pieces which end at places, until there is one."""
    line = RequestLine()
    found: list[bool | None] = []
    for start, end in pairwise(sorted({0, *(place for place in places if place < len(data)), len(data)})):
        found.append(line.feed(data[start:end]))
        if found[-1] is not None:
            break
    return found


WAYS = [(), range(600), *((place,) for place in range(1, 40)), *((place, place + 2) for place in range(1, 40))]


@pytest.mark.parametrize(
    ("data", "is_request"), [*((each, True) for each in REQUESTS), *((each, False) for each in OTHERS)]
)
def test_requests_are_seen_and_all_else_goes_by(data: bytes, is_request: bool) -> None:
    assert {fed(data, *places)[-1] for places in WAYS} == {is_request}


@pytest.mark.parametrize("data", [b"\r\n", b"GET", b"GET /", b"GET / HTTP/1.1", b"GET / HTTP/1.1  ", b"A" * 100_000])
def test_what_cannot_be_told_yet_is_not_held_back(data: bytes) -> None:
    assert fed(data) == [None]


@given(st.binary(max_size=40), st.binary(max_size=20), st.integers(0, 60))
def test_whatever_the_way_out_takes_for_http_the_way_in_does_not_take_for_opaque(
    path: bytes, rest: bytes, place: int
) -> None:
    data = b"GET /" + path + b" HTTP/1.1\r\n" + rest
    if detect(data) in ("http1", "http2"):
        assert fed(data, place)[-1] is True


def test_a_line_may_take_its_time() -> None:
    line = RequestLine()
    assert line.feed(b"GET / ht") is None
    assert line.feed(b"tp/1") is None
    for _ in range(100):
        assert line.feed(b"1" * 1000) is None
    for _ in range(100):
        assert line.feed(b" ") is None
    assert line.feed(b"\n") is True
