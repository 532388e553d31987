"""gRPC over HTTP/2 on a Unix socket, as far as the Workload API needs it: one message in, any number out.

The framing of HTTP/2 is the h2 library's; on it lies gRPC's own ("gRPC over HTTP2"): a byte that says whether the
message is compressed, which it never is here, four bytes of length, the message; and the status in trailers. Why no
gRPC library: they do not tell a server who is at the other end of a Unix socket, or take messages of any length that a
peer announces. What the calls mean is `meshd.agent.workload.service`'s to say.

A connection holds at most MAX_STREAMS calls and for each a request of MAX_REQUEST_BYTES and one answer that is not sent
yet: the next is not asked for until that one is on its way. A peer that does not read is not read from.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from enum import IntEnum
from typing import Final, Generic, TypeVar, cast
from urllib.parse import quote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from meshd.agent.complaints import complaints
from meshd.api.tasks import Tasks

MAX_STREAMS: Final = 16
"""Calls at once on one connection; a program that follows all that there is has three."""

MAX_REQUEST_BYTES: Final = 64 << 10
"""The longest asks whether a token is good."""

MAX_CALLS: Final = 4096
"""Of one connection in its life: h2 remembers each for some hundred bytes. Clients of gRPC connect again."""

MAX_HEADER_LIST_BYTES: Final = 16 << 10

MAX_FRAME_BYTES: Final = 16 << 10
"""SETTINGS_MAX_FRAME_SIZE as it is at first (RFC 9113, section 6.5.2), and stays."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

MAX_BLOCK_BYTES: Final = 2 * MAX_FRAME_BYTES

_FRAME_HEADER_BYTES: Final = 9
_CONTINUATION: Final = 9

_PREFIX: Final = struct.Struct(">?I")

Peer = TypeVar("Peer")


class Code(IntEnum):
    """Statuses of gRPC that are answered here."""

    OK = 0
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Refused(Exception):
    """A call that ends otherwise than OK; the message is for the caller."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


Method = Callable[[Peer, bytes], AsyncGenerator[bytes, None]]
"""A request's message to the answers' messages; Refused."""


class _Stream:
    """One call: its request as far as it came, and what of an answer is not sent yet."""

    __slots__ = ("answered", "metadata", "outgoing", "request", "sent", "task")

    def __init__(self, metadata: dict[bytes, bytes]) -> None:
        self.metadata = metadata
        self.request = bytearray()
        self.outgoing = bytearray()
        self.sent = asyncio.Event()
        self.answered = False
        self.task: asyncio.Task[None] | None = None


class _FrameLengths:
    """The lengths of the frames that a peer sends, and of the field blocks that several make. h2 looks at a frame's
    when it has all of it, up to 16 MiB, and takes 64 frames to a block."""

    def __init__(self) -> None:
        self._header = b""
        self._block = 0
        self._skip = len(PREFACE)

    def are_good(self, data: bytes) -> bool:
        """Whether the frames that are in the next of the peer's bytes, or begin there, are of a length that may be."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
            else:
                step = min(_FRAME_HEADER_BYTES - len(self._header), len(data) - at)
                self._header += data[at : at + step]
                if len(self._header) == _FRAME_HEADER_BYTES:
                    self._skip, kind = int.from_bytes(self._header[:3]), self._header[3]
                    self._header = b""
                    self._block = self._skip + (self._block if kind == _CONTINUATION else 0)
                    if self._skip > MAX_FRAME_BYTES or self._block > MAX_BLOCK_BYTES:
                        return False
            at += step
        return True


