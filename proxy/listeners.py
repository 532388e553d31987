"""The proxy's listeners: opened, kept trying where their address is taken, drained and closed together.

When there are as many connections as may be (`proxy.room`), all of them but the `essential` ones stop accepting until
there is room again; who connects meanwhile waits in the kernel.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy.capture.sorting import Captured, Sorting
from proxy.mesh.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S
from proxy.room import Room
from proxy.sockets import BACKLOG, Listening, keep_alive
from proxy.stats import Direction

log = logging.getLogger(__name__)

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1", "0.0.0.0", "::"))  # noqa: S104 - compared with, not bound


class Handler(Protocol):
    """What a listener's connections are for."""

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was accepted."""


Tls = ssl.SSLContext | Callable[[], Awaitable[ssl.SSLContext]]
"""What a listener begins handshakes with, or where to ask for it when it opens: Problem while it is not to be had."""


class _NoRoom(asyncio.Protocol):
    """A connection that came with so many others that the last were too many; with TLS it hears of it after the
    handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class _Listener:
    __slots__ = ("captured", "direction", "error", "essential", "handler", "server", "tls")

    def __init__(
        self, handler: Handler, direction: Direction, tls: Tls | None, essential: bool, captured: Captured | None
    ) -> None:
        self.direction = direction
        self.essential = essential
        self.handler = handler
        self.tls = tls
        self.captured = captured
        self.server: asyncio.Server | Sorting | None = None
        self.error = ""


class Listeners:
    """See the module. Listeners are known by their address, HOST:PORT, as it is written. `changed` is called when one
    has opened, `refused` when there is no more room, with the direction of the listener that accepted last."""

    def __init__(
        self,
        sockets: Listening,
        tasks: Tasks,
        changed: Callable[[], None],
        refused: Callable[[Direction], None] = lambda _: None,
    ) -> None:
        self.room = Room()
        self._full = False
        self._reserved = 0
        self._latest: Direction = "inbound"
        self._refused = refused
        self._sockets = sockets
        self._changed = changed
        self._tasks = tasks
        self._listeners: dict[str, _Listener] = {}

    def open(
        self,
        address: str,
        handler: Handler,
        direction: Direction,
        tls: Tls | None = None,
        *,
        essential: bool = False,
        captured: Captured | None = None,
    ) -> None:
        """Accept connections at address for handler, as soon as that can be; those that were redirected to it for
        `captured`, where there is one."""
        listener = self._listeners[address] = _Listener(handler, direction, tls, essential, captured)
        self._start(address, listener)

    def _start(self, address: str, listener: _Listener) -> None:
        self._tasks.start(self._open(address, listener), f"listen at {address}")

    async def _open(self, address: str, listener: _Listener) -> None:
        """Try until it is open, or closed: whoever has the address may let go of it."""
        while self._listeners.get(address) is listener:
            try:
                tls = await listener.tls() if callable(listener.tls) else listener.tls
                await self._serve(address, listener, tls)
            except Problem as problem:
                if listener.error != str(problem):
                    log.error("listener %s: %s; trying again", address, problem)
                listener.error = str(problem)
                await asyncio.sleep(1.0)
                continue
            listener.error = ""
            self._changed()
            return

    async def _serve(self, address: str, listener: _Listener, tls: ssl.SSLContext | None) -> None:
        """Accept at address, in place of what the listener accepted with before: the socket is the same, and a
        connection that comes meanwhile waits in it. Problem where the address cannot be had."""
        if self._listeners.get(address) is not listener:  # closed while its TLS was waited for
            return
        loop = asyncio.get_running_loop()
        sock = self._sockets.listen(address)
        keep_alive(sock)

        def admit() -> bool:
            room = self.room.take()
            if listener.essential:
                return True
            self._latest = listener.direction
            if not room:
                loop.call_soon(self._pause)  # not here: it is being accepted, and others of the same moment
            return room

        server: asyncio.Server | Sorting
        captured = listener.captured
        if captured is not None:
            server = Sorting(sock, admit, listener.handler.accept, captured, tls, self._tasks)
        else:
            server = await loop.create_server(
                lambda: listener.handler.accept() if admit() else _NoRoom(),
                sock=sock,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S if tls else None,
            )
        is_late = captured is not listener.captured  # it has been changed since, and that was quicker
        if self._listeners.get(address) is not listener or (self._full and not listener.essential) or is_late:
            server.close()
            return
        before, listener.server = listener.server, server
        if before is not None:
            before.close()

    def _pause(self) -> None:
        """There are as many connections as may be."""
        if self._full:
            return
        self._full = True
        self._refused(self._latest)
        log.warning("%d descriptors are in use: no connections are accepted until there are fewer", self.room.limit)
        for listener in self._listeners.values():
            if not listener.essential and listener.server is not None:
                listener.server.close()
                listener.server = None

    def sweep(self, now: float) -> None:  # noqa: ARG002 - what counts is how many there are
        """See `proxy.sweep.Swept`: count the connections, and accept again where there is room."""
        used = self.room.look()
        if used > self.room.limit:
            self._pause()
        elif self._full and self.room.again:
            self._full = False
            log.info("connections are accepted again")
            for address, listener in self._listeners.items():
                if not listener.essential:
                    self._start(address, listener)

    def sort(self, address: str, captured: Captured | None) -> None:
        """From now on have those that were redirected to address for `captured`; None: none is redirected there. Who
        waits to be accepted, and what was accepted before, stays as it is."""
        listener = self._listeners.get(address)
        if listener is None or listener.captured is captured:
            return
        listener.captured = captured
        if listener.server is not None:
            self._start(address, listener)

    def renew(self, address: str, tls: ssl.SSLContext) -> None:
        """Begin handshakes at address with this from now on; those under way go on with what they began with."""
        listener = self._listeners.get(address)
        if listener is not None and listener.server is not None:
            self._tasks.start(self._serve(address, listener, tls), f"renew TLS at {address}")

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
            if listener.server is None and not (self._full and not listener.essential)
        )

    def own(self, host: str, port: int) -> bool:
        """Whether a connection to host:port would come back to this proxy."""
        for text in self._listeners:
            address = Address.parse(text)
            if address.port == port and (host == address.host or {host, address.host} <= _LOOPBACK):
                return True
        return False

    def own_port(self, port: int) -> bool:
        """Whether a listener of this proxy has the port, at whatever address; also of one that another of its processes
        has."""
        return port == self._reserved or any(Address.parse(text).port == port for text in self._listeners)

    def reserve(self, address: str) -> None:
        """Another process of this proxy listens at HOST:PORT, or none where it is empty."""
        self._reserved = Address.parse(address).port if address else 0
