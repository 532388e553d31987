"""Who keeps a message from going on is left after a while; who has nothing to say is not."""

from collections.abc import Callable

import pytest

from meshd.api.endpoints import Endpoint
from proxy.errors import Bound
from proxy.http2 import frames
from proxy.http2.engine import STREAM_WINDOW
from proxy.http2.fields import encode
from proxy.http2.frames import MAX_WINDOW, Code, window_update
from proxy.stalls import STALL_S, Outflow
from tests.support.aio import run
from tests.support.exchanges import Rig
from tests.support.h2 import ANSWER, REQUEST, data, request
from tests.support.h2exchanges import H2Rig, Peer, on_loop
from tests.support.wire import HIGH_WATER_BYTES, Wire

CHUNKED = b"POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTED = b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\n"
EXPECTING = COUNTED[:-2] + b"Expect: 100-continue\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * (2 * HIGH_WATER_BYTES)


def pass_time(rig: Rig) -> None:
    """Twice what is borne, as the sweep sees it."""
    for seconds in (0.0, 1.0, STALL_S + 2, 2 * STALL_S):
        rig.tick(seconds)


def test_what_waits_is_stuck_only_if_it_is_the_same_for_all_the_time() -> None:
    outflow = Outflow()
    assert not outflow.stuck(0, 0.0)
    assert not outflow.stuck(0, 500.0)
    assert not outflow.stuck(9, 500.0)
    assert not outflow.stuck(9, 500.0 + STALL_S)
    assert not outflow.stuck(8, 501.0 + STALL_S)
    assert not outflow.stuck(8, 501.0 + 2 * STALL_S)
    assert outflow.stuck(8, 502.0 + 2 * STALL_S)


# --- a caller's body, HTTP/1


