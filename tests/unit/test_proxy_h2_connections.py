"""Callers' and endpoints' connections of HTTP/2 with real exchanges between them, on recorded wires."""

import pytest

from meshd.api.endpoints import Endpoint
from proxy.errors import Bound, Failure, bound_of
from proxy.exchange import MAX_INTERIM
from proxy.http1.server import IDLE_S
from proxy.http2 import frames
from proxy.http2.connection import MAX_UNSENT_BYTES
from proxy.http2.engine import MAX_QUEUED_BYTES, MAX_STREAMS, STREAM_WINDOW
from proxy.http2.fields import Field, encode
from proxy.http2.frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    MAX_WINDOW,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    Code,
    frame,
    goaway,
    rst_stream,
    window_update,
)
from proxy.http2.server import READ_BYTES, Http2Server
from tests.support.aio import run
from tests.support.h2 import ANSWER, REQUEST, Frame, data, request
from tests.support.h2exchanges import H2Rig, Peer, on_loop

MESHED = Endpoint("192.0.2.1", 80, "spiffe://mesh.example/ns/default/sa/api", 4143)
POST: list[Field] = [(b":method", b"POST"), *REQUEST[1:]]
GRPC: list[Field] = [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers")]


def block(fields: list[Field], number: int = 1, ended: bool = True) -> bytes:
    return request(number, ended, encode(fields))


@on_loop
async def test_a_request_and_its_answer() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(block(POST, ended=False), data(1, b"what"))
    endpoint = await rig.open_h2()
    caller.says(data(1, b" now", True))
    fields, content, ended, _ = await endpoint.hears_on(1)
    assert dict(fields) == dict(POST)
    assert (content, ended) == (b"what now", True)
    endpoint.says(frames.headers(1, encode([(b":status", b"200"), (b"a", b"b")]), False), data(1, b"this"))
    endpoint.says(frames.headers(1, encode([(b"x-sum", b"9")]), True))
    fields, content, ended, code = await caller.hears_on(1)
    assert fields == [(b":status", b"200"), (b"a", b"b"), (b"x-sum", b"9")]
    assert (content, ended, code) == (b"this", True, None)
    assert rig.counted() == (1, {200: 1})
    assert rig.pending == 0


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (block([*REQUEST, (b"x", b"a\r\nb: c")]), b"400", None),
        (block([*REQUEST, (b"transfer-encoding", b"chunked")]), b"400", None),
        (block([*REQUEST, (b"host", b"other")]), b"400", None),
        (block([*POST, (b"content-length", b"x")], ended=False), b"400", Code.PROTOCOL_ERROR),
        (block([(b":method", b"CONNECT"), (b":authority", b"api:80")], ended=False), b"501", Code.NO_ERROR),
        (block([*REQUEST, *[(b"x", b"")] * 2000]), b"431", None),
    ],
)  # fmt: skip
def test_a_malformed_request_is_answered_and_reaches_nobody(sent: bytes, status: bytes, code: Code | None) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(sent, data(1, b"more") if code is not None else b"")
        fields, _, ended, found = await caller.hears_on(1)
        assert dict(fields)[b":status"] == status
        assert (ended, found) == (True, code)
        assert not rig.asked
        assert [bound for bound, _ in rig.refusals] == [bound_of(int(status))]
        caller.says(block(REQUEST, 3))
        assert len(rig.asked) == 1

    run(conversation())


@pytest.mark.parametrize(
    "sent",
    [
        [data(1, b"abcd")],
        [data(1, b"ab", True)],
        [frames.headers(1, encode([(b"x", b"y")]), True)],
        [data(1, b"abc"), frames.headers(1, encode([(b"x", b"y")]), False)],
        [data(1, b"abc"), frames.headers(1, encode([(b":path", b"/")]), True)],
    ],
    ids=["more", "less", "trailers before the end", "trailers that do not end", "a pseudo-field in trailers"],
)
def test_a_request_that_is_not_what_it_says_is_reset_and_given_up(sent: list[bytes]) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(block([*POST, (b"content-length", b"3")], ended=False))
        endpoint = await rig.open_h2()
        await endpoint.hears()
        caller.says(*sent)
        assert (await caller.hears_on(1))[3] == Code.PROTOCOL_ERROR
        assert (await endpoint.hears_on(1))[3] == Code.CANCEL
        assert rig.pending == 0

    run(conversation())


