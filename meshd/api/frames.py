"""The control API's framing: one JSON value a line, over any byte stream.

Lines, so that a person can speak it with `nc -U`; bounded, so that neither side can make the other grow. It is
sans-I/O: bytes in, messages out. The messages themselves are in `meshd.api.control`.
"""

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

MAX_LINE_BYTES = 16 << 20
"""What one message may measure; the largest are endpoint sets, some 200 bytes an endpoint."""


class FramingError(Exception):
    """The peer sent what is not a message; the connection is of no further use."""


class LineReader(Generic[T]):
    """Bytes of one direction of a connection into messages of one type."""

    def __init__(self, kind: type[T], max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._pending = bytearray()
        self._searched = 0
        self._max = max_line_bytes

    def feed(self, data: bytes) -> list[T]:
        """The messages that data completes, in order. FramingError on a line too long or not of the type."""
        self._pending += data
        messages = []
        start = 0
        while (end := self._pending.find(b"\n", max(start, self._searched))) >= 0:
            if end - start > self._max:
                break
            try:
                messages.append(self._decoder.decode(self._pending[start:end]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise FramingError(f"not a message of the control API: {error}") from error
            start = end + 1
        del self._pending[:start]
        self._searched = len(self._pending)
        if len(self._pending) > self._max:
            raise FramingError(f"a line of more than {self._max} bytes")
        return messages


_encoder = msgspec.json.Encoder()


def frame(message: msgspec.Struct) -> bytes:
    """message as one line."""
    return _encoder.encode(message) + b"\n"