@pytest.mark.parametrize("sent", [CHUNKED, CHUNKED + b"5\r\nhel", COUNTED, COUNTED + b"he"])
def test_a_caller_that_does_not_send_its_body_is_answered_408(sent: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(sent)
    endpoint = rig.open()
    rig.tick(STALL_S - 1)
    assert caller.heard() == b""
    rig.tick(STALL_S + 1)
    assert caller.heard().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert caller.half_closed
    assert endpoint.aborted
    assert rig.pending == 0
    assert [bound for bound, _ in rig.refusals] == [Bound.BODY_TIME]


def test_a_promised_length_is_owed_in_the_midst_of_an_answer_too() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(COUNTED)
    rig.open().says(STREAM)
    rig.tick(STALL_S + 1)
    assert caller.aborted
    assert [bound for bound, _ in rig.refusals] == [Bound.BODY_TIME]


def conversation_in_chunks(rig: Rig, caller: Wire) -> None:
    """Who sends chunks while it is answered may have nothing to say for now."""
    caller.says(CHUNKED + b"1\r\na\r\n")
    rig.open().says(STREAM + b"event")


def event_stream(rig: Rig, caller: Wire) -> None:
    caller.says(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    rig.open().says(STREAM)


def long_poll(rig: Rig, caller: Wire) -> None:
    caller.says(COUNTED + b"hello")
    rig.open()


def not_bidden(rig: Rig, caller: Wire) -> None:
    """It waits for a 100, and it is the endpoint that lets it wait."""
    caller.says(EXPECTING)
    rig.open()


def held(rig: Rig, caller: Wire) -> None:
    """It is not read, as there is no endpoint to pass its body to."""
    caller.says(CHUNKED + b"1\r\na\r\n")
    caller.says(b"1\r\na\r\n")
    assert caller.held()


@pytest.mark.parametrize("begin", [conversation_in_chunks, event_stream, long_poll, not_bidden, held])
def test_a_caller_that_owes_nothing_is_not_left(begin: Callable[[Rig, Wire], None]) -> None:
    rig = Rig(patience_s=3600.0)
    caller = rig.call()
    begin(rig, caller)
    caller.heard()
    pass_time(rig)
    assert caller.heard() == b""
    assert not caller.is_closing()
    assert rig.refusals == []


def test_a_caller_that_was_bidden_to_send_its_body_owes_it() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(EXPECTING)
    rig.open().says(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert caller.heard() == b"HTTP/1.1 100 Continue\r\n\r\n"
    pass_time(rig)
    assert caller.heard().startswith(b"HTTP/1.1 408 ")


# --- what is not read, HTTP/1


def test_a_caller_that_reads_nothing_of_its_answer_is_cut_off() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    endpoint = rig.open()
    endpoint.says(LARGE)
    assert endpoint.held()
    pass_time(rig)
    assert caller.aborted
    caller.settle()
    assert endpoint.aborted
    assert [bound for bound, _ in rig.refusals] == [Bound.UNREAD]


def test_a_caller_that_does_not_read_its_last_answer_does_not_keep_the_connection() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    rig.open().says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert caller.is_closing()
    pass_time(rig)
    assert caller.aborted
    caller = rig.call(clogged=True)
    caller.says(b"nonsense\r\n\r\nmore")
    assert caller.half_closed
    pass_time(rig)
    assert caller.aborted


def test_a_caller_that_reads_slowly_is_not_cut_off() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    rig.open().says(LARGE)
    for turn in range(4):
        caller.reads_some(100)
        rig.tick((turn + 1) * (STALL_S - 1))
    assert not caller.is_closing()


def test_an_endpoint_that_reads_nothing_of_a_request_is_given_up() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9999999\r\n\r\n")
    endpoint = rig.open(clogged=True)
    caller.says(b"x" * (2 * HIGH_WATER_BYTES))
    assert caller.held()
    pass_time(rig)
    assert endpoint.aborted
    assert caller.heard().startswith(b"HTTP/1.1 504 ")
    assert rig.stats.errors == {("outbound", "http", Bound.UNREAD): 1}
    assert rig.refusals == []


# --- HTTP/2

MESHED = Endpoint("192.0.2.1", 80, "spiffe://mesh.example/ns/default/sa/api", 4143)
POST = encode([(b":method", b"POST"), *REQUEST[1:]])
PROMISED = encode([(b":method", b"POST"), *REQUEST[1:], (b"content-length", b"5")])
GRPC = encode([(b":method", b"POST"), *REQUEST[1:], (b"content-type", b"application/grpc")])


@pytest.mark.parametrize("sent", [request(1, False, POST), request(1, False, PROMISED) + data(1, b"he")])
def test_a_stream_whose_content_does_not_come_is_answered_408(sent: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(sent)
        endpoint = await rig.open_h2()
        await endpoint.hears()
        pass_time(rig)
        fields, _, ended, code = await caller.hears_on(1)
        assert (dict(fields)[b":status"], ended, code) == (b"408", True, Code.NO_ERROR)
        assert (await endpoint.hears_on(1))[3] == Code.CANCEL
        assert [bound for bound, _ in rig.refusals] == [Bound.BODY_TIME]
        assert rig.pending == 0

    run(conversation())


async def alive(rig: Rig, *peers: Peer) -> None:
    """Time passes, in which the peers answer what they are asked."""
    for seconds in range(0, int(2 * STALL_S), 5):
        rig.tick(float(seconds))
        for peer in peers:
            if any(each.kind == frames.PING for each in await peer.hears()):
                peer.says(frames.frame(frames.PING, frames.ACK, 0, bytes(8)))


UPGRADE = encode([*REQUEST, (b"l5d-orig-proto", b"HTTP/1.1"), (b"l5d-upgrade", b"websocket")])


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (request(1, False, UPGRADE), b""),
        (request(1, False, GRPC), b""),
        (request(1, False, GRPC), frames.headers(1, ANSWER, False)),
        (request(1, False, POST), frames.headers(1, ANSWER, False)),
        (request(1), b""),
        (request(1), frames.headers(1, ANSWER, False) + data(1, b"event")),
    ],
)
def test_a_stream_that_owes_nothing_is_not_left(sent: bytes, answer: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller(from_proxy=True)
        caller.says(sent)
        endpoint = await rig.open_h2()
        endpoint.says(answer)
        await alive(rig, caller, endpoint)
        assert rig.refusals == []
        assert rig.pending == 1

    run(conversation())


@on_loop
async def test_a_caller_that_gives_no_window_loses_its_stream_and_no_other() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller(initial_window_size=0)
    caller.says(request(1), request(3))
    endpoint = await rig.open_h2()
    endpoint.says(frames.headers(1, ANSWER, False), data(1, b"x"), frames.headers(3, ANSWER, False))
    await alive(rig, caller, endpoint)
    assert [bound for bound, _ in rig.refusals] == [Bound.WINDOW_STALL]
    assert rig.pending == 1
    caller.says(window_update(3, 100))
    endpoint.says(data(3, b"well", True))
    assert (await caller.hears_on(3))[1:3] == (b"well", True)


@on_loop
async def test_an_endpoint_that_gives_no_window_is_asked_no_longer() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(request(1, False, POST), data(1, b"x" * STREAM_WINDOW))
    endpoint = await rig.open_h2(initial_window_size=0)
    seen = []
    for seconds in range(0, int(2 * STALL_S), 5):
        rig.tick(float(seconds))
        seen += await caller.hears()
        if any(each.kind == frames.PING for each in await endpoint.hears()):
            endpoint.says(frames.frame(frames.PING, frames.ACK, 0, bytes(8)))
    assert rig.stats.errors == {("outbound", "http", Bound.UNREAD): 1}
    assert rig.pending == 0
    assert rig.refusals == []


@on_loop
async def test_a_caller_of_http2_that_reads_nothing_is_cut_off() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller(clogged=True, initial_window_size=MAX_WINDOW)
    caller.says(window_update(0, 1 << 30), request(1))
    endpoint = await rig.open_h2()
    endpoint.says(frames.headers(1, ANSWER, False), data(1, b"x" * STREAM_WINDOW))
    await endpoint.hears()
    pass_time(rig)
    assert caller.wire.aborted
    assert Bound.UNREAD in [bound for bound, _ in rig.refusals]
