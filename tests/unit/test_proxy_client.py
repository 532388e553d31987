"""An endpoint's connection: answers however they are cut, and when it may be used again."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http1.client import IDLE_S
from proxy.http1.heads import MAX_HEAD_BYTES
from tests.support.exchanges import Rig
from tests.support.wire import HIGH_WATER_BYTES, Wire

GET = b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asked() -> tuple[Rig, Wire, Wire]:
    """A request that has gone out: the rig, its caller, its endpoint."""
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    assert endpoint.heard() == GET
    return rig, caller, endpoint


def unframed(answer: bytes) -> bytes:
    """The payload of a whole answer, chunked or not."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return body
    payload = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        payload, body = payload + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return payload


ANSWERS = st.sampled_from(
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    ]
)


@given(ANSWERS, st.lists(st.integers(1, 200), max_size=8))
@settings(max_examples=60)
def test_an_answer_however_it_is_cut(answer: bytes, places: list[int]) -> None:
    rig, caller, endpoint = asked()
    ends = sorted({min(place, len(answer)) for place in places} | {0, len(answer)})
    for start, end in pairwise(ends):
        endpoint.says(answer[start:end])
    heard = caller.heard()
    heard = heard.partition(b"\r\n\r\n")[2] if b" 103 " in heard else heard
    assert unframed(heard) == b"ok"
    assert (rig.idle, rig.pending) == (1, 0)
    assert rig.counted() == (1, {200: 1})


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES,
    ],
)
def test_a_malformed_answer_is_a_bad_gateway(answer: bytes) -> None:
    rig, caller, endpoint = asked()
    endpoint.says(answer)
    heard = caller.heard()
    assert heard.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nl5d-proxy-error: " in heard
    assert b"unsent" not in heard
    assert endpoint.aborted
    assert not caller.is_closing(), "its caller has done nothing wrong"
    assert (rig.idle, rig.pending) == (0, 0)
    assert rig.counted() == (1, {502: 1})


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"more than was asked for",
        b"HTTP/1.1 204 No Content\r\n\r\nwhat is this",
    ],
)
def test_a_connection_that_is_not_in_order_is_not_used_again(answer: bytes) -> None:
    rig, _, endpoint = asked()
    endpoint.says(answer)
    endpoint.settle()
    assert rig.idle == 0
    assert endpoint.lost


def test_an_answer_to_nothing_ends_the_connection() -> None:
    rig, _, endpoint = asked()
    endpoint.says(OK)
    endpoint.says(OK)
    assert rig.idle == 0
    assert endpoint.aborted


def test_a_connection_that_closes_is_out_of_the_pool_at_once() -> None:
    """Its loss is told a loop turn later, and a request that got it in between would be lost with it."""
    for ending in ("idle", "fin"):
        rig, _, endpoint = asked()
        endpoint.says(OK)
        assert rig.idle == 1
        if ending == "idle":
            rig.tick(0.0)  # it is idle from here on
            rig.tick(IDLE_S + 1)
            assert endpoint.is_closing()
            assert not endpoint.lost
        else:
            endpoint.get_protocol().eof_received()  # type: ignore[attr-defined]
        assert rig.idle == 0


def test_an_early_answer_leaves_a_connection_that_is_not_used_again() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhe")
    endpoint = rig.open()
    endpoint.says(OK)
    endpoint.settle()
    assert rig.idle == 0
    assert endpoint.lost


def test_a_connection_whose_buffer_is_full_is_not_used_again() -> None:
    """What fills it belongs to the last request; of the next one it could not say when there is room."""
    rig = Rig()
    caller = rig.call()
    size = 2 * HIGH_WATER_BYTES
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    endpoint = rig.open(clogged=True)
    caller.settle()
    endpoint.says(OK)
    assert caller.heard().endswith(b"ok")
    assert rig.idle == 0


def test_a_retired_endpoint_s_connection_ends_with_its_request() -> None:
    rig, caller, endpoint = asked()
    rig.destination.update(None)
    endpoint.says(OK)
    endpoint.settle()
    assert caller.heard() == OK
    assert endpoint.lost
