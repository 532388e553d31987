"""One end of an HTTP/2 connection against a peer that keeps to the protocol barely, or not at all."""

import tracemalloc

import pytest

from proxy.http2 import frames
from proxy.http2.engine import (
    CONNECTION_WINDOW,
    LARGE_BYTES,
    MAX_BLOCK_BYTES,
    MAX_CONTINUATIONS,
    MAX_IDLE_FRAMES,
    MAX_RESETS,
    MAX_SETTINGS,
    MAX_STREAMS,
    OUR_MAX_FRAME_BYTES,
    STREAM_WINDOW,
    ProtocolError,
)
from proxy.http2.fields import encode
from proxy.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    Setting,
    frame,
    goaway,
    rst_stream,
    window_update,
)
from tests.support.h2 import ANSWER, BLOCK, End, Frame, byte_by_byte, client, data, frames_of, request, server, settings


def kinds(found: list[Frame]) -> list[tuple[int, int]]:
    return [(each.kind, each.stream) for each in found]


def fails(end: End, sent: bytes) -> Code:
    """The code with which the connection ends when sent arrives."""
    with pytest.raises(ProtocolError) as failed:
        end.receive(sent)
    end.fail(failed.value)
    last = end.heard()[-1]
    assert last.kind == GOAWAY
    assert int.from_bytes(last.payload[4:8], "big") == failed.value.code
    return failed.value.code


# --- malformed connections: RFC 9113, sections 3.4, 4, 5.1 and 6

