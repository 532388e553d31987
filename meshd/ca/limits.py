"""What anyone who can connect can make the CA hold: so many connections, each for so long.

A call takes milliseconds, a wait for news 20 seconds, and a client opens a connection for each, so a connection that is
still there after CONNECTION_LIFE_S is idle, or slow on purpose. The handshake before it has a time limit of its own
(the server's).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from meshd.api.complaints import Dam

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())

MAX_CONNECTIONS: Final = 4096
"""Agents that wait for news among them (`meshd.ca.following`)."""
CONNECTION_LIFE_S: Final = 30.0
HANDSHAKE_S: Final = 10.0


class Admitted(asyncio.Protocol):
    """Passes everything on to `inner`, once `admit` has let its connection in; what that returned is called when it has
    ended. Where it returned None the connection is closed at once, and `inner` hears nothing of it."""

    def __init__(
        self, admit: Callable[[asyncio.WriteTransport], Callable[[], None] | None], inner: asyncio.Protocol
    ) -> None:
        self._admit, self._inner = admit, inner
        self._leave: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast("asyncio.WriteTransport", transport)  # uvloop's are transports by shape, not by class
        self._leave = self._admit(writing)
        if self._leave is None:
            writing.abort()
        else:
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._leave is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._leave is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None
            self._inner.connection_lost(exc)


class Limited:
    """A protocol factory: `inner`'s protocols, within limits. Above them a connection is closed at once."""

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        max_connections: int = MAX_CONNECTIONS,
        life_s: float = CONNECTION_LIFE_S,
    ) -> None:
        self._inner, self._max, self._life_s = inner, max_connections, life_s
        self._count = 0

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._count

    def __call__(self) -> asyncio.Protocol:
        return Admitted(self._admit, self._inner())

    def _admit(self, transport: asyncio.WriteTransport) -> Callable[[], None] | None:
        if self._count >= self._max:
            complaints.warning(
                "refused a connection from %s: %d are open already", transport.get_extra_info("peername"), self._max
            )
            return None
        self._count += 1
        end = asyncio.get_running_loop().call_later(self._life_s, transport.abort)

        def leave() -> None:
            end.cancel()
            self._count -= 1

        return leave
