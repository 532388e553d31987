"""The proxy's listeners: opened, kept trying where their address is taken, drained and closed together."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Protocol

from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy.mesh.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S
from proxy.sockets import BACKLOG, Sockets

log = logging.getLogger(__name__)

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1", "0.0.0.0", "::"))  # noqa: S104 - compared with, not bound


class Handler(Protocol):
    """What a listener's connections are for."""

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was accepted."""


class _Listener:
    __slots__ = ("error", "handler", "server", "tls")

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None) -> None:
        self.handler = handler
        self.tls = tls
        self.server: asyncio.Server | None = None
        self.error = ""


class Listeners:
    """See the module. Listeners are known by their address, HOST:PORT, as it is written. `changed` is called when one
    has opened."""

    def __init__(self, sockets: Sockets, tasks: Tasks, changed: Callable[[], None]) -> None:
        self._sockets = sockets
        self._changed = changed
        self._tasks = tasks
        self._listeners: dict[str, _Listener] = {}

    def open(self, address: str, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections at address for handler, as soon as that can be."""
        listener = self._listeners[address] = _Listener(handler, tls)
        self._tasks.start(self._open(address, listener), f"listen at {address}")

    async def _open(self, address: str, listener: _Listener) -> None:
        """Try until it is open, or closed: whoever has the address may let go of it."""
        loop = asyncio.get_running_loop()
        while self._listeners.get(address) is listener:
            try:
                bound = self._sockets.listen(address)
            except Problem as problem:
                if not listener.error:
                    log.error("%s; trying again", problem)
                listener.error = str(problem)
                await asyncio.sleep(1.0)
                continue
            tls = listener.tls
            listener.server = await loop.create_server(
                listener.handler.accept,
                sock=bound,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S if tls else None,
            )
            listener.error = ""
            self._changed()
            return

    def close(self, address: str) -> None:
        """Accept no more connections at address."""
        listener = self._listeners.pop(address, None)
        if listener is not None and listener.server is not None:
            listener.server.close()
        self._sockets.release(address)

    def close_all(self) -> None:
        for address in tuple(self._listeners):
            self.close(address)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._listeners)

    def waiting_for(self) -> tuple[str, ...]:
        """What is not open yet."""
        return tuple(
            f"listener {address}" + (f" ({listener.error})" if listener.error else "")
            for address, listener in self._listeners.items()
            if listener.server is None
        )

    def own(self, host: str, port: int) -> bool:
        """Whether a connection to host:port would come back to this proxy."""
        for text in self._listeners:
            address = Address.parse(text)
            if address.port == port and (host == address.host or {host, address.host} <= _LOOPBACK):
                return True
        return False