SHORT = b"abc"
REFUSED_BY_SERVER: list[tuple[str, bytes, Code]] = [
    ("DATA on stream 0", frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    ("DATA on a stream of ours", frame(DATA, 0, 2, b"x"), Code.PROTOCOL_ERROR),
    ("DATA with too much padding", request(1, False) + frame(DATA, PADDED, 1, b"\x05abcd"), Code.PROTOCOL_ERROR),
    ("DATA with padding and nothing", request(1, False) + frame(DATA, PADDED, 1), Code.PROTOCOL_ERROR),
    ("DATA on a closed stream", request(1, False) + rst_stream(1, Code.CANCEL) + frame(DATA, 0, 1), Code.STREAM_CLOSED),
    ("HEADERS on stream 0", request(0), Code.PROTOCOL_ERROR),
    ("HEADERS on an even stream", request(2), Code.PROTOCOL_ERROR),
    ("HEADERS going backwards", request(3) + request(1), Code.STREAM_CLOSED),
    ("HEADERS with too much padding", frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09" + BLOCK), Code.PROTOCOL_ERROR),
    ("HEADERS too short for a priority", frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"1234"), Code.FRAME_SIZE_ERROR),
    ("HEADERS that are no HPACK", frame(HEADERS, END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
    ("HEADERS and then something else", frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    ("HEADERS and an unknown frame", frame(HEADERS, 0, 1, BLOCK) + frame(99, 0, 0), Code.PROTOCOL_ERROR),
    ("CONTINUATION of another", frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 4, 3), Code.PROTOCOL_ERROR),
    ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, BLOCK), Code.PROTOCOL_ERROR),
    ("CONTINUATION after the end", request(1, False) + frame(CONTINUATION, END_HEADERS, 1), Code.PROTOCOL_ERROR),
    ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    ("PRIORITY of 3 bytes", frame(PRIORITY, 0, 1, SHORT), Code.FRAME_SIZE_ERROR),
    ("RST_STREAM on stream 0", rst_stream(0, Code.CANCEL), Code.PROTOCOL_ERROR),
    ("RST_STREAM on an idle stream", rst_stream(1, Code.CANCEL), Code.PROTOCOL_ERROR),
    ("RST_STREAM of 3 bytes", request(1) + frame(RST_STREAM, 0, 1, SHORT), Code.FRAME_SIZE_ERROR),
    ("SETTINGS on a stream", frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    ("SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, SHORT), Code.FRAME_SIZE_ERROR),
    ("an acknowledgement with content", frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    ("a window beyond 2^31-1", settings(initial_window_size=2**31), Code.FLOW_CONTROL_ERROR),
    ("a frame size of 16383", settings(max_frame_size=16_383), Code.PROTOCOL_ERROR),
    ("a frame size of 2^24", settings(max_frame_size=1 << 24), Code.PROTOCOL_ERROR),
    ("a push that is neither 0 nor 1", settings(enable_push=2), Code.PROTOCOL_ERROR),
    ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + BLOCK), Code.PROTOCOL_ERROR),
    ("PING on a stream", frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    ("PING of 3 bytes", frame(PING, 0, 0, SHORT), Code.FRAME_SIZE_ERROR),
    ("GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    ("GOAWAY of 3 bytes", frame(GOAWAY, 0, 0, SHORT), Code.FRAME_SIZE_ERROR),
    ("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, SHORT), Code.FRAME_SIZE_ERROR),
    ("WINDOW_UPDATE of 0", window_update(0, 0), Code.PROTOCOL_ERROR),
    ("WINDOW_UPDATE beyond 2^31-1", window_update(0, MAX_WINDOW), Code.FLOW_CONTROL_ERROR),
    ("WINDOW_UPDATE on an idle stream", window_update(1, 1), Code.PROTOCOL_ERROR),
    ("DATA that is too large", b"\x04\x00\x01" + b"\x00" * 6, Code.FRAME_SIZE_ERROR),
    ("another frame that is too large", b"\x01\x00\x01\x01" + b"\x00" * 5, Code.FRAME_SIZE_ERROR),
]


@pytest.mark.parametrize(("what", "sent", "code"), REFUSED_BY_SERVER, ids=[each[0] for each in REFUSED_BY_SERVER])
def test_a_broken_connection_ends_and_says_why(what: str, sent: bytes, code: Code) -> None:
    assert fails(server(), sent) == code
    end = server()
    with pytest.raises(ProtocolError):
        byte_by_byte(end, sent)


REFUSED_BY_CLIENT: list[tuple[str, bytes, Code]] = [
    ("an answer to nothing", frames.headers(3, ANSWER, True), Code.PROTOCOL_ERROR),
    ("a stream of the server's", frames.headers(2, ANSWER, True), Code.PROTOCOL_ERROR),
    ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + BLOCK), Code.PROTOCOL_ERROR),
    ("a server that allows pushes", settings(enable_push=1), Code.PROTOCOL_ERROR),
    ("DATA on an idle stream", frame(DATA, 0, 3), Code.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("what", "sent", "code"), REFUSED_BY_CLIENT, ids=[each[0] for each in REFUSED_BY_CLIENT])
def test_a_server_that_breaks_the_protocol_is_left(what: str, sent: bytes, code: Code) -> None:
    end = client()
    end.ask()
    assert fails(end, sent) == code


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", PREFACE + request(1)])
def test_a_connection_begins_with_the_preface_and_settings(sent: bytes) -> None:
    assert fails(End(), sent) == Code.PROTOCOL_ERROR


def test_an_acknowledgement_is_no_beginning() -> None:
    assert fails(End(), PREFACE + frames.SETTINGS_ACK) == Code.PROTOCOL_ERROR


# --- malformed streams: the stream ends, the connection does not


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(1) + data(1, b"x"), Code.STREAM_CLOSED),
        (request(1) + request(1), Code.STREAM_CLOSED),
        (request(1) + window_update(1, 0), Code.PROTOCOL_ERROR),
        (request(1) + window_update(1, MAX_WINDOW), Code.FLOW_CONTROL_ERROR),
    ],
)
def test_a_broken_stream_is_reset(sent: bytes, code: Code) -> None:
    end = server()
    end.receive(sent + request(3))
    assert Frame(RST_STREAM, 0, 1, code.to_bytes(4, "big")) in end.heard()
    assert end.told[1].reset_with == code
    assert list(end.streams) == [3]


def test_more_than_a_stream_s_window_resets_it() -> None:
    end = server()
    end.receive(request(1, ended=False) + request(3, ended=False))
    end.told[1].hold()
    end.receive(data(1, bytes(STREAM_WINDOW)))
    assert list(end.streams) == [1, 3]
    end.receive(data(1, b"x"))
    assert end.told[1].reset_with == Code.FLOW_CONTROL_ERROR
    assert list(end.streams) == [3]


# --- what is let be


def test_what_is_unknown_or_obsolete_is_ignored() -> None:
    end = server()
    end.receive(frame(99, 0xFF, 7, b"grease") + frame(PRIORITY, 0, 9, bytes(5)) + frames.settings({}))
    end.receive(frame(SETTINGS, 0, 0, b"\x0a\x0a\x00\x00\x00\x01"))
    assert kinds(end.heard()) == [(SETTINGS, 0), (SETTINGS, 0)]
    padded = frame(HEADERS, END_HEADERS | END_STREAM | PADDED | HAS_PRIORITY, 1, b"\x03" + bytes(5) + BLOCK + bytes(3))
    end.receive(padded)
    assert end.told[1].ended


def test_frames_that_crossed_a_reset_are_let_be_for_every_stream_there_may_be() -> None:
    """A caller that goes away resets all its streams at once, and their answers are on their way."""
    end = client(max_concurrent_streams=MAX_STREAMS)
    streams = [end.ask() for _ in range(MAX_STREAMS)]
    for stream in streams:
        stream.reset(Code.CANCEL)
    for stream in streams:
        end.receive(frames.headers(stream.number, ANSWER, False) + data(stream.number, bytes(1000), True))
    assert not any(stream.body for stream in streams)
    assert end.ask().number == 2 * MAX_STREAMS + 1


def test_the_table_stays_in_step_with_blocks_that_nobody_wants() -> None:
    end = client()
    unwanted, wanted = end.ask(), end.ask()
    unwanted.reset(Code.CANCEL)
    end.receive(frames.headers(unwanted.number, b"\x88\x40\x01a\x01b", False))
    end.receive(frames.headers(wanted.number, b"\x88\xbe", True))
    assert wanted.heads == [[(b":status", b"200"), (b"a", b"b")]]


def test_a_ping_is_answered_and_an_answered_one_is_not() -> None:
    end = server()
    end.receive(frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"87654321"))
    assert end.heard() == [Frame(PING, ACK, 0, b"12345678")]


