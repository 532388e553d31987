"""What an exchange becomes when its endpoint answers 101: bytes of another protocol, both ways, as they come.

A tunnel joins two ends (`proxy.seams.End`): what one reads the other writes. Each direction ends for itself; a tunnel
is over when both have ended, or when one of its connections is lost, which breaks the other. To the endpoint it counts
as an open connection, as opaque ones do, and not as a request that is pending: how long it lasts says nothing about how
loaded the endpoint is. Of the policy's times the one between pieces is left, in either direction.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

from proxy.endpoint import LiveEndpoint
from proxy.seams import End


class Tunnel:
    """See the module. `idle_s`: how long nothing may move (0: any time); `timed_out` is called when nothing did."""

    __slots__ = ("_ends", "_idle_s", "_left", "_live", "_moved_at", "_timed_out", "_timer")

    def __init__(
        self, caller: End, endpoint: End, live: LiveEndpoint, idle_s: float, timed_out: Callable[[], None]
    ) -> None:
        self._moved_at = monotonic()
        self._ends: tuple[End, ...] = (caller, endpoint)
        self._live = live
        self._idle_s = idle_s
        self._timed_out = timed_out
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None
        live.open += 1
        if idle_s:
            self._timer = asyncio.get_running_loop().call_later(idle_s, self._look)
        for end, other in ((caller, endpoint), (endpoint, caller)):
            end.join(other, self)
        for end in self._ends:
            end.begin()

    def moved(self) -> None:
        """Something came, on either side."""
        self._moved_at = monotonic()

    def left(self) -> None:
        """One of the ends is over: its connection is closed, or its stream."""
        self._left += 1
        if self._left == 2:
            self._live.open -= 1
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            ends, self._ends = self._ends, ()
            for end in ends:
                end.part()

    def _look(self) -> None:
        """See whether something moved, or look again when it must have."""
        wait = self._moved_at + self._idle_s - monotonic()
        # The loop's clock is a little behind the one that is read here.
        if wait > 0.002:
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)
            return
        self._timer = None
        self._timed_out()
        for end in self._ends:
            end.abort()
