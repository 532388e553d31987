"""One look at a gRPC server: `grpc.health.v1.Health/Check`, by HTTP/2 in plain text.

The protocol is gRPC's "GRPC Health Checking Protocol"; the framing of HTTP/2 is the h2 library's. The two messages have
one field each, and are read and written here:

    HealthCheckRequest   service = 1 (string)
    HealthCheckResponse  status = 1 (enum): UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3
"""

import asyncio
import struct
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from meshd import __version__
from meshd.agent.health.probes import reason
from meshd.api.names import Address

MAX_READ_BYTES = 64 << 10
"""Of everything that a server sends to one question."""

MAX_MESSAGE_BYTES = 4096

PATH = "/grpc.health.v1.Health/Check"

STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

MAX_SAID = 100
"""Characters of a server's own words that are passed on."""

NOT_HTTP2 = "what it answers is not HTTP/2"

_FRAME_HEADER_BYTES = 9
_SETTINGS = 4  # the type of frame that a server begins with

_PREFIX = struct.Struct(">?I")
_SERVICE_FIELD, _STATUS_FIELD = b"\x0a", 0x08  # number 1: of a string, of a varint


async def serves(address: Address, service: str) -> str:
    """What is wrong with the service, by the server's word; empty where it is SERVING."""
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError as error:
        return reason(error)
    call = Call(str(address), service)
    left = MAX_READ_BYTES
    try:
        writer.write(call.data_to_send())
        while not call.ended and left > 0 and (data := await reader.read(left)):
            left -= len(data)
            call.receive(data)
            writer.write(call.data_to_send())
    except OSError as error:
        return reason(error)
    finally:
        writer.close()
    return call.failure()


class Call:
    """The one call of a connection: bytes in, bytes out, and in the end what came of it."""

    def __init__(self, authority: str, service: str) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._h2.initiate_connection()
        name = service.encode()
        field = _SERVICE_FIELD + _varint(len(name)) + name if name else b""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", authority), ("te", "trailers"),
            ("content-type", "application/grpc"), ("user-agent", f"meshd-agent/{__version__}"),
        ]  # fmt: skip
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, _PREFIX.pack(False, len(field)) + field, end_stream=True)
        self._fields: dict[str, str] = {}
        self._first = self._message = b""
        self._broken = ""
        self.ended = False

    def data_to_send(self) -> bytes:
        return self._h2.data_to_send()

    def receive(self, data: bytes) -> None:
        self._first += data[: _FRAME_HEADER_BYTES - len(self._first)]
        if len(self._first) == _FRAME_HEADER_BYTES and self._first[3] != _SETTINGS:  # RFC 9113, section 3.4
            self._broken, self.ended = NOT_HTTP2, True
            return
        try:
            for event in self._h2.receive_data(data):
                self._heard(event)
        except H2Error:
            self._broken, self.ended = NOT_HTTP2, True

    def _heard(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers or ():
                self._fields[_text(name)] = _text(value)
        elif isinstance(event, DataReceived):
            self._message += event.data or b""
            if len(self._message) > _PREFIX.size + MAX_MESSAGE_BYTES:
                self._broken, self.ended = "its answer is too long", True
        elif isinstance(event, StreamEnded):
            self.ended = True
        elif isinstance(event, StreamReset | ConnectionTerminated):
            self._broken, self.ended = "it broke the call off", True

    def failure(self) -> str:
        """What is wrong; empty where the answer is SERVING."""
        if self._broken or not self.ended:
            return self._broken or "the connection ended in place of an answer"
        if self._fields.get(":status") != "200":
            return f"answered HTTP status {self._fields.get(':status')}"
        if (code := self._fields.get("grpc-status", "")) != "0":
            name = CODES[int(code)] if code.isdecimal() and int(code) < len(CODES) else "no status of gRPC"
            said = unquote(self._fields.get("grpc-message", ""))[:MAX_SAID]
            return f"answered {name}" + (f": {said!r}" if said else "")
        status = _status(self._message)
        if status is None:
            return "its answer is no HealthCheckResponse"
        return "" if STATUSES[status] == "SERVING" else f"answered {STATUSES[status]}"


def _text(field: bytes | str) -> str:
    return field if isinstance(field, str) else field.decode(errors="replace")


def _status(framed: bytes) -> int | None:
    """The status in a HealthCheckResponse behind its prefix; None where that is not what it is."""
    if len(framed) < _PREFIX.size or _PREFIX.unpack_from(framed) != (False, len(framed) - _PREFIX.size):
        return None
    message = framed[_PREFIX.size :]
    if not message:
        return 0  # what has the default value is left out
    if len(message) == 2 and message[0] == _STATUS_FIELD and message[1] < len(STATUSES):
        return message[1]
    return None


def _varint(number: int) -> bytes:
    """Protocol Buffers' encoding of a number: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
