"""The seams of the data path: what an exchange asks of the two connections it joins, and of what opens them; and what a
tunnel, which an exchange may become, asks of the two it joins.

Each has an implementation a protocol (`proxy.http1`, `proxy.http2`); exchanges and tunnels know none of them.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.endpoint import LiveEndpoint
    from proxy.errors import Failure
    from proxy.exchange import Exchange
    from proxy.http1.heads import ResponseHead
    from proxy.tunnel import Tunnel


class Caller(Protocol):
    """The connection (or stream) a request came on."""

    def interim(self, head: "ResponseHead") -> None:
        """Pass on a 1xx answer."""

    def switch(self, head: "ResponseHead") -> "End":
        """Pass on a 101, to a request that asked for an upgrade; what comes from now on comes at the end returned."""

    def respond(self, head: "ResponseHead", length: int, payload: bytes, done: bool, whole: bytes | None) -> None:
        """Pass on the answer's head and what is there of its body. `whole`: all of it as it came, if it may go so."""

    def respond_more(self, payload: bytes, done: bool, trailers: bytes) -> None:
        """Pass on more of the answer's body."""

    def fail(self, failure: "Failure", unsent: bool) -> None:
        """Answer in the proxy's own name; nothing of an answer has been passed on."""

    def abort(self) -> None:
        """Cut off: an answer that has begun cannot be completed."""

    def hold(self) -> None:
        """Send no more of the request's body for now."""

    def release(self) -> None:
        """There is room again."""


class Client(Protocol):
    """The connection (or stream) a request goes out on. `reused`: it has served a request before."""

    reused: bool

    def send(self, exchange: "Exchange", extra: bytes, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Send the exchange's head with the `extra` field lines, and what is there of its body."""

    def send_more(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Send more of the body."""

    def hold(self) -> None:
        """Read no more of the answer for now."""

    def release(self) -> None:
        """There is room again."""

    def cancel(self) -> None:
        """Nobody wants the answer any more."""

    def close(self) -> None:
        """End an idle connection."""


class End(Protocol):
    """A connection (or stream) whose bytes have become another protocol's: one end of a tunnel. What comes here it has
    the other end `write`, and the end of it `finish`; it tells the other of its loss, and of its want of room."""

    def join(self, other: "End", tunnel: "Tunnel") -> None:
        """Have what comes here go to `other`, from `begin` on."""

    def part(self) -> None:
        """Both ends are over: let go of the other, so that neither waits for the collector (see `proxy.tcp`)."""

    def begin(self) -> None:
        """Both ends are joined: pass on what came already, and was held back."""

    def write(self, data: bytes) -> None:
        """Send data, which is not empty."""

    def finish(self) -> None:
        """Send the end of this direction, behind all that was written."""

    def abort(self) -> None:
        """Break the connection: what was sent is not all there was."""

    def hold(self) -> None:
        """Read no more for now: the other end has no room."""

    def release(self) -> None:
        """There is room again."""


class Shared(Protocol):
    """A connection that carries many requests at once. `room`: how many more it takes now."""

    @property
    def room(self) -> int: ...

    def stream(self) -> Client:
        """Where the next request may go out."""

    def close(self) -> None:
        """Take no more requests, and end with the last of them."""


class Connector(Protocol):
    """What opens connections to endpoints."""

    def connect(self, exchange: "Exchange", live: "LiveEndpoint") -> None:
        """Take an idle connection or open one; then call `connected` or `not_connected`."""