class GrpcConnection(asyncio.Protocol, Generic[Peer]):
    """The server's end of one connection. `accept` says who is there, or None: then the connection is closed. Every
    call must bear `required`, a name and a value of its metadata."""

    def __init__(
        self,
        methods: Mapping[str, Method[Peer]],
        required: tuple[str, str],
        accept: Callable[["GrpcConnection[Peer]", asyncio.Transport], Peer | None],
        closed: Callable[["GrpcConnection[Peer]"], None],
        tasks: Tasks,
        max_calls: int = MAX_CALLS,
    ) -> None:
        self._methods, self._required, self._max_calls = methods, required, max_calls
        self._accept, self._closed, self._tasks = accept, closed, tasks
        self._streams: dict[int, _Stream] = {}
        self._full = False
        self._calls = 0
        self._lengths = _FrameLengths()
        self._peer: Peer | None = None
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
                SettingCodes.INITIAL_WINDOW_SIZE: MAX_REQUEST_BYTES,
            },
        )
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_BYTES

    @property
    def calls(self) -> int:
        """How many are being answered."""
        return len(self._streams)

    # --- what the transport says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._peer = self._accept(self, self._transport)
        if self._peer is None:
            self._transport.abort()
            return
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if not self._lengths.are_good(data):
            complaints.warning("workload API: %s: a frame that is longer than any should be", self._peer)
            self.close()
            return
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except H2Error as error:
            complaints.warning("workload API: %s: %s", self._peer, error)
            self.close()
        self._flush()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._transport.resume_reading()
        self._send_all()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for stream in self._streams.values():
            _cancel(stream)
        self._streams.clear()
        self._closed(self)

    def close(self) -> None:
        """End the connection, once what was said is sent."""
        if not self._transport.is_closing():
            with suppress(H2Error):  # it is closed already where the peer, or an error of its, has done so
                self._h2.close_connection()
            self._transport.write(self._h2.data_to_send())
            self._transport.close()

    # --- requests -----------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._called(event)
            case DataReceived():
                self._received(event)
            case StreamEnded():
                self._requested(_of(event))
            case StreamReset():
                self._forget(_of(event))
            case WindowUpdated():
                self._send_all()
            case ConnectionTerminated():
                self.close()

    def _called(self, event: RequestReceived) -> None:
        self._calls += 1
        if self._calls > self._max_calls:
            complaints.warning("workload API: %s has made %d calls on one connection", self._peer, self._max_calls)
            self.close()
            return
        self._streams[_of(event)] = _Stream({bytes(name): bytes(value) for name, value in event.headers or ()})

    def _received(self, event: DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, _of(event))
        stream = self._streams.get(_of(event))
        if stream is None or stream.task is not None:
            return
        stream.request += event.data or b""
        if len(stream.request) > _PREFIX.size + MAX_REQUEST_BYTES:
            self._end(_of(event), Code.RESOURCE_EXHAUSTED, f"a request has at most {MAX_REQUEST_BYTES} bytes")

    def _requested(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        try:
            method, message = self._method(stream.metadata), _message(bytes(stream.request))
        except Refused as refused:
            self._end(stream_id, refused.code, str(refused))
            return
        name = stream.metadata[b":path"].decode()
        stream.task = self._tasks.start(self._answered(stream_id, stream, method, message), name)

    def _method(self, metadata: Mapping[bytes, bytes]) -> Method[Peer]:
        name, value = self._required
        if metadata.get(name.encode()) != value.encode():  # first of all: a program was tricked into asking
            raise Refused(Code.INVALID_ARGUMENT, f"the metadata {name}: {value} is missing")
        if not metadata.get(b"content-type", b"").startswith(b"application/grpc"):
            raise Refused(Code.INVALID_ARGUMENT, "the content type is not application/grpc")
        method = self._methods.get(metadata.get(b":path", b"").decode("latin-1"))
        if method is None or metadata.get(b":method") != b"POST":
            raise Refused(Code.UNIMPLEMENTED, "there is no such method here")
        return method

    # --- answers ------------------------------------------------------------------------------------------------

    async def _answered(self, stream_id: int, stream: _Stream, method: Method[Peer], message: bytes) -> None:
        assert self._peer is not None
        try:
            async with aclosing(method(self._peer, message)) as answers:
                async for answer in answers:
                    stream.sent.clear()
                    stream.outgoing += _PREFIX.pack(False, len(answer)) + answer
                    self._send(stream_id, stream)
                    self._flush()
                    await stream.sent.wait()
            code, reason = Code.OK, ""
        except Refused as refused:
            code, reason = refused.code, str(refused)
        except Exception:
            self._end(stream_id, Code.INTERNAL, "the agent failed; its log says how")
            self._flush()
            raise
        self._end(stream_id, code, reason)
        self._flush()

    def _send(self, stream_id: int, stream: _Stream) -> None:
        """As much as the peer's windows and its reading allow."""
        with self._unless_ended(stream_id):
            if not stream.answered:
                stream.answered = True
                self._h2.send_headers(stream_id, _HEAD)
            self._send_data(stream_id, stream)

    def _send_data(self, stream_id: int, stream: _Stream) -> None:
        while stream.outgoing and not self._full:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            self._h2.send_data(stream_id, bytes(stream.outgoing[:room]))
            del stream.outgoing[:room]
        if not stream.outgoing:
            stream.sent.set()

    def _send_all(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            if stream.outgoing:
                self._send(stream_id, stream)

    def _end(self, stream_id: int, code: Code, reason: str) -> None:
        """The status, and of a request that is still coming no more is wanted (RFC 9113, section 8.1)."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        status = [(b"grpc-status", str(code.value).encode())]
        if reason:
            status.append((b"grpc-message", quote(reason, safe=" !#$&'()*+,/:;=?@[]").encode()))
        with self._unless_ended(stream_id):
            self._h2.send_headers(stream_id, status if stream.answered else [*_HEAD, *status], end_stream=True)
            if code == Code.RESOURCE_EXHAUSTED and stream.task is None:
                self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)

    @contextmanager
    def _unless_ended(self, stream_id: int) -> Iterator[None]:
        """What the peer ended needs no more; h2 knows of it before the event is handled here."""
        try:
            yield
        except H2Error:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            _cancel(stream)

    def _flush(self) -> None:
        if not self._transport.is_closing() and (data := self._h2.data_to_send()):
            self._transport.write(data)


_HEAD: Final = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def _message(request: bytes) -> bytes:
    """The one message of a request."""
    if len(request) < _PREFIX.size:
        raise Refused(Code.INVALID_ARGUMENT, "the request holds no message")
    compressed, length = _PREFIX.unpack_from(request)
    if compressed:
        raise Refused(Code.UNIMPLEMENTED, "compressed messages are not read here")
    if len(request) != _PREFIX.size + length:
        raise Refused(Code.INVALID_ARGUMENT, "the request is not one whole message")
    return request[_PREFIX.size :]


def _of(event: RequestReceived | DataReceived | StreamEnded | StreamReset) -> int:
    assert event.stream_id is not None
    return event.stream_id


def _cancel(stream: _Stream) -> None:
    if stream.task is not None:
        stream.task.cancel()