# --- floods


IDLE_FRAMES = {
    "SETTINGS": settings(initial_window_size=1),
    "PING": frame(PING, 0, 0, bytes(8)),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "empty DATA": frame(DATA, 0, 1),
    "padding alone": frame(DATA, PADDED, 1, b"\x00"),
    "RST_STREAM of closed streams": rst_stream(3, Code.CANCEL),
    "WINDOW_UPDATE of closed streams": window_update(3, 1),
    "GOAWAY": goaway(0, Code.NO_ERROR),
    "unknown": frame(200, 0, 0),
}


@pytest.mark.parametrize("sent", IDLE_FRAMES.values(), ids=IDLE_FRAMES.keys())
def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(sent: bytes) -> None:
    end = server()
    end.receive(request(1, False) + request(3))
    end.told[3].send_headers(ANSWER, True)
    end.receive(sent * MAX_IDLE_FRAMES)
    end.calm()  # about a second later
    end.receive(sent * MAX_IDLE_FRAMES)
    assert len(end.said()) <= 2 * MAX_IDLE_FRAMES * 20 + 100
    assert fails(end, sent) == Code.ENHANCE_YOUR_CALM


def test_rapid_reset_ends_the_connection() -> None:
    end = server()
    number = 1
    for _ in range(MAX_RESETS):
        end.receive(request(number) + rst_stream(number, Code.CANCEL))
        number += 2
    assert not end.streams
    assert fails(end, request(number) + rst_stream(number, Code.CANCEL)) == Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("lure", [window_update, lambda number, _: data(number, b"x")])
def test_to_have_us_reset_streams_is_a_rapid_reset_too(lure: object) -> None:
    """ "MadeYouReset": the peer breaks the protocol on a stream as soon as it has asked something on it."""
    assert callable(lure)
    end = server()
    number = 1
    for _ in range(MAX_RESETS):
        end.receive(request(number) + lure(number, 0))
        number += 2
    assert not end.streams
    assert fails(end, request(number) + lure(number, 0)) == Code.ENHANCE_YOUR_CALM


def test_all_streams_of_a_peer_may_be_given_up_at_once() -> None:
    """As by our own client when a caller goes away: its other streams must live on."""
    end = server()
    end.receive(b"".join(request(number) for number in range(1, 2 * MAX_STREAMS, 2)))
    end.receive(b"".join(rst_stream(number, Code.CANCEL) for number in range(1, 2 * MAX_STREAMS, 2)))
    assert not end.streams


