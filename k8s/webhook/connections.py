"""The connections of API servers, and of whoever else can connect: so many, and none that is idle for ever.

An API server keeps connections for 90 s after it used them last, so that one that has been idle for longer is nobody's;
it would send a review twice on none, so that one that is in use is never cut. What has begun a request and does not go
on with it counts as idle.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from meshd.api.complaints import Dam
from meshd.ca.limits import Admitted

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())

MAX_CONNECTIONS: Final = 1024
IDLE_S: Final = 120.0
LIFE_S: Final = 600.0
"""After which the next answer is the last."""


class Connections:
    """A protocol factory: `inner`'s protocols, within limits. Above them a connection is closed at once."""

    def __init__(self, inner: Callable[[], asyncio.Protocol], max_connections: int = MAX_CONNECTIONS) -> None:
        self._inner, self._max = inner, max_connections
        self._open: dict[int, _Open] = {}
        """By the identity of the transport, which lives as long as its connection."""

    @property
    def count(self) -> int:
        return len(self._open)

    def __call__(self) -> asyncio.Protocol:
        return Admitted(self._admit, self._inner())

    def _admit(self, transport: asyncio.WriteTransport) -> Callable[[], None] | None:
        if len(self._open) >= self._max:
            complaints.warning("refused a connection: %d are open already", self._max)
            return None
        opened = self._open[id(transport)] = _Open(transport)

        def leave() -> None:
            opened.timer.cancel()
            del self._open[id(transport)]

        return leave

    @contextmanager
    def busy(self, transport: Any) -> Iterator[None]:
        """A request of that connection is read and answered meanwhile."""
        connection = self._open.get(id(transport))
        if connection is not None:
            connection.busy += 1
        try:
            yield
        finally:
            if connection is not None:
                connection.busy -= 1
                connection.used()

    def is_old(self, transport: Any) -> bool:
        connection = self._open.get(id(transport))
        return connection is not None and asyncio.get_running_loop().time() - connection.began > LIFE_S


class _Open:
    """A connection: since when, for how many requests it is in use, and the timer that ends it where it is idle."""

    __slots__ = ("_transport", "_used", "began", "busy", "timer")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        loop = asyncio.get_running_loop()
        self._transport = transport
        self.busy = 0
        self.began = self._used = loop.time()
        self.timer = loop.call_later(IDLE_S, self._look)

    def used(self) -> None:
        self._used = asyncio.get_running_loop().time()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._used + IDLE_S - loop.time()
        if self.busy or left_s > 0:
            self.timer = loop.call_later(IDLE_S if self.busy else left_s, self._look)
        else:
            self._transport.abort()