@pytest.mark.parametrize(
    "sent",
    [
        [data(1, b"x", True)],
        [frames.headers(1, encode([(b"a", b"b")]), True)],
        [frames.headers(1, encode([(b":status", b"101")]), False)],
        [frames.headers(1, encode([(b":status", b"103")]), True)],
        [frames.headers(1, encode([(b":status", b"200"), (b"content-length", b"1")]), True)],
        [frames.headers(1, encode([(b":status", b"200"), (b"connection", b"close")]), True)],
        [frames.headers(1, encode([(b":status", b"200"), (b"a", b"b\r\n\r\n")]), True)],
    ],
    ids=["no head", "no status", "101", "interim at the end", "no content", "connection", "CR LF"],
)
def test_an_answer_that_is_none_is_a_502(sent: list[bytes]) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(request(1))
        endpoint = await rig.open_h2()
        await endpoint.hears()
        endpoint.says(*sent)
        assert dict((await caller.hears_on(1))[0])[b":status"] == b"502"
        assert rig.pending == 0
        assert rig.counted() == (1, {502: 1})

    run(conversation())


@pytest.mark.parametrize("sent", [data(1, b"abcd"), data(1, b"ab", True)], ids=["more", "less"])
def test_an_answer_that_is_not_as_long_as_it_says_is_cut_off(sent: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(request(1))
        endpoint = await rig.open_h2()
        endpoint.says(frames.headers(1, encode([(b":status", b"200"), (b"content-length", b"3")]), False), sent)
        _, _, ended, code = await caller.hears_on(1)
        assert (ended, code) == (False, Code.INTERNAL_ERROR)
        assert rig.pending == 0

    run(conversation())


# --- asking again


@on_loop
async def test_what_was_refused_is_asked_again_even_if_it_is_not_idempotent() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(block(POST))
    endpoint = await rig.open_h2()
    endpoint.says(rst_stream(1, Code.REFUSED_STREAM))
    fields, _, ended, _ = await endpoint.hears_on(3)
    assert dict(fields)[b":method"] == b"POST"
    assert ended
    endpoint.says(frames.headers(3, ANSWER, True))
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"200"
    assert rig.counted() == (1, {200: 1})


@on_loop
async def test_what_a_server_that_goes_away_has_not_seen_is_asked_on_another_connection() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(block(POST, 1), block(POST, 3))
    endpoint = await rig.open_h2()
    endpoint.says(goaway(1, Code.NO_ERROR))
    assert len(rig.asked) == 1
    another = await rig.open_h2()
    endpoint.says(frames.headers(1, ANSWER, True))
    another.says(frames.headers(1, ANSWER, True))
    answers = [each for each in await caller.hears() if each.kind == HEADERS]
    assert sorted(each.stream for each in answers) == [1, 3]
    assert endpoint.wire.is_closing()
    assert rig.counted() == (2, {200: 2})
    assert rig.pending == 0


@on_loop
async def test_a_connection_lost_with_many_streams() -> None:
    """Those that are idempotent are asked again, since the connection had served before; the others are 502."""
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(request(1))
    endpoint = await rig.open_h2()
    endpoint.says(frames.headers(1, ANSWER, True))
    await caller.hears()
    caller.says(*[block(REQUEST if each % 2 else POST, 3 + 2 * each) for each in range(100)])
    await endpoint.hears()
    endpoint.wire.breaks(ConnectionResetError())
    assert len(rig.asked) == 50
    refused = [each for each in await caller.hears() if each.kind == HEADERS]
    assert len(refused) == 50
    another = await rig.open_h2()
    another.says(*[frames.headers(1 + 2 * each, ANSWER, True) for each in range(50)])
    assert len([each for each in await caller.hears() if each.kind == HEADERS]) == 50
    assert rig.counted() == (101, {200: 51, 502: 50})
    assert rig.pending == 0


@on_loop
async def test_a_call_of_grpc_that_a_proxy_could_not_pass_on_is_asked_again() -> None:
    """The proxy on the far side says that it sent nothing; the same as for any other request."""
    far = H2Rig(MESHED)
    far.unroutable = Failure.NO_ENDPOINT
    far_side = await far.caller()
    far_side.says(block(GRPC, ended=True))
    refused = [each for each in await far_side.hears() if each.kind == HEADERS]
    rig = H2Rig(MESHED, MESHED.__replace__(address="192.0.2.9"))
    caller = await rig.caller()
    caller.says(block(GRPC, ended=True))
    endpoint = await rig.open_h2()
    rig.asked.clear()
    await endpoint.hears()
    endpoint.says(frames.headers(1, refused[0].payload, True))
    assert (await caller.hears_on(1))[0] == []
    other = await rig.open_h2()
    assert dict((await other.hears_on(1))[0]) == dict(GRPC)
    other.says(frames.headers(1, encode([(b":status", b"200"), (b"grpc-status", b"0")]), True))
    assert dict((await caller.hears_on(1))[0])[b"grpc-status"] == b"0"
    assert rig.pending == 0


@on_loop
async def test_a_call_of_grpc_that_finds_nobody_is_unavailable() -> None:
    rig = H2Rig(MESHED)
    rig.unroutable = Failure.NO_ENDPOINT
    caller = await rig.caller()
    caller.says(block(GRPC, ended=False))
    fields, _, ended, code = await caller.hears_on(1)
    assert dict(fields)[b":status"] == b"200"
    assert dict(fields)[b"grpc-status"] == b"14"
    assert (ended, code) == (True, Code.NO_ERROR)


# --- back-pressure


@on_loop
async def test_an_early_answer_ends_an_upload_that_was_held() -> None:
    """The caller's window is shut when the answer comes, and the endpoint takes no more of the request."""
    rig = H2Rig(MESHED)
    caller = await rig.caller(initial_window_size=2)
    caller.says(block(POST, ended=False))
    endpoint = await rig.open_h2(initial_window_size=0)
    caller.says(data(1, bytes(STREAM_WINDOW)))
    assert not [each for each in await caller.hears() if each.kind == WINDOW_UPDATE and each.stream == 1]
    endpoint.says(frames.headers(1, ANSWER, False), data(1, b"enough", True))
    assert (await caller.hears_on(1))[1:] == (b"en", False, None)
    caller.says(window_update(1, 100))
    assert (await caller.hears_on(1))[1:] == (b"ough", True, Code.NO_ERROR)
    assert rig.pending == 0


@on_loop
async def test_a_caller_that_does_not_read_holds_its_endpoint_and_no_other() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller(initial_window_size=1000)
    caller.says(request(1), request(3))
    endpoint = await rig.open_h2()
    await endpoint.hears()
    endpoint.says(frames.headers(1, ANSWER, False), frames.headers(3, ANSWER, False))
    endpoint.says(data(1, bytes(STREAM_WINDOW)))
    assert not [each for each in await endpoint.hears() if each.kind == WINDOW_UPDATE and each.stream == 1]
    endpoint.says(data(3, b"quick", True))
    assert (await caller.hears_on(3))[1:] == (b"quick", True, None)
    got = 1000
    while got < STREAM_WINDOW:
        caller.says(window_update(1, 20_000), window_update(0, 20_000))
        got += len((await caller.hears_on(1))[1])
    granted = [each for each in await endpoint.hears() if each.kind == WINDOW_UPDATE and each.stream == 1]
    assert granted == [Frame(WINDOW_UPDATE, 0, 1, STREAM_WINDOW.to_bytes(4, "big"))]


@on_loop
async def test_both_ways_full_is_no_deadlock() -> None:
    """Upload and download of one stream stand still; each goes on as soon as its own reader does."""
    rig = H2Rig(MESHED)
    caller = await rig.caller(initial_window_size=0)
    caller.says(block(POST, ended=False))
    endpoint = await rig.open_h2(initial_window_size=0)
    caller.says(data(1, b"u" * STREAM_WINDOW))
    endpoint.says(frames.headers(1, ANSWER, False), data(1, b"d" * STREAM_WINDOW))
    assert (await caller.hears_on(1))[1] == b""
    assert (await endpoint.hears_on(1))[1] == b""
    caller.says(window_update(1, STREAM_WINDOW), window_update(0, STREAM_WINDOW))
    assert (await caller.hears_on(1))[1] == b"d" * STREAM_WINDOW
    endpoint.says(window_update(1, STREAM_WINDOW), window_update(0, STREAM_WINDOW))
    assert (await endpoint.hears_on(1))[1] == b"u" * STREAM_WINDOW
    caller.says(data(1, b"", True))
    endpoint.says(data(1, b"", True))
    assert (await caller.hears_on(1))[2]
    assert rig.pending == 0


@on_loop
async def test_a_clogged_transport_holds_the_endpoints() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller(clogged=True, initial_window_size=MAX_WINDOW)
    caller.says(request(1), window_update(0, 1 << 30))
    endpoint = await rig.open_h2()
    endpoint.says(frames.headers(1, ANSWER, False))
    sent, room = 0, STREAM_WINDOW
    while sent < 4 << 20:
        endpoint.says(data(1, bytes(room)))
        sent += room
        granted = [each for each in await endpoint.hears() if each.kind == WINDOW_UPDATE and each.stream == 1]
        room = sum(int.from_bytes(each.payload, "big") for each in granted)
        if not room:
            break
    assert sent <= 3 * STREAM_WINDOW
    assert caller.wire.buffered < 3 * STREAM_WINDOW
    caller.wire.reads()
    await caller.hears()
    assert [each for each in await endpoint.hears() if each.kind == WINDOW_UPDATE and each.stream == 1]


@on_loop
async def test_answers_that_are_not_read_are_not_fetched_either_beyond_so_much() -> None:
    """From endpoints of HTTP/1.1, each of which would say more. Their caller lets one byte come of each."""
    rig = H2Rig()
    caller = await rig.caller(initial_window_size=1)
    numbers = range(1, 96, 2)
    caller.says(window_update(0, MAX_WINDOW // 2), *(request(number) for number in numbers))
    size = 2 * READ_BYTES
    endpoints = [rig.open() for _ in numbers]
    for endpoint in endpoints:
        endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    assert server.full
    assert MAX_QUEUED_BYTES < server.queued <= MAX_QUEUED_BYTES + READ_BYTES
    assert all(endpoint.held() for endpoint in endpoints)
    rig.tick(1.0)
    for endpoint in endpoints:
        endpoint.settle()
    assert server.queued <= MAX_QUEUED_BYTES + 2 * READ_BYTES
    got = 0
    for _ in range(len(numbers)):  # its caller lets all of the last come, whose turn will be
        caller.says(window_update(numbers[-1], 1 << 16))
        got += len((await caller.hears_on(numbers[-1]))[1])
        rig.tick(1.0)
        for endpoint in endpoints:
            endpoint.settle()
    assert got > READ_BYTES
    for number in numbers:
        caller.says(window_update(number, size))
    for _ in range(4):
        await caller.hears()
        for endpoint in endpoints:
            endpoint.settle()
    assert (server.queued, server.full, rig.pending) == (0, False, 0)
    assert rig.counted() == (len(numbers), {200: len(numbers)})


@on_loop
async def test_an_answer_with_a_large_window_is_not_held_for_others_that_are_not_read() -> None:
    rig = H2Rig()
    caller = await rig.caller(initial_window_size=1)
    numbers = range(1, 96, 2)
    caller.says(window_update(0, MAX_WINDOW // 2), *(request(number) for number in numbers))
    endpoints = [rig.open() for _ in numbers]
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * READ_BYTES)
    for endpoint in endpoints:
        endpoint.says(head + bytes(READ_BYTES))
    caller.says(request(97), window_update(97, 4 * READ_BYTES))
    fast = rig.open()
    fast.says(head + bytes(4 * READ_BYTES))
    assert (await caller.hears_on(97))[1:3] == (bytes(4 * READ_BYTES), True)
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    assert server.full


@on_loop
async def test_a_window_of_the_connection_is_not_counted_on_by_more_than_one_answer() -> None:
    rig = H2Rig()
    caller = await rig.caller(initial_window_size=1)
    stuck, others = range(1, 69, 2), range(101, 141, 2)
    caller.says(window_update(0, READ_BYTES), *(request(number) for number in stuck))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * READ_BYTES)
    for endpoint in [rig.open() for _ in stuck]:
        endpoint.says(head + bytes(READ_BYTES))
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    assert server.full
    for number in others:
        caller.says(request(number), window_update(number, MAX_WINDOW // 2))
    for endpoint in [rig.open() for _ in others]:
        endpoint.says(head + bytes(READ_BYTES))
    assert server.queued <= MAX_QUEUED_BYTES + 3 * READ_BYTES


@on_loop
async def test_requests_that_end_unread_make_room() -> None:
    rig = H2Rig()
    caller = await rig.caller(initial_window_size=1)
    numbers = range(1, 96, 2)
    caller.says(window_update(0, MAX_WINDOW // 2), *(request(number) for number in numbers))
    for _ in numbers:
        rig.open().says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * READ_BYTES) + bytes(READ_BYTES))
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    assert server.full
    caller.says(*(rst_stream(number, Code.CANCEL) for number in numbers))
    assert (server.queued, server.full) == (0, False)


# --- the end of a connection


@on_loop
async def test_a_drain_is_two_goaways() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(request(1))
    endpoint = await rig.open_h2()
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    server.drain()
    assert [each.payload[:4] for each in await caller.hears() if each.kind == GOAWAY] == [b"\x7f\xff\xff\xff"]
    caller.says(request(3))  # it crossed the GOAWAY
    rig.tick(1.1)
    assert [each.payload[:4] for each in await caller.hears() if each.kind == GOAWAY] == [b"\x00\x00\x00\x03"]
    caller.says(request(5))
    assert (await caller.hears_on(5))[3] == Code.REFUSED_STREAM
    endpoint.says(frames.headers(1, ANSWER, True), frames.headers(3, ANSWER, True))
    assert {each.stream for each in await caller.hears() if each.kind == HEADERS} == {1, 3}
    rig.tick(2.2)
    assert caller.wire.is_closing()
    caller.wire.settle()
    assert rig.ended == [server]


@pytest.mark.parametrize("last", [b"", frame(HEADERS, 0, 1, encode(REQUEST)), frame(HEADERS, 5, 1)[:5]])
def test_a_caller_that_asks_nothing_or_never_finishes_asking_is_left(last: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller = await rig.caller()
        caller.says(last)
        rig.tick(IDLE_S - 1)
        assert await caller.hears() == []
        rig.tick(IDLE_S + 1)
        assert [each.kind for each in await caller.hears()] == [GOAWAY]
        assert bool(caller.wire.lost)
        assert not rig.asked

    run(conversation())


@on_loop
async def test_a_caller_that_goes_away_gives_up_all_its_requests() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(*[request(1 + 2 * each) for each in range(MAX_STREAMS)])
    endpoint = await rig.open_h2(max_concurrent_streams=MAX_STREAMS)
    await endpoint.hears()
    caller.wire.breaks()
    resets = [each for each in await endpoint.hears() if each.kind == RST_STREAM]
    assert len(resets) == MAX_STREAMS
    assert rig.pending == 0
    endpoint.says(*[frames.headers(1 + 2 * each, ANSWER, True) for each in range(MAX_STREAMS)])
    assert not endpoint.wire.is_closing()


@on_loop
async def test_a_connection_that_broke_the_protocol_is_not_kept_by_not_reading() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller(clogged=True)
    caller.says(request(1))
    endpoint = await rig.open_h2()
    caller.says(frame(DATA, 0, 0, b"x"))
    rig.tick(0.0)
    assert not bool(caller.wire.aborted)
    rig.tick(1.0)
    assert caller.wire.aborted
    caller.wire.settle()
    assert (await endpoint.hears_on(1))[3] == Code.CANCEL
    assert rig.pending == 0
    assert [bound for bound, _ in rig.refusals] == [Bound.MALFORMED]


@on_loop
async def test_what_is_no_content_does_not_wait_without_end_for_who_does_not_read() -> None:
    rig = H2Rig()
    caller = await rig.caller(clogged=True)
    caller.says(request(1))
    server = caller.wire.get_protocol()
    assert isinstance(server, Http2Server)
    for size, cut in ((MAX_UNSENT_BYTES // 2, False), (MAX_UNSENT_BYTES, True)):
        server._send(bytes(size))  # which many heads would be
        await caller.hears()
        assert bool(caller.wire.aborted) is cut
    assert [bound for bound, _ in rig.refusals] == [Bound.UNREAD]


@on_loop
async def test_a_request_whose_chunks_hold_nothing_says_so_on_the_way() -> None:
    """It goes out whole, as a head that ends its stream; the far side is to know that this is no accident."""
    rig = H2Rig(MESHED)
    caller = rig.call()
    caller.says(b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    endpoint = await rig.open_h2()
    fields, content, ended, _ = await endpoint.hears_on(1)
    assert (content, ended) == (b"", True)
    assert (b"content-length", b"0") in fields


@on_loop
async def test_interim_answers_without_end_are_no_answer() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(request(1))
    endpoint = await rig.open_h2()
    hints = frames.headers(1, encode([(b":status", b"103")]), False)
    endpoint.says(hints * MAX_INTERIM)
    fields, _, _, _ = await caller.hears_on(1)
    assert fields == [(b":status", b"103")] * MAX_INTERIM
    endpoint.says(hints)
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"502"
    assert (await endpoint.hears_on(1))[3] == Code.PROTOCOL_ERROR


async def silent(rig: H2Rig) -> tuple[Peer, Peer]:
    """A caller whose request waits, and its endpoint, which says nothing from now on."""
    caller = await rig.caller()
    caller.says(request(1))
    endpoint = await rig.open_h2()
    rig.tick(0.0)
    rig.tick(1.0)
    await endpoint.hears()
    return caller, endpoint


@on_loop
async def test_a_proxy_that_says_nothing_is_asked_whether_it_is_there_and_left_if_not() -> None:
    """As when its host lost power: TCP alone would take a quarter of an hour to notice."""
    rig = H2Rig(MESHED)
    caller, endpoint = await silent(rig)
    rig.tick(9.5)
    assert await endpoint.hears() == []
    rig.tick(10.5)
    assert await endpoint.hears() == [Frame(PING, 0, 0, bytes(8))]
    rig.tick(13.0)
    assert not endpoint.wire.is_closing()
    rig.tick(14.0)
    assert endpoint.wire.is_closing()
    endpoint.wire.settle()
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"504"
    assert rig.stats.errors == {("outbound", "http", Bound.SILENT): 1}
    assert rig.pending == 0


@on_loop
async def test_a_proxy_that_answers_or_has_nothing_to_answer_is_not_left() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await silent(rig)
    for second in (12, 25, 38, 51):
        rig.tick(second)
        assert Frame(PING, 0, 0, bytes(8)) in await endpoint.hears()
        endpoint.says(frame(PING, ACK, 0, bytes(8)))
        rig.tick(second + 1)
    endpoint.says(frames.headers(1, ANSWER, True))
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"200"
    for second in (52, 65, 78, 91):
        rig.tick(second)
    assert await endpoint.hears() == []


@on_loop
async def test_a_caller_that_says_nothing_while_it_is_answered_is_asked_now_and_then() -> None:
    """Endless answers (events, watches) would be kept for callers that are long gone."""
    rig = H2Rig(MESHED)
    caller, endpoint = await silent(rig)
    endpoint.says(frames.headers(1, ANSWER, False))
    await caller.hears()
    for second in (30, 58):
        rig.tick(second)
        endpoint.says(frame(PING, ACK, 0, bytes(8)))
    assert await caller.hears() == []
    rig.tick(62)
    assert await caller.hears() == [Frame(PING, 0, 0, bytes(8))]
    caller.says(frame(PING, ACK, 0, bytes(8)))
    for second in (63, 81, 100, 119):
        rig.tick(second)
        endpoint.says(frame(PING, ACK, 0, bytes(8)))
    assert not caller.wire.is_closing()
    rig.tick(125)
    assert await caller.hears() == [Frame(PING, 0, 0, bytes(8))]
    rig.tick(144)
    assert not caller.wire.is_closing()
    rig.tick(146)
    assert caller.wire.aborted
    caller.wire.settle()
    assert rig.pending == 0
    assert [bound for bound, _ in rig.refusals] == [Bound.SILENT]


@on_loop
async def test_an_application_is_not_asked_whether_it_is_there() -> None:
    """gRPC's servers take a PING in every 10 seconds for an attack, and go away."""
    rig = H2Rig(Endpoint("192.0.2.1", 80, protocol="grpc"))
    _, endpoint = await silent(rig)
    for second in (12, 25, 38):
        rig.tick(second)
    assert await endpoint.hears() == []


@on_loop
async def test_more_streams_than_a_connection_has_room_for_open_another() -> None:
    rig = H2Rig(MESHED)
    caller = await rig.caller()
    caller.says(*[request(1 + 2 * each) for each in range(7)])
    first = await rig.open_h2(max_concurrent_streams=3)
    assert len([each for each in await first.hears() if each.kind == HEADERS]) == 3
    assert len(rig.asked) == 4
    second = await rig.open_h2(max_concurrent_streams=4)
    assert len([each for each in await second.hears() if each.kind == HEADERS]) == 4
    assert not rig.asked