def test_a_flood_of_continuations_ends_the_connection() -> None:
    end = server()
    end.receive(frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1) * (MAX_CONTINUATIONS - 1))
    assert fails(end, frame(CONTINUATION, 0, 1)) == Code.ENHANCE_YOUR_CALM
    end = server()
    end.receive(frame(HEADERS, 0, 1, bytes(16_384)) + frame(CONTINUATION, 0, 1, bytes(16_384)) * 3)
    assert fails(end, frame(CONTINUATION, 0, 1, b"x")) == Code.ENHANCE_YOUR_CALM
    assert MAX_BLOCK_BYTES == 4 * 16_384


def test_settings_of_many_values_end_the_connection() -> None:
    """Each may cost a look at every stream."""
    one = frames.settings({Setting.INITIAL_WINDOW_SIZE: 1})[9:]
    end = server()
    end.receive(frame(SETTINGS, 0, 0, one * MAX_SETTINGS))
    assert fails(end, frame(SETTINGS, 0, 0, one * (MAX_SETTINGS + 1))) == Code.ENHANCE_YOUR_CALM


def test_no_more_streams_than_announced() -> None:
    end = End()
    assert Setting.MAX_CONCURRENT_STREAMS.to_bytes(2, "big") + MAX_STREAMS.to_bytes(4, "big") in end.heard()[0].payload
    end.receive(PREFACE + settings() + b"".join(request(2 * each + 1, False) for each in range(MAX_STREAMS + 3)))
    refused = [each.stream for each in end.heard() if each.kind == RST_STREAM]
    assert refused == [2 * MAX_STREAMS + 1, 2 * MAX_STREAMS + 3, 2 * MAX_STREAMS + 5]
    end.receive(data(refused[0], b"on its way already"))


# --- flow control


def sent_data(found: list[Frame]) -> bytes:
    return b"".join(each.payload for each in found if each.kind == DATA)


def test_nothing_is_sent_beyond_the_stream_s_window() -> None:
    end = server(initial_window_size=10)
    end.receive(request(1))
    stream = end.told[1]
    stream.send_headers(ANSWER, False)
    stream.send_data(b"0123456789abcdef", False)
    stream.send_data(b"ghij", True)
    assert sent_data(end.heard()) == b"0123456789"
    assert bool(stream.full)
    end.receive(window_update(1, 4))
    assert sent_data(end.heard()) == b"abcd"
    end.receive(settings(initial_window_size=0))  # 10 less than nothing
    end.receive(window_update(1, 10))
    assert sent_data(end.heard()) == b""
    end.receive(window_update(1, 100))
    last = [each for each in end.heard() if each.kind == DATA]
    assert sent_data(last) == b"efghij"
    assert [bool(each.flags & END_STREAM) for each in last] == [False] * (len(last) - 1) + [True]
    assert not stream.full
    assert not end.streams


def test_a_window_of_0_lets_an_end_through() -> None:
    end = server(initial_window_size=0)
    end.receive(request(1) + request(3))
    end.told[1].send_headers(ANSWER, False)
    end.told[1].send_data(b"", True)
    end.told[3].send_headers(ANSWER, False)
    end.told[3].send_headers(encode([(b"grpc-status", b"0")]), True)
    assert not end.streams
    assert [each.flags & END_STREAM for each in end.heard()] == [0, 1, 0, 1]


def test_streams_share_the_connection_s_window_in_turn() -> None:
    end = server(initial_window_size=1 << 20)
    end.receive(request(1) + request(3) + request(5))
    for stream in end.told.values():
        stream.send_headers(ANSWER, False)
        stream.send_data(bytes(50_000), True)
    got = dict.fromkeys(end.told, 0)
    for each in end.heard():
        if each.kind == DATA:
            got[each.stream] += len(each.payload)
    assert sum(got.values()) == 65_535
    while end.streams:
        end.receive(window_update(0, 1000))
        found = end.heard()
        assert len(sent_data(found)) in (1000, 150_000 - sum(got.values()))
        for each in found:
            got[each.stream] += len(each.payload)
    assert set(got.values()) == {50_000}


def test_nothing_is_sent_while_the_transport_is_full() -> None:
    end = server()
    end.receive(request(1) + request(3))
    end.pause()
    for stream in end.told.values():
        stream.send_headers(ANSWER, False)
        stream.send_data(b"content", True)
    assert sent_data(end.heard()) == b""
    end.receive(window_update(0, 1) + window_update(1, 1) + settings(initial_window_size=100_000))
    assert sent_data(end.heard()) == b""
    end.unpause()
    assert sent_data(end.heard()) == b"contentcontent"


