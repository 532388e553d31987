"""The connections of API servers, and of whoever else can connect: so many, and none that is idle for ever.

An API server keeps connections for 90 s after it used them last, so that one that has been idle for longer is nobody's;
it would send a review twice on none, so that one that is in use is never cut. What has begun a request and does not go
on with it counts as idle.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from meshd.api.complaints import Dam

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
        self._open: dict[int, _Connection] = {}
        """By the identity of the transport, which lives as long as its connection."""

    @property
    def count(self) -> int:
        return len(self._open)

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._inner())

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

    def admit(self, connection: "_Connection", transport: asyncio.WriteTransport) -> bool:
        if len(self._open) >= self._max:
            complaints.warning("refused a connection: %d are open already", self._max)
            return False
        self._open[id(transport)] = connection
        return True

    def leave(self, transport: asyncio.WriteTransport) -> None:
        del self._open[id(transport)]


class _Connection(asyncio.Protocol):
    """Passes everything on to the inner protocol, once it is admitted."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections, self._inner = connections, inner
        self._transport: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.busy = 0
        self.began = self._used = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's are transports by shape, not by class
        if not self._connections.admit(self, writing):
            writing.abort()
            return
        self._transport = writing
        loop = asyncio.get_running_loop()
        self.began = self._used = loop.time()
        self._timer = loop.call_later(IDLE_S, self._look)
        self._inner.connection_made(transport)

    def used(self) -> None:
        self._used = asyncio.get_running_loop().time()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._used + IDLE_S - loop.time()
        if self.busy or left_s > 0:
            self._timer = loop.call_later(IDLE_S if self.busy else left_s, self._look)
        elif self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._connections.leave(self._transport)
        self._transport = None
        self._inner.connection_lost(exc)
