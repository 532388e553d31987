"""Each bound has a word, under which going beyond it is counted."""

from collections.abc import Callable

import pytest

from proxy.errors import Bound
from proxy.exchange import MAX_INTERIM
from proxy.http1.heads import MAX_FIELDS, MAX_HEAD_BYTES
from proxy.http1.server import HEAD_S
from proxy.http2 import frames
from proxy.http2.engine import MAX_CONTINUATIONS, MAX_IDLE_FRAMES, MAX_RESETS, MAX_SETTINGS, MAX_STREAMS, STREAM_WINDOW
from proxy.http2.fields import encode
from proxy.http2.frames import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    SETTINGS,
    Code,
    Setting,
    frame,
    rst_stream,
    window_update,
)
from tests.support.aio import run
from tests.support.exchanges import Rig
from tests.support.h2 import REQUEST, data, request, settings
from tests.support.h2exchanges import H2Rig

FLOODS: list[tuple[str, Bound, bytes]] = [
    ("PING", Bound.PING, frame(PING, 0, 0, bytes(8)) * (MAX_IDLE_FRAMES + 1)),
    ("SETTINGS", Bound.SETTINGS, settings() * (MAX_IDLE_FRAMES + 1)),
    ("long SETTINGS", Bound.SETTINGS, frame(SETTINGS, 0, 0, bytes(6) * (MAX_SETTINGS + 1))),
    ("PRIORITY", Bound.FRAMES, frame(PRIORITY, 0, 1, bytes(5)) * (MAX_IDLE_FRAMES + 1)),
    ("empty DATA", Bound.FRAMES, request(1, False) + frame(DATA, 0, 1) * (MAX_IDLE_FRAMES + 1)),
    ("CONTINUATION", Bound.CONTINUATION, frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1)),
    (
        "rapid reset",
        Bound.RESETS,
        b"".join(request(1 + 2 * n) + rst_stream(1 + 2 * n, Code.CANCEL) for n in range(MAX_RESETS + 1)),
    ),
    ("broken block", Bound.COMPRESSION, request(1, True, b"\x80")),
    ("HPACK bomb", Bound.HEAD_SIZE, request(1, True, encode([*REQUEST, *[(b"x", b"y" * 100)] * 600]))),
    ("connection window", Bound.WINDOW, window_update(0, 2**31 - 1)),
    ("initial window", Bound.WINDOW, frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31})),
    ("stream window", Bound.WINDOW, request(1, False) + data(1, b"x" * (STREAM_WINDOW + 1), False)),
    ("the whole window", Bound.WINDOW, b"".join(request(1 + 2 * n, False) for n in range(40))
        + b"".join(data(1 + 2 * n, b"x" * STREAM_WINDOW) for n in range(40))),
    ("interrupted block", Bound.MALFORMED, frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8))),
    ("length against content", Bound.MALFORMED, request(
        1, False, encode([(b":method", b"POST"), *REQUEST[1:], (b"content-length", b"1")])) + data(1, b"xx")),
]  # fmt: skip