def test_frames_are_no_larger_than_the_peer_takes() -> None:
    end = server(max_frame_size=20_000)
    end.receive(request(1) + window_update(0, 100_000) + window_update(1, 100_000))
    end.told[1].send_headers(encode([(b":status", b"200"), (b"x", b"v" * 50_000)]), False)
    end.told[1].send_data(bytes(70_000), True)
    found = end.heard()
    assert [(each.kind, len(each.payload)) for each in found if each.kind == DATA] == [
        (DATA, 20_000), (DATA, 20_000), (DATA, 20_000), (DATA, 10_000)
    ]  # fmt: skip
    assert [each.kind for each in found[:3]] == [HEADERS, CONTINUATION, CONTINUATION]
    assert max(len(each.payload) for each in found) == 20_000


def test_a_held_stream_stops_at_its_window_while_others_go_on() -> None:
    end = server()
    end.receive(request(1, False) + request(3, False))
    end.told[1].hold()
    end.receive(data(1, bytes(STREAM_WINDOW)))
    assert all(each.stream != 1 for each in end.heard())
    for _ in range(40):  # 10 MB, many times the connection's window
        end.receive(data(3, bytes(STREAM_WINDOW // 2)))
        end.receive(data(3, bytes(STREAM_WINDOW // 2)))
        granted = sum(
            int.from_bytes(each.payload, "big")
            for each in end.heard()
            if each.kind == WINDOW_UPDATE and each.stream == 3
        )
        assert granted == STREAM_WINDOW
    assert len(end.told[3].body) == 40 * STREAM_WINDOW
    end.told[1].release()
    assert end.heard() == [Frame(WINDOW_UPDATE, 0, 1, STREAM_WINDOW.to_bytes(4, "big"))]


def test_streams_that_are_held_do_not_use_up_the_connection_s_window() -> None:
    """Else as many of them as fit into it would stop all others."""
    end = server()
    streams = CONNECTION_WINDOW // STREAM_WINDOW + 1
    for number in range(1, 2 * streams, 2):
        end.receive(request(number, False))
        end.told[number].hold()
        end.receive(data(number, bytes(STREAM_WINDOW)))
    granted = sum(int.from_bytes(each.payload, "big") for each in end.heard() if each.kind == WINDOW_UPDATE)
    assert granted >= CONNECTION_WINDOW // 2
    assert len(end.streams) == streams


def test_padding_counts_and_comes_back() -> None:
    end = server()
    end.receive(request(1, False))
    granted = 0
    for _ in range(STREAM_WINDOW // 256 * 3):
        end.receive(frame(DATA, PADDED, 1, b"\xfe" + b"x" + bytes(254)))
        granted += sum(int.from_bytes(each.payload, "big") for each in end.heard() if each.stream == 1)
    assert granted >= 2 * STREAM_WINDOW
    assert len(end.told[1].body) == STREAM_WINDOW // 256 * 3


def test_what_comes_for_streams_that_are_gone_comes_back_to_the_connection() -> None:
    end = client()
    stream = end.ask()
    stream.reset(Code.CANCEL)
    end.said()
    granted = 0
    for _ in range(1000):
        end.receive(data(stream.number, bytes(16_384)))
        granted += sum(int.from_bytes(each.payload, "big") for each in end.heard() if each.kind == WINDOW_UPDATE)
    assert granted >= 1000 * 16_384 - CONNECTION_WINDOW


# --- the end of a connection


def test_numbers_are_used_up_in_the_end() -> None:
    end = client()
    end.receive(settings(max_concurrent_streams=1000))
    end._next = MAX_WINDOW
    assert not end.exhausted
    assert end.ask().number == MAX_WINDOW
    assert end.exhausted


def test_a_drain_takes_what_is_on_its_way() -> None:
    end = server()
    end.receive(request(1))
    end.go_away(final=False)
    assert end.heard() == [Frame(GOAWAY, 0, 0, MAX_WINDOW.to_bytes(4, "big") + bytes(4))]
    end.receive(request(3))
    assert 3 in end.streams
    end.go_away(final=True)
    assert end.heard() == [Frame(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))]


def test_what_a_server_that_goes_away_has_not_seen_may_be_asked_again() -> None:
    end = client()
    streams = [end.ask() for _ in range(4)]
    end.receive(goaway(MAX_WINDOW, Code.NO_ERROR))
    assert end.going_away
    assert all(stream.reset_with is None for stream in streams)
    end.receive(goaway(3, Code.NO_ERROR, b"why"))
    assert [stream.unprocessed for stream in streams] == [False, False, True, True]
    assert list(end.streams) == [1, 3]
    end.receive(frames.headers(3, ANSWER, True))
    assert streams[1].ended


def test_a_refused_stream_may_be_asked_again_and_another_reset_may_not() -> None:
    end = client()
    refused, cancelled = end.ask(), end.ask()
    end.receive(rst_stream(1, Code.REFUSED_STREAM) + rst_stream(3, Code.INTERNAL_ERROR))
    assert (refused.unprocessed, cancelled.unprocessed) == (True, False)


def test_memory_is_flat_while_a_gigabyte_goes_by() -> None:
    """A relay from one end to another, whose peer reads slowly: what waits is bounded by the windows."""
    end = client()
    stream = end.ask()
    end.receive(frames.headers(1, ANSWER, False))
    out = server(initial_window_size=1 << 16)
    out.receive(request(1))
    onward = out.told[1]
    onward.send_headers(ANSWER, False)
    piece = data(1, bytes(16_384)) * 8
    window, waiting = STREAM_WINDOW, 0
    tracemalloc.start()
    for _ in range(8192):  # of 128 KiB
        while window < 8 * 16_384:
            out.receive(window_update(1, 60_000) + window_update(0, 60_000))
            out.said()
            if not onward.queue:
                stream.release()
            window += sum(int.from_bytes(each.payload, "big") for each in end.heard() if each.stream == 1)
        window -= 8 * 16_384
        end.receive(piece)
        content, stream.body = bytes(stream.body), bytearray()
        onward.send_data(content, False)
        if onward.queue:
            stream.hold()
        waiting = max(waiting, sum(map(len, onward.queue)))
        window += sum(int.from_bytes(each.payload, "big") for each in end.heard() if each.stream == 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert waiting <= 2 * STREAM_WINDOW
    assert peak < 4 << 20


def test_bytes_may_come_in_any_pieces() -> None:
    sent = PREFACE + settings(initial_window_size=5) + request(1, False) + data(1, b"a" * 300) + data(1, b"b", True)
    sent += frame(HEADERS, END_STREAM, 3, BLOCK[:3]) + frame(CONTINUATION, END_HEADERS, 3, BLOCK[3:])
    sent += frame(PING, 0, 0, bytes(8)) + window_update(3, 9) + rst_stream(3, Code.CANCEL)
    whole = End()
    whole.receive(sent)
    for size in (1, 2, 3, 7, 9, 10, 24, 25, 100):
        end = End()
        for at in range(0, len(sent), size):
            end.receive(sent[at : at + size])
        assert end.said() == b"".join(whole.out)
        assert [(each.heads, each.body, each.ended, each.reset_with) for each in end.told.values()] == [
            (each.heads, each.body, each.ended, each.reset_with) for each in whole.told.values()
        ]
    assert frames_of(b"".join(whole.out))


# --- large content -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
def test_a_large_frame_is_passed_on_as_it_comes(ended: bool) -> None:
    end = server()
    end.receive(request(1, ended=False))
    content = bytes(range(256)) * (OUR_MAX_FRAME_BYTES // 256)
    sent = frame(DATA, END_STREAM if ended else 0, 1, content) + request(3)
    end.receive(sent[: LARGE_BYTES + 9])
    stream = end.told[1]
    assert (len(stream.body), stream.ended) == (LARGE_BYTES, False)
    end.receive(sent[LARGE_BYTES + 9 : 100_000])
    assert (len(stream.body), stream.ended) == (100_000 - 9, False)
    end.receive(sent[100_000:])
    assert (bytes(stream.body), stream.ended) == (content, ended)
    assert end.told[3].ended  # what comes behind it is found


def test_a_large_frame_that_comes_byte_by_byte_is_not_kept_whole() -> None:
    end = server()
    end.receive(request(1, ended=False))
    for byte in frame(DATA, 0, 1, bytes(LARGE_BYTES + 100))[: LARGE_BYTES + 20]:
        end.receive(bytes([byte]))
    assert len(end.told[1].body) == LARGE_BYTES + 11


def test_the_rest_of_a_large_frame_on_a_stream_that_was_given_up_is_let_pass() -> None:
    end = server()
    end.receive(request(1, ended=False))
    sent = frame(DATA, END_STREAM, 1, bytes(3 * LARGE_BYTES))
    end.receive(sent[: 2 * LARGE_BYTES])
    end.told[1].reset(Code.CANCEL)
    end.receive(sent[2 * LARGE_BYTES :] + request(3))
    assert end.told[3].ended


def test_a_window_is_kept_within_a_frame_too() -> None:
    end = server()
    end.receive(request(1, ended=False))
    end.told[1].hold()
    end.receive(frame(DATA, 0, 1, bytes(OUR_MAX_FRAME_BYTES)) * (STREAM_WINDOW // OUR_MAX_FRAME_BYTES))
    end.receive(frame(DATA, 0, 1, bytes(2 * LARGE_BYTES))[: LARGE_BYTES + 9])
    assert [(each.kind, each.stream) for each in end.heard() if each.kind == RST_STREAM] == [(RST_STREAM, 1)]


def test_padded_content_is_taken_whole() -> None:
    end = server()
    end.receive(request(1, ended=False))
    sent = frame(DATA, PADDED, 1, b"\x05" + bytes(2 * LARGE_BYTES) + bytes(5))
    end.receive(sent[:-1])
    assert not end.told[1].body
    end.receive(sent[-1:])
    assert len(end.told[1].body) == 2 * LARGE_BYTES


def test_large_content_is_sent_uncopied_between_frames_that_are_joined() -> None:
    end = client()
    stream = end.ask(ended=False)
    content = bytes(LARGE_BYTES)
    stream.send_data(content, False)
    assert end.large
    assert any(piece is content for piece in end.out)
    stream.send_data(b"small", True)
    assert [(each.kind, len(each.payload)) for each in end.heard()][-2:] == [(DATA, LARGE_BYTES), (DATA, 5)]


# --- small content, much of it -------------------------------------------------------------------------------------


def test_frames_of_one_stream_that_come_together_are_passed_on_together() -> None:
    end = server()
    end.receive(request(1, ended=False) + request(3, ended=False))
    end.receive(
        b"".join(
            (
                frame(DATA, 0, 1, b"a"),
                frame(DATA, 0, 1, b"b"),
                frame(DATA, 0, 3, b"c"),
                frame(DATA, 0, 3, b"d"),
                frame(DATA, PADDED, 3, b"\x01ee"),
                frame(DATA, 0, 1, b"f"),
                frame(DATA, END_STREAM, 1, b"g"),
                frame(DATA, 0, 3, b"h"),
                frame(DATA, 0, 3),
                frame(DATA, 0, 3, b"i"),
                frame(DATA, END_STREAM, 3),
            )
        )
    )
    one, three = end.told[1], end.told[3]
    assert (one.pieces, one.ended) == ([b"ab", b"fg"], True)
    assert (three.pieces, three.ended) == ([b"cd", b"e", b"h", b"", b"i", b""], True)


def test_nothing_may_follow_the_end_of_a_stream_among_frames_that_come_together() -> None:
    end = server()
    end.receive(request(1, ended=False))
    end.receive(frame(DATA, 0, 1, b"a") + frame(DATA, END_STREAM, 1, b"b") + frame(DATA, 0, 1, b"c"))
    assert end.told[1].body == b"ab"
    last = end.heard()[-1]
    assert (last.kind, last.stream, last.payload[-1]) == (RST_STREAM, 1, Code.STREAM_CLOSED)


def test_windows_count_all_frames_that_come_together() -> None:
    end = server()
    end.receive(request(1, ended=False))
    end.told[1].hold()
    end.receive(frame(DATA, 0, 1, bytes(1000)) * (STREAM_WINDOW // 1000))
    assert not [each for each in end.heard() if each.kind == RST_STREAM]
    end.receive(frame(DATA, 0, 1, bytes(1000)) * 2)
    assert [each.stream for each in end.heard() if each.kind == RST_STREAM] == [1]
