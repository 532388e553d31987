"""How long a peer may keep a message from going on, and when it is the peer that does.

A peer stalls where it owes us bytes (a caller whose request is not whole) or takes none of ours (what is written to it
stays where it is, or its window shut). A far side that says nothing because it is thinking, or has nothing to say, as
with server-sent events, long polling and streams of gRPC, stalls nothing: how long it may think is for a service's
policy to say (`proxy.rules`). Opaque bytes are not bounded so: whoever pauses them may.

    POST, content-length 5, and "he" for a minute            → 408
    GET of a large answer, of which nothing is read          → cut off
    GET of an event stream, nothing to say for an hour       → nothing
"""

from typing import Final

STALL_S: Final = 60.0
"""How long nothing may move; nginx's for bodies and for answers."""


class Outflow:
    """Whether what is written to a connection leaves it, by looking once in a while at how much waits."""

    __slots__ = ("_since", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._since = 0.0

    def stuck(self, size: int, now: float) -> bool:
        """Whether the `size` bytes that wait at `now` (seconds) have waited, the very same, for `STALL_S`."""
        if not size or size != self._size:
            self._size = size
            self._since = now
            return False
        return now - self._since > STALL_S
