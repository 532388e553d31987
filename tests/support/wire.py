"""A transport that records what is written and lets a test be the peer, call by call.

It behaves as uvloop's TCP transport does, in what it refuses too: it delivers nothing while reading is paused or after
`close`, tells of a full buffer from within `write`, tells of a loss only later (`settle`), and lets nobody write after
`write_eof` or to a connection that is lost.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

HIGH_WATER_BYTES = 64 << 10
LOW_WATER_BYTES = 16 << 10
READ_BYTES = 256 << 10
"""What uvloop reads at most at a time."""


class Wire(asyncio.Transport):
    """One connection. `clogged`: the peer reads nothing, so what is written stays in the buffer."""

    def __init__(self, protocol: asyncio.Protocol, clogged: bool = False, tls: bool = False) -> None:
        super().__init__()
        self.clogged = clogged
        self.reading = True
        self.lost = False
        self.half_closed = False
        self.aborted = False
        self._tls = tls
        self._protocol: Any = protocol
        self._buffered = b""
        self._sent: list[bytes] = []
        self._unread = b""
        self._peer_ended = False
        self._closing = False
        self._paused_writing = False
        protocol.connection_made(self)

    # --- what the peer does

    def says(self, data: bytes) -> None:
        """The peer sends data; what the protocol does not want to read yet waits."""
        self._unread += data
        self.settle()

    def ends(self) -> None:
        """The peer sends its FIN."""
        self._peer_ended = True
        self.settle()

    def breaks(self, error: Exception | None = None) -> None:
        """The connection is lost."""
        assert not self.lost
        self._closing = self.lost = True
        self._protocol.connection_lost(error)

    def heard(self) -> bytes:
        """What the peer has got since it last asked."""
        sent, self._sent = b"".join(self._sent), []
        return sent

    def reads(self) -> None:
        """The peer reads all there is, and goes on to."""
        self.clogged = False
        self._flush()
        self.settle()

    def reads_some(self, count: int) -> None:
        """The peer reads so many bytes of what waits, and no more."""
        self._sent.append(self._buffered[:count])
        self._buffered = self._buffered[count:]

    def settle(self) -> None:
        """What the loop does next: deliver what was read, tell of a loss."""
        while self._unread and self.reading and not self._closing:
            data, self._unread = self._unread[:READ_BYTES], self._unread[READ_BYTES:]
            self._protocol.data_received(data)
        if self._peer_ended and not self._unread and self.reading and not self._closing:
            self._peer_ended = False
            if not self._protocol.eof_received() or self._tls:
                self.close()
        if self._closing and not self._buffered and not self.lost:
            self.lost = True
            self._protocol.connection_lost(None)

    def held(self) -> bool:
        """Whether the protocol has stopped reading."""
        return not self.reading

    @property
    def buffered(self) -> int:
        """Bytes written that the peer has not taken."""
        return len(self._buffered)

    # --- what the protocol does

    def write(self, data: Any) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        if self.half_closed:
            raise RuntimeError("Cannot call write after write_eof()")
        if self._closing:
            return
        self._buffered += bytes(data)
        self._flush()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def _flush(self) -> None:
        if not self.clogged:
            self._sent.append(self._buffered)
            self._buffered = b""
        if not self._paused_writing and len(self._buffered) > HIGH_WATER_BYTES:
            self._paused_writing = True
            self._protocol.pause_writing()
        elif self._paused_writing and len(self._buffered) <= LOW_WATER_BYTES:
            self._paused_writing = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._buffered)

    def write_eof(self) -> None:
        assert not self._tls, "TLS has no half-close"
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        self.half_closed = True

    def can_write_eof(self) -> bool:
        return not self._tls

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = self.aborted = True
        self._buffered = b""

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]
