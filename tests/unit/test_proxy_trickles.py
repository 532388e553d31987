"""What comes byte by byte costs in proportion to its bytes: nothing is looked at, or copied, once for each of them."""

from collections.abc import Callable

from proxy.http1.heads import MAX_HEAD_BYTES
from proxy.http2 import frames
from proxy.http2.engine import MAX_IDLE_FRAMES, MAX_SETTINGS, MAX_STREAMS, OUR_MAX_FRAME_BYTES, STREAM_WINDOW
from proxy.http2.fields import encode
from proxy.http2.frames import DATA, END_STREAM, MAX_WINDOW, PADDED, SETTINGS, Setting, window_update
from tests.support.exchanges import Rig
from tests.support.growth import TIMES, assert_proportional
from tests.support.h2 import ANSWER, REQUEST, byte_by_byte, data, request, server
from tests.support.h2exchanges import H2Rig, on_loop

PIECES = 20_000

Work = Callable[[], object]


def test_a_head() -> None:
    def prepare(size: int) -> Work:
        rig = Rig()
        caller = rig.call()
        head = b"GET / HTTP/1.1\r\nHost: api\r\nX: " + b"x" * (size - 100)
        pieces = [head[at : at + 4] for at in range(0, len(head), 4)]
        protocol = caller.get_protocol()

        def work() -> None:
            for piece in pieces:
                protocol.data_received(piece)  # type: ignore[attr-defined]
            caller.says(b"\r\n\r\n")
            assert len(rig.open().heard()) == len(head) + 4

        return work

    assert_proportional(prepare, MAX_HEAD_BYTES)


@on_loop
async def test_a_body_whose_endpoint_is_not_there_yet() -> None:
    callers = {}
    for size in (PIECES // TIMES, PIECES):
        rig = H2Rig(patience_s=3600.0)
        caller = await rig.caller()
        caller.says(request(1, False, encode([(b":method", b"POST"), *REQUEST[1:]])), data(1, b"x" * (300 << 10)))
        callers[size] = rig, caller
    before = dict.fromkeys(callers, 0)

    def prepare(size: int) -> Work:
        before[size] += size
        return lambda: callers[size][1].says(data(1, b"y") * size)

    assert_proportional(prepare, PIECES)
    for size, (rig, _) in callers.items():
        endpoint = await rig.open_h2(initial_window_size=STREAM_WINDOW)
        endpoint.says(window_update(0, STREAM_WINDOW))
        assert (await endpoint.hears_on(1))[1] == b"x" * (300 << 10) + b"y" * before[size]


def test_padded_content() -> None:
    def prepare(size: int) -> Work:
        end = server()
        end.receive(request(1, False))
        content = b"x" * (OUR_MAX_FRAME_BYTES - 2)
        sent = frames.frame(DATA, PADDED, 1, b"\1" + content + b"\0")
        end.receive(sent[:-size])

        def work() -> None:
            byte_by_byte(end, sent[-size:])
            assert end.told[1].body == content

        return work

    assert_proportional(prepare, OUR_MAX_FRAME_BYTES)


def test_a_large_frame() -> None:
    def prepare(size: int) -> Work:
        end = server()
        end.receive(request(1, False))

        def work() -> None:
            byte_by_byte(end, frames.frame(DATA, END_STREAM, 1, bytes(size)))
            assert end.told[1].ended
            assert len(end.told[1].body) == size

        return work

    assert_proportional(prepare, OUR_MAX_FRAME_BYTES)


def test_a_window_that_is_opened_byte_by_byte() -> None:
    content = bytes(range(256)) * 2048

    def prepare(size: int) -> Work:
        end = server(initial_window_size=0)
        end.receive(window_update(0, 1 << 30) + request(1))
        stream = end.told[1]
        stream.send_headers(ANSWER, False)
        stream.send_data(content, False)

        def work() -> None:
            end.receive(window_update(1, 1) * size)
            assert b"".join(each.payload for each in end.heard() if each.kind == frames.DATA) == content[:size]

        return work

    assert_proportional(prepare, PIECES)


def test_a_window_among_many_that_are_shut() -> None:
    def prepare(size: int) -> Work:
        end = server(initial_window_size=0)
        end.receive(b"".join(request(number) for number in range(1, 2 * MAX_STREAMS, 2)))
        for stream in end.told.values():
            stream.send_headers(ANSWER, False)
            stream.send_data(b"x" * PIECES, False)
        end.receive(window_update(0, 1 << 30))
        return lambda: end.receive(window_update(1, 1) * size)

    assert_proportional(prepare, PIECES // 2)


def test_a_window_of_the_connection_opened_byte_by_byte_costs_no_look_at_every_stream() -> None:
    """All streams wait for their own window, and the connection's is opened again and again."""

    def prepare(streams: int) -> Work:
        end = server(initial_window_size=0)
        end.receive(b"".join(request(number) for number in range(1, 2 * streams, 2)))
        for stream in end.told.values():
            stream.send_headers(ANSWER, False)
            stream.send_data(b"x" * 100, True)
        return lambda: end.receive(window_update(0, 1) * (10 * streams))

    assert_proportional(prepare, MAX_STREAMS)


def test_windows_that_are_changed_again_and_again() -> None:
    def prepare(size: int) -> Work:
        end = server()
        end.receive(b"".join(request(number, False) for number in range(1, 2 * MAX_STREAMS, 2)))
        values = b"".join(
            frames.settings({Setting.INITIAL_WINDOW_SIZE: value})[9:] for value in [MAX_WINDOW, 1] * (MAX_SETTINGS // 2)
        )

        def work() -> None:
            end.receive(frames.frame(SETTINGS, 0, 0, values) * size)
            assert {stream.send_window for stream in end.told.values()} == {1}

        return work

    assert_proportional(prepare, MAX_IDLE_FRAMES - 1)
