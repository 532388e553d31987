"""A connection that spoke HTTP/1.1 and was switched to another protocol by 101: one end of a tunnel.

It takes the place of `proxy.http1.server` or `proxy.http1.client` on the transport, and goes on counting where that has
counted: to the metrics it is the same connection. TLS, which a caller from outside the mesh may have, ends both
directions at once: what such a caller said before it closed still arrives, and an endpoint that ends first ends it.
"""

import asyncio
from collections.abc import Callable

from proxy.seams import End
from proxy.stats import TcpTraffic
from proxy.transports import break_off, hand_on
from proxy.tunnel import Tunnel


class RawConnection(asyncio.Protocol):
    """See the module; a `proxy.seams.End`. `early` was read before the tunnel stood, and is of the new protocol.

    `ended`: the peer has said all; `full`: it takes no more for now; `held`: it is not being read. `closed` is called
    when the connection is lost.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        tcp: TcpTraffic,
        early: bytes,
        *,
        ended: bool,
        full: bool,
        held: bool,
        closed: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._tcp = tcp
        self._early = early
        self._ended = ended
        self._finished = False  # the other end has said all
        self._full = full
        self._held = held
        self._closed = closed
        self._halves = transport.can_write_eof()  # each direction ends for itself
        self._gone = False  # the peer has said all and hears no more
        self._other: End
        self._tunnel: Tunnel
        hand_on(transport, self)

    # --- from the tunnel

    def join(self, other: End, tunnel: Tunnel) -> None:
        """See `proxy.seams.End`."""
        self._other, self._tunnel = other, tunnel
        self.release()

    def part(self) -> None:
        """See `proxy.seams.End`. A connection is over when it is lost, so nothing calls here any more."""
        del self._other, self._tunnel

    def begin(self) -> None:
        """See `proxy.seams.End`."""
        if self._full:
            self._other.hold()
        if self._early:
            early, self._early = self._early, b""
            self._other.write(early)
        if self._ended:
            self._other.finish()

    # --- from the transport

    def data_received(self, data: bytes) -> None:
        self._tcp.read_bytes += len(data)
        self._tunnel.moved()
        self._other.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        self._other.finish()
        return self._halves and not self._finished

    def connection_lost(self, exc: Exception | None) -> None:
        self._tcp.close(exc)
        self._closed()
        self._gone = self._ended and exc is None and not self._halves
        if self._gone:
            self._other.release()  # so that it is seen to end
        elif not (self._ended and self._finished):
            self._other.abort()
        self._tunnel.left()

    def pause_writing(self) -> None:
        self._other.hold()

    def resume_writing(self) -> None:
        self._other.release()

    # --- from the other end

    def write(self, data: bytes) -> None:
        """Send data to the peer; there is nobody to send it to where it has closed, as one who closes TCP would say."""
        if self._gone:
            self._other.abort()
            return
        self._tcp.written_bytes += len(data)
        self._transport.write(data)

    def finish(self) -> None:
        """The other end has said all: tell the peer, and close when it has said all too."""
        self._finished = True
        if not self._ended and self._halves:
            self._transport.write_eof()
            return
        if not self._ended:
            self._ended = True
            self._other.finish()
        self._transport.close()

    def abort(self) -> None:
        """Break the connection: what was sent is not all there was."""
        break_off(self._transport)

    def hold(self) -> None:
        """Read no more for now."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """There is room again."""
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()
