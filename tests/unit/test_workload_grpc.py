"""gRPC as the agent speaks it: what comes back piece by piece, and what bad peers get. The peer is the h2 library."""

import asyncio
import struct
from collections.abc import AsyncGenerator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamReset, TrailersReceived
from h2.settings import SettingCodes, Settings

from meshd.agent.workload.grpc import (
    MAX_CALLS,
    MAX_FRAME_BYTES,
    MAX_REQUEST_BYTES,
    MAX_STREAMS,
    Code,
    GrpcConnection,
    Refused,
)
from meshd.api.tasks import Tasks
from tests.support import aio
from tests.support.wire import Wire

HEAD = [
    (":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/Test/Echo"),
    ("content-type", "application/grpc"), ("te", "trailers"), ("a", "b"),
]  # fmt: skip


def framed(message: bytes, compressed: bool = False) -> bytes:
    return struct.pack(">?I", compressed, len(message)) + message


class Served:
    """A server whose one method says the request twice, and the client at its other end."""

    def __init__(self, window: int = 65_535, max_calls: int = MAX_CALLS) -> None:
        self.given, self.ended = 0, 0
        self.tasks = Tasks("test")
        self.connection = GrpcConnection(
            {"/Test/Echo": self.echo}, ("a", "b"), lambda *_: "peer", lambda _: None, self.tasks, max_calls
        )
        self.wire = Wire(self.connection)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.client.initiate_connection()
        self.events: list[Event] = []

    async def echo(self, peer: str, message: bytes) -> AsyncGenerator[bytes, None]:
        assert peer == "peer"
        if message == b"refuse":
            raise Refused(Code.PERMISSION_DENIED, "no: 100 %, é\n")
        if message == b"fail":
            raise ZeroDivisionError("a bug")
        try:
            for _ in range(2):
                self.given += 1
                yield message
        finally:
            self.ended += 1

    def call(self, body: bytes = framed(b"hello"), head: list[tuple[str, str]] = HEAD) -> int:
        stream: int = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, head)
        for start in range(0, len(body), 16_384):
            self.client.send_data(stream, body[start : start + 16_384])
        self.client.end_stream(stream)
        return stream

    async def settle(self) -> None:
        """Both ends say all that they have to say."""
        for _ in range(20):
            self.wire.says(self.client.data_to_send())
            await asyncio.sleep(0)
            self.events += self.client.receive_data(self.wire.heard())

    @property
    def data(self) -> bytes:
        return b"".join(event.data or b"" for event in self.events if isinstance(event, DataReceived))

    @property
    def status(self) -> tuple[str, str]:
        """Of the last call that ended."""
        *_, last = (event for event in self.events if isinstance(event, ResponseReceived | TrailersReceived))
        found = {str(name): str(value) for name, value in last.headers or ()}
        return found["grpc-status"], found.get("grpc-message", "")


def test_a_call_and_its_answers() -> None:
    async def main() -> None:
        served = Served()
        served.call()
        await served.settle()
        assert served.data == framed(b"hello") * 2
        assert served.status == ("0", "")

    aio.run(main())


def test_the_next_answer_is_not_asked_for_until_the_one_before_is_sent() -> None:
    async def main() -> None:
        served = Served(window=4)
        stream = served.call()
        await served.settle()
        assert (served.data, served.given) == (framed(b"hello")[:4], 1)
        served.client.increment_flow_control_window(6, stream)
        await served.settle()
        assert (served.data, served.given) == (framed(b"hello"), 2)
        served.client.increment_flow_control_window(10, stream)
        await served.settle()
        assert served.status == ("0", "")

    aio.run(main())


