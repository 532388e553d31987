"""What one peer can have held: much on one stream, little on each of many, and so much in all."""

import pytest

from proxy.errors import Bound
from proxy.http2.engine import (
    CONNECTION_WINDOW,
    MAX_HELD_BYTES,
    MAX_STREAMS,
    OUR_MAX_FRAME_BYTES,
    SMALL_WINDOW,
    STREAM_WINDOW,
    ProtocolError,
)
from proxy.http2.frames import DATA, SETTINGS, SETTINGS_ACK, WINDOW_UPDATE, Code, frame
from tests.support.h2 import End, request, server

NUMBERS = range(1, 2 * MAX_STREAMS, 2)


class Sender:
    """A peer that sends all that it may on every stream. `heeds`: it minds what SETTINGS say of the windows."""

    def __init__(self, end: End, heeds: bool) -> None:
        self.end = end
        self.heeds = heeds
        self.sent = 0
        self.window = CONNECTION_WINDOW
        self.initial = STREAM_WINDOW
        self.windows = dict.fromkeys(NUMBERS, STREAM_WINDOW)
        end.receive(b"".join(request(number, False) for number in NUMBERS))
        for stream in end.told.values():
            stream.hold()
        if heeds:
            end.receive(SETTINGS_ACK)  # of those it began with
        self.listen()

    def listen(self) -> None:
        for each in self.end.heard():
            if each.kind == WINDOW_UPDATE and each.stream == 0:
                self.window += int.from_bytes(each.payload, "big")
            elif each.kind == WINDOW_UPDATE:
                self.windows[each.stream] += int.from_bytes(each.payload, "big")
            elif each.kind == SETTINGS and each.payload and self.heeds:
                value = int.from_bytes(each.payload[2:6], "big")
                self.windows = {number: window + value - self.initial for number, window in self.windows.items()}
                self.initial = value
                self.end.receive(SETTINGS_ACK)

    def send_on(self, number: int) -> None:
        """All that it may on this stream, or as much as its window was to begin with."""
        most = self.sent + STREAM_WINDOW
        while (size := min(self.windows[number], self.window, OUR_MAX_FRAME_BYTES, most - self.sent)) > 0:
            self.end.receive(frame(DATA, 0, number, bytes(size)))
            self.sent += size
            self.windows[number] -= size
            self.window -= size
            self.listen()

    def send(self) -> int:
        """All that it may at all; how much that is so far."""
        for number in NUMBERS:
            self.send_on(number)
        return self.sent


@pytest.mark.parametrize("heeds", [True, False])
def test_held_streams_hold_so_much_and_no_more(heeds: bool) -> None:
    end = server()
    sender = Sender(end, heeds)
    assert sender.send() <= MAX_HELD_BYTES + CONNECTION_WINDOW
    if heeds:
        assert min(sender.windows.values()) > -STREAM_WINDOW
        assert sum(len(stream.body) > SMALL_WINDOW for stream in end.told.values()) <= 16
    before = sender.sent
    for stream in end.told.values():  # all of them are read
        stream.release()
    sender.listen()
    end.look(1.0)
    sender.listen()
    for number in NUMBERS[:12]:
        sender.send_on(number)
    assert sender.sent - before == 12 * STREAM_WINDOW
    assert sender.initial == STREAM_WINDOW


def test_streams_that_end_make_room_for_others() -> None:
    end = server()
    sender = Sender(end, heeds=False)
    sender.send()
    assert sender.window == 0
    for number in list(end.streams)[:20]:
        end.told[number].reset(Code.CANCEL)
    sender.listen()
    assert sender.window == CONNECTION_WINDOW


def test_one_stream_has_its_large_window_whatever_is_held_on_a_few() -> None:
    end = server()
    sender = Sender(end, heeds=True)
    for number in (1, 3, 5, 7):
        sender.send_on(number)
    end.told[9].release()
    for _ in range(20):
        sender.send_on(9)
    assert len(end.told[9].body) >= 8 * STREAM_WINDOW
    assert sender.initial == STREAM_WINDOW


def test_the_small_window_counts_once_it_is_acknowledged() -> None:
    end = server()
    sender = Sender(end, heeds=True)
    for number in range(1, 40, 2):
        sender.send_on(number)
    assert sender.initial == SMALL_WINDOW
    end.receive(frame(DATA, 0, 101, bytes(SMALL_WINDOW)))
    assert end.told[101].reset_with is None
    end.receive(frame(DATA, 0, 103, bytes(SMALL_WINDOW + 1)))
    assert end.told[103].reset_with == Code.FLOW_CONTROL_ERROR


def test_the_connection_s_window_is_enforced() -> None:
    end = server()
    sender = Sender(end, heeds=False)
    sender.send()
    with pytest.raises(ProtocolError) as refused:
        end.receive(frame(DATA, 0, 1001, b"x"))
    assert (refused.value.code, refused.value.bound) == (Code.FLOW_CONTROL_ERROR, Bound.WINDOW)
