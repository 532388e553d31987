"""What comes byte by byte costs in proportion to its bytes: nothing is looked at, or copied, once for each of them.

Each case takes hundredths of a second, and would take seconds if the work grew with the square of the size.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.http1.heads import MAX_HEAD_BYTES
from proxy.http2 import frames
from proxy.http2.engine import MAX_IDLE_FRAMES, MAX_SETTINGS, MAX_STREAMS, OUR_MAX_FRAME_BYTES, STREAM_WINDOW
from proxy.http2.fields import encode
from proxy.http2.frames import DATA, MAX_WINDOW, PADDED, SETTINGS, Setting, window_update
from tests.support.exchanges import Rig
from tests.support.h2 import ANSWER, REQUEST, data, request, server
from tests.support.h2exchanges import H2Rig, on_loop

PIECES = 20_000


@contextmanager
def in_proportion() -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 0.4


def test_a_head() -> None:
    rig = Rig()
    caller = rig.call()
    head = b"GET / HTTP/1.1\r\nHost: api\r\nX: " + b"x" * (MAX_HEAD_BYTES - 100)
    pieces = [head[at : at + 4] for at in range(0, len(head), 4)]
    protocol = caller.get_protocol()
    with in_proportion():
        for piece in pieces:
            protocol.data_received(piece)  # type: ignore[attr-defined]
    caller.says(b"\r\n\r\n")
    assert len(rig.open().heard()) == len(head) + 4


@on_loop
async def test_a_body_whose_endpoint_is_not_there_yet() -> None:
    rig = H2Rig(patience_s=3600.0)
    caller = await rig.caller()
    caller.says(request(1, False, encode([(b":method", b"POST"), *REQUEST[1:]])), data(1, b"x" * (400 << 10)))
    with in_proportion():
        caller.says(data(1, b"y") * PIECES)
    endpoint = await rig.open_h2(initial_window_size=STREAM_WINDOW)
    endpoint.says(window_update(0, STREAM_WINDOW))
    assert (await endpoint.hears_on(1))[1] == b"x" * (400 << 10) + b"y" * PIECES


def test_padded_content() -> None:
    end = server()
    end.receive(request(1, False))
    content = b"x" * (OUR_MAX_FRAME_BYTES - 2)
    sent = frames.frame(DATA, PADDED, 1, b"\1" + content + b"\0")
    end.receive(sent[: -4 * PIECES])
    with in_proportion():
        for at in range(len(sent) - 4 * PIECES, len(sent)):
            end.receive(sent[at : at + 1])
    assert end.told[1].body == content


def test_a_window_that_is_opened_byte_by_byte() -> None:
    end = server(initial_window_size=0)
    end.receive(window_update(0, 1 << 30) + request(1))
    stream = end.told[1]
    stream.send_headers(ANSWER, False)
    stream.send_data(bytes(range(256)) * 2048, False)
    with in_proportion():
        end.receive(window_update(1, 1) * (2 * PIECES))
    sent = b"".join(each.payload for each in end.heard() if each.kind == frames.DATA)
    assert sent == (bytes(range(256)) * 2048)[: 2 * PIECES]


def test_a_window_among_many_that_are_shut() -> None:
    end = server(initial_window_size=0)
    end.receive(b"".join(request(number) for number in range(1, 2 * MAX_STREAMS, 2)))
    for stream in end.told.values():
        stream.send_headers(ANSWER, False)
        stream.send_data(b"x" * PIECES, False)
    end.receive(window_update(0, 1 << 30))
    with in_proportion():
        end.receive(window_update(1, 1) * (PIECES // 2))


def test_windows_that_are_changed_again_and_again() -> None:
    end = server()
    end.receive(b"".join(request(number, False) for number in range(1, 2 * MAX_STREAMS, 2)))
    values = b"".join(
        frames.settings({Setting.INITIAL_WINDOW_SIZE: value})[9:] for value in [MAX_WINDOW, 1] * (MAX_SETTINGS // 2)
    )
    with in_proportion():
        end.receive(frames.frame(SETTINGS, 0, 0, values) * (MAX_IDLE_FRAMES - 1))
    assert {stream.send_window for stream in end.told.values()} == {1}
