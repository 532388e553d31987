"""A stream that goes on, after `l5d-upgrade`, as the connection of an upgraded request would: one end of a tunnel.

Content is the other protocol's bytes and END_STREAM its end of a direction; there are no trailers. It takes the number
over from the `ServerStream` or `ClientStream` that was a request's.
"""

from proxy.http2.engine import Stream
from proxy.http2.frames import Code
from proxy.seams import End
from proxy.tunnel import Tunnel


class RawStream(Stream):
    """See the module; a `proxy.seams.End`. Of `before` nothing but heads has been sent, and nothing has come since."""

    __slots__ = ("_left", "_other", "_tunnel")

    _other: End
    _tunnel: Tunnel

    def __init__(self, before: Stream) -> None:
        super().__init__(before.engine, before.number)
        assert not before.queue
        assert not before.local_ended
        assert not before.remote_ended
        self.send_window = before.send_window
        self._left = False
        self.engine.open(self)

    # --- from the tunnel

    def join(self, other: End, tunnel: Tunnel) -> None:
        """See `proxy.seams.End`."""
        self._other, self._tunnel = other, tunnel

    def part(self) -> None:
        """See `proxy.seams.End`. It is closed, or will be by the hook that says so: the engine calls no more."""
        del self._other, self._tunnel

    def begin(self) -> None:
        """See `proxy.seams.End`. Nothing waits here."""

    # --- from the engine

    def on_data(self, data: bytes, ended: bool) -> None:
        self._tunnel.moved()
        if data:
            self._other.write(data)
        if ended and not self._left:  # to write to who has gone is to leave
            self._other.finish()
            self._leave_if_over()

    def on_headers(self, block: bytes, ended: bool) -> None:  # noqa: ARG002 - the engine's signature
        self.engine.on_stray_block(block)
        self.engine.break_off(self, Code.PROTOCOL_ERROR)

    def on_reset(self, code: int, unprocessed: bool) -> None:  # noqa: ARG002 - the engine's signature
        self._other.abort()
        self._leave()

    def on_shut(self) -> None:
        """Nothing: whoever pauses the other protocol may, as with opaque bytes (`proxy.stalls`)."""

    def on_full(self) -> None:
        self._other.hold()

    def on_room(self) -> None:
        self._other.release()
        self._leave_if_over()

    # --- from the other end

    def write(self, data: bytes) -> None:
        """Send data to the peer."""
        self.send_data(data, False)

    def finish(self) -> None:
        """The other end has said all: tell the peer."""
        self.send_data(b"", True)
        self._leave_if_over()

    def abort(self) -> None:
        """Break the stream: what was sent is not all there was."""
        self.reset(Code.CANCEL)
        self._leave()

    def _leave_if_over(self) -> None:
        if self.local_ended and self.remote_ended:
            self._leave()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._tunnel.left()
