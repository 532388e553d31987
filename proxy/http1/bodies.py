r"""Bodies of HTTP/1.x messages: their framing off, and on again (RFC 9112, sections 6 and 7).

A reader takes bytes as they come and returns the payload in them. When `done`, `rest` holds the bytes after the
body's end, which belong to the next message, and `trailers` the trailer fields as they go on.

    4\r\nWiki\r\n0\r\nX-Sum: 1\r\n\r\n  → payload b"Wiki", trailers b"X-Sum: 1\r\n"

Nothing is buffered but an unfinished chunk-size line or trailer section, both bounded. What was chunked is chunked anew
from its payload: extensions and odd framing end here.
"""

import re
from typing import Final

from proxy.http1.heads import BadHead, trailer_lines

MAX_SIZE_LINE_BYTES: Final = 256
"""A chunk-size line with its extensions; they are all dropped, so nobody needs long ones."""
MAX_TRAILER_BYTES: Final = 16 << 10

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")


class BadBody(Exception):
    """A body whose framing is broken; nothing after it can be trusted."""


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("_left", "done", "rest", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""
        self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in data."""
        size = len(data)
        if size < self._left:
            self._left -= size
            return data
        self.done = True
        if size > self._left:
            self.rest = data[self._left :]
            data = data[: self._left]
        self._left = 0
        return data


class UntilCloseReader:
    """A response's body that ends with its connection; it is never `done` by its bytes."""

    __slots__ = ("done", "rest", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedReader:
    """A body in chunks."""

    __slots__ = ("_after_data", "_left", "_pending", "_trailing", "done", "rest", "trailers")

    def __init__(self) -> None:
        self._left = 0  # bytes of the present chunk still to come
        self._after_data = False  # the CRLF that closes a chunk is still to come
        self._trailing = False  # the last chunk has come; the trailer section follows
        self._pending = b""  # an unfinished line
        self.done = False
        self.rest = b""
        self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in data. BadBody where the framing is not that of chunks."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        payload: list[bytes] = []
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._after_data = self._left == 0
            elif self._trailing:
                at = self._trailer(data, at)
            else:
                at = self._size_line(data, at)
                if at < 0:
                    break
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _size_line(self, data: bytes, at: int) -> int:
        """Read the CRLF of the chunk before and the next chunk's size; where it goes on, or -1 to wait."""
        start = at
        if self._after_data:
            if data[at : at + 2] != b"\r\n":
                if data[at:] == b"\r":
                    self._pending = data[at:]
                    return -1
                raise BadBody("a chunk that does not end with CRLF")
            start += 2
        stop = data.find(b"\r\n", start, start + MAX_SIZE_LINE_BYTES + 2)
        if stop < 0:
            if len(data) - start > MAX_SIZE_LINE_BYTES:
                raise BadBody("a chunk-size line that is too long")
            if b"\n" in data[start:]:
                raise BadBody("a chunk-size line that ends with a bare LF")
            self._pending = data[at:]
            return -1
        found = _SIZE_LINE.fullmatch(data, start, stop)
        if found is None:
            raise BadBody("a chunk size that is not a hexadecimal number")
        self._after_data = False
        self._left = int(found[1], 16)
        self._trailing = self._left == 0
        return stop + 2

    def _trailer(self, data: bytes, at: int) -> int:
        """Read the trailer section to its empty line; where the next message begins."""
        if data[at : at + 2] == b"\r\n":
            stop, after = at, at + 2
        else:
            stop = data.find(b"\r\n\r\n", at, at + MAX_TRAILER_BYTES + 4)
            after = stop + 4
            if stop < 0:
                if len(data) - at > MAX_TRAILER_BYTES:
                    raise BadBody("a trailer section that is too long")
                if b"\n\n" in data[at:]:
                    raise BadBody("trailers: a bare LF")
                self._pending = data[at:]
                return len(data)
        try:
            self.trailers = trailer_lines(data[at:stop])
        except BadHead as error:
            raise BadBody(f"trailers: {error.reason}") from error
        self.done = True
        self.rest = data[after:]
        return after


BodyReader = LengthReader | ChunkedReader | UntilCloseReader


def chunk(payload: bytes) -> bytes:
    """payload as one chunk; nothing for an empty one, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body, with its trailer fields."""
    return b"0\r\n" + trailers + b"\r\n"