@pytest.mark.parametrize(("bound", "sent"), [flood[1:] for flood in FLOODS], ids=[flood[0] for flood in FLOODS])
def test_of_http2(bound: Bound, sent: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig()
        caller = await rig.caller()
        caller.says(sent)
        assert [found for found, _ in rig.refusals] == [bound]

    run(conversation())


def test_streams_beyond_those_allowed_are_counted_one_by_one_and_as_resets() -> None:
    async def conversation() -> None:
        rig = H2Rig()
        caller = await rig.caller()
        numbers = range(1, 2 * (MAX_STREAMS + MAX_RESETS), 2)
        caller.says(*[request(number) for number in numbers])
        assert [found for found, _ in rig.refusals] == [Bound.STREAMS] * MAX_RESETS
        caller.says(request(numbers.stop + 1))
        assert [found for found, _ in rig.refusals[MAX_RESETS:]] == [Bound.STREAMS, Bound.RESETS]
        assert caller.wire.is_closing()

    run(conversation())


def slow_head(rig: Rig) -> None:
    rig.call().says(b"GET / HT")
    rig.tick(HEAD_S + 1)


HTTP1: list[tuple[str, Bound, Callable[[Rig], None]]] = [
    ("long head", Bound.HEAD_SIZE, lambda rig: rig.call().says(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES)),
    ("slow head", Bound.HEAD_TIME, slow_head),
    ("two lengths", Bound.MALFORMED, lambda rig: rig.call().says(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")),
    ("bad chunk", Bound.MALFORMED, lambda rig: rig.call().says(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")),
]  # fmt: skip


@pytest.mark.parametrize(("bound", "attack"), [each[1:] for each in HTTP1], ids=[each[0] for each in HTTP1])
def test_of_http1(bound: Bound, attack: Callable[[Rig], None]) -> None:
    rig = Rig()
    attack(rig)
    assert [found for found, _ in rig.refusals] == [bound]


def test_of_http1_in_the_midst_of_an_answer() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    rig.open().says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    caller.says(b"x\r\n")
    assert caller.aborted
    assert [found for found, _ in rig.refusals] == [Bound.MALFORMED]


# --- what endpoints do

OF_HTTP1 = {
    "no HTTP": (Bound.ANSWER, b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "two framings": (Bound.ANSWER, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "interim answers without end": (Bound.ANSWER, b"HTTP/1.1 103 Hints\r\n\r\n" * (MAX_INTERIM + 1)),
    "an endless head": (Bound.ANSWER_SIZE, b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES),
    "many fields": (Bound.ANSWER_SIZE, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_FIELDS + 1) + b"\r\n"),
}


@pytest.mark.parametrize(("bound", "answer"), OF_HTTP1.values(), ids=OF_HTTP1.keys())
def test_of_an_endpoint_of_http1(bound: Bound, answer: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    rig.open().says(answer)
    assert b"HTTP/1.1 502 " in caller.heard()
    assert rig.stats.errors == {("outbound", "http", bound): 1}
    assert rig.refusals == [], "the caller did nothing"


ANSWERED = frames.headers(1, encode([(b":status", b"200")]), False)
OF_HTTP2 = {
    "no status": (Bound.ANSWER, frames.headers(1, encode([(b"a", b"b")]), True)),
    "a large head": (
        Bound.ANSWER_SIZE,
        frames.headers(1, encode([(b":status", b"200"), *[(b"x", b"y" * 100)] * 600]), True),
    ),
    "PING": (Bound.ENDPOINT, frame(PING, 0, 0, bytes(8)) * (MAX_IDLE_FRAMES + 1)),
    "a broken block": (Bound.ENDPOINT, frames.headers(1, b"\x80", True)),
    "a window beyond all bounds": (Bound.ENDPOINT, window_update(0, 2**31 - 1)),
    "a stream's window beyond all bounds": (Bound.ENDPOINT, window_update(1, 2**31 - 1)),
    "more than it may send": (Bound.ENDPOINT, ANSWERED + data(1, b"x" * (2 * STREAM_WINDOW))),
    "a stream that it opens": (Bound.ENDPOINT, frames.headers(2, encode([(b":status", b"200")]), True)),
}


@pytest.mark.parametrize(("bound", "answer"), OF_HTTP2.values(), ids=OF_HTTP2.keys())
def test_of_an_endpoint_of_http2(bound: Bound, answer: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig()
        caller = await rig.caller(initial_window_size=0)
        caller.says(request(1))
        endpoint = await rig.open_h2()
        endpoint.says(answer)
        fields, _, _, code = await caller.hears_on(1)
        assert code is not None or dict(fields)[b":status"] == b"502"
        assert rig.stats.errors == {("outbound", "http", bound): 1}
        assert rig.refusals == []
        assert rig.pending == 0

    run(conversation())
