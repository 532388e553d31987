"""What both ends of an HTTP/2 connection share: an `Engine` on a transport, one write a loop turn."""

import asyncio
import logging
from typing import Final, cast

from proxy.http2 import frames
from proxy.http2.engine import LARGE_BYTES, Engine, ProtocolError
from proxy.http2.frames import PING
from proxy.stalls import Outflow
from proxy.stats import TcpTraffic
from proxy.sweep import Sweep

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES: Final = 16 << 20
"""What may wait for a peer that does not read. Content is held long before; this bounds what is not content."""


class Http2Connection(Engine, asyncio.Protocol):
    """See the module. The owner implements the engine's hooks, and `lost`."""

    def __init__(self, client: bool, tcp: TcpTraffic, sweep: Sweep) -> None:
        super().__init__(client)
        self._tcp = tcp
        self._sweep = sweep
        self._loop = asyncio.get_running_loop()
        self._heard = True  # something has come since this was last looked at
        self._silent_since = 0.0
        self._asked = False  # whether it is there
        self._ending = False  # the transport was closing when it was last looked at
        self._outflow = Outflow()
        self.transport: asyncio.Transport

    def lost(self) -> None:
        """The connection is over."""
        raise NotImplementedError

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._tcp.opened += 1
        self._sweep.add(self)
        self.begin()

    def data_received(self, data: bytes) -> None:
        self._tcp.read_bytes += len(data)
        self._heard = True
        try:
            self.receive(data)
        except ProtocolError as error:
            log.debug("ended an HTTP/2 connection: %s", error)
            self.fail(error)
            self._flush()
            self.transport.close()
            self.broken(error)

    def broken(self, error: ProtocolError) -> None:
        """The peer broke the protocol; the connection is closing."""

    def unread(self) -> None:
        """The peer does not read; the connection is being cut."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._tcp.close(exc)
        self._sweep.discard(self)
        self.lost()

    def pause_writing(self) -> None:
        self.pause()

    def resume_writing(self) -> None:
        self.unpause()

    def vanished(self, now: float, silent_s: float, answer_s: float) -> bool:
        """Whether the peer has, as one whose host lost power: it sends no FIN. One that has said nothing for
        `silent_s`, with streams open, is asked by a PING, and has `answer_s` to answer."""
        if self._heard or not self.streams:
            self._heard = self._asked = False
            self._silent_since = now
            return False
        if now - self._silent_since <= (answer_s if self._asked else silent_s):
            return False
        if self._asked:
            return True
        self._asked = True
        self._silent_since = now
        self._send(frames.frame(PING, 0, 0, bytes(8)))
        return False

    # --- from the engine

    def wake(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        out = self.out
        if not out or self.transport.is_closing():
            out.clear()
            return
        if self.large:
            self._send_gathered()
        else:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._tcp.written_bytes += len(data)
            self.transport.write(data)
        out.clear()
        if self.paused and self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.unread()
            self.transport.abort()

    def _send_gathered(self) -> None:
        """Send what is in `out`: what is small together, what is large as it is."""
        self.large = False
        small: list[bytes | memoryview] = []
        for data in self.out:
            self._tcp.written_bytes += len(data)
            if len(data) < LARGE_BYTES:
                small.append(data)
                continue
            if small:
                self.transport.write(b"".join(small))
                small.clear()
            self.transport.write(data)  # by itself: TLS keeps a buffer as large as what it was given at once
        if small:
            self.transport.write(b"".join(small))

    def sweep(self, now: float) -> None:
        """See `proxy.sweep.Swept`."""
        self.calm()
        self.look(now)
        if self._outflow.stuck(self.transport.get_write_buffer_size(), now):
            self.unread()
            self.transport.abort()
        if self.transport.is_closing():
            if self._ending:
                self.transport.abort()  # a peer that does not read its last bytes does not keep the connection
            self._ending = True
