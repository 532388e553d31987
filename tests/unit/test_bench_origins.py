"""The origin of gRPC keeps to HTTP/2 as its peers must be able to rely on; that it is gRPC, its own client checks."""

import asyncio
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, StreamEnded, TrailersReceived
from h2.settings import SettingCodes

from bench.origins.grpc import MESSAGE, Connection

CALL = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "a"), ("te", "trailers")]


class Wire(asyncio.Transport):
    """What a connection writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True


class Caller:
    """The `h2` library as a client of a `Connection`. `cut`: into how many bytes what it sends is cut."""

    def __init__(self, messages: int, cut: int = 1 << 20) -> None:
        self.wire, self.connection = Wire(), Connection(messages)
        self.connection.connection_made(self.wire)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.cut = cut

    def call(self) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, CALL)
        self.h2.send_data(stream, b"\0\0\0\0\x01x", end_stream=True)
        return stream

    def exchange(self) -> Iterable[Event]:
        sent = self.h2.data_to_send()
        for at in range(0, len(sent), self.cut):
            self.connection.data_received(sent[at : at + self.cut])
        written, self.wire.written = self.wire.written, b""
        return self.h2.receive_data(written)


def test_every_message_has_a_frame_of_its_own_and_the_status_comes_last() -> None:
    caller = Caller(messages=3, cut=5)
    for _ in range(3):  # the first answer on a connection is not encoded as the others are
        stream = caller.call()
        events = [event for event in caller.exchange() if getattr(event, "stream_id", None) == stream]
        assert [event.data[5:] for event in events if isinstance(event, DataReceived)] == [MESSAGE] * 3
        [trailers] = [event for event in events if isinstance(event, TrailersReceived)]
        assert dict(trailers.headers) == {b"grpc-status": b"0"}
        assert isinstance(events[-1], StreamEnded)


def test_an_answer_waits_until_the_connection_s_window_has_room_for_it() -> None:
    caller = Caller(messages=500)  # 47,000 bytes
    first, second = caller.call(), caller.call()
    ended = [event.stream_id for event in caller.exchange() if isinstance(event, StreamEnded)]
    assert ended == [first]
    caller.h2.increment_flow_control_window(65_535)
    assert [event.stream_id for event in caller.exchange() if isinstance(event, StreamEnded)] == [second]


def test_settings_and_pings_are_acknowledged() -> None:
    caller = Caller(messages=1)
    caller.h2.update_settings({SettingCodes.ENABLE_PUSH: 0})
    caller.h2.ping(b"12345678")
    names = [type(event).__name__ for event in caller.exchange()]
    assert names.count("SettingsAcknowledged") == 2
    assert "PingAckReceived" in names


def test_what_is_not_http_2_is_not_answered() -> None:
    wire, connection = Wire(), Connection(1)
    connection.connection_made(wire)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert wire.aborted