def test_a_peer_that_does_not_read_is_not_read_from() -> None:
    async def main() -> None:
        served = Served()
        served.connection.pause_writing()
        assert not served.wire.reading
        served.connection.resume_writing()
        served.call()
        await served.settle()
        assert served.status == ("0", "")

    aio.run(main())


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_a_call_that_nobody_waits_for_is_ended(how: str) -> None:
    async def main() -> None:
        served = Served(window=0)
        stream = served.call()
        await served.settle()
        assert (served.given, served.ended) == (1, 0)
        if how == "reset":
            served.client.reset_stream(stream)
            await served.settle()
        else:
            served.wire.breaks()
            await asyncio.sleep(0.0)
            await served.tasks.cancel()
        assert (served.given, served.ended) == (1, 1)

    aio.run(main())


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (framed(b"refuse"), "7", "no: 100 %25, %C3%A9%0A"),
        (b"", "3", "the request holds no message"),
        (framed(b"hello")[:-1], "3", "the request is not one whole message"),
        (framed(b"hello") * 2, "3", "the request is not one whole message"),
        (b"\0\xff\xff\xff\xff", "3", "the request is not one whole message"),
        (framed(b"hello", compressed=True), "12", "compressed messages are not read here"),
        (framed(bytes(MAX_REQUEST_BYTES + 1)), "8", f"a request has at most {MAX_REQUEST_BYTES} bytes"),
    ],
)
def test_requests_that_are_refused(body: bytes, status: str, message: str) -> None:
    async def main() -> None:
        served = Served()
        if len(body) > MAX_REQUEST_BYTES:
            stream = served.client.get_next_available_stream_id()
            served.client.send_headers(stream, HEAD)
            for start in range(0, len(body), 16_000):
                served.client.send_data(stream, body[start : start + 16_000])
                await served.settle()
                if any(isinstance(event, StreamReset) for event in served.events):
                    break
        else:
            served.call(body)
            await served.settle()
        assert served.status == (status, message)
        assert served.given == 0
        served.events.clear()
        served.call()  # the connection is as good as before
        await served.settle()
        assert served.status == ("0", "")

    aio.run(main())


@pytest.mark.parametrize(
    ("without", "status"), [("a", "3"), ("content-type", "3"), (":path", "12")], ids=["required", "type", "path"]
)
def test_heads_that_are_refused(without: str, status: str) -> None:
    async def main() -> None:
        served = Served()
        served.call(head=[(name, "/other" if name == without else value) for name, value in HEAD])
        await served.settle()
        assert (served.status[0], served.given) == (status, 0)

    aio.run(main())


def test_a_bug_is_told_as_one_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        served = Served()
        served.call(framed(b"fail"))
        await served.settle()
        assert served.status == ("13", "the agent failed; its log says how")

    aio.run(main())
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 9]
)
def test_what_is_no_http2_ends_the_connection(garbage: bytes) -> None:
    async def main() -> None:
        served = Served()
        served.wire.says(garbage)
        assert served.wire.is_closing()

    aio.run(main())


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_frame_that_is_announced_too_long_is_not_waited_for(piece: int) -> None:
    async def main() -> None:
        served = Served()
        served.call()
        said = served.client.data_to_send() + (MAX_FRAME_BYTES + 1).to_bytes(3) + bytes(6)
        for start in range(0, len(said) - 1, piece):
            served.wire.says(said[start : min(start + piece, len(said) - 1)])
        assert not served.wire.is_closing()
        served.wire.says(said[-1:])
        assert served.wire.is_closing()

    aio.run(main())


def test_a_head_in_ever_more_frames_is_not_waited_for() -> None:
    async def main() -> None:
        served = Served()
        await served.settle()
        served.wire.says((16_000).to_bytes(3) + b"\1\0\0\0\0\1" + bytes(16_000))
        served.wire.says((16_000).to_bytes(3) + b"\x09\0\0\0\0\1" + bytes(16_000))
        assert not served.wire.is_closing()
        served.wire.says((1_000).to_bytes(3) + b"\x09\0\0\0\0\1")
        assert served.wire.is_closing()

    aio.run(main())


def test_more_calls_at_once_than_are_allowed_end_the_connection() -> None:
    async def main() -> None:
        served = Served(window=0)
        for _ in range(MAX_STREAMS + 1):
            served.call()
        await served.settle()
        assert served.wire.is_closing()
        assert served.given <= MAX_STREAMS
        await served.tasks.cancel()

    aio.run(main())


def test_calls_that_are_reset_at_once_do_not_go_on_forever() -> None:
    async def main() -> None:
        served = Served(max_calls=50)
        await served.settle()
        for number in range(51):
            assert not served.wire.is_closing(), number
            stream = served.client.get_next_available_stream_id()
            served.client.send_headers(stream, HEAD, end_stream=True)
            served.client.reset_stream(stream)
            served.wire.says(served.client.data_to_send())
        assert served.wire.is_closing()
        assert any(isinstance(event, ConnectionTerminated) for event in served.client.receive_data(served.wire.heard()))

    aio.run(main())
