"""Lets connections in: as many handshakes at a time as are done soon, and the rest wait outside, in the kernel's queue.

A handshake costs more than all that follows it. When a mesh comes back at once, and each connection were begun as it
comes, none would be done before its client gives up, and all of them again a little later; and each would take memory
meanwhile. So the queue outside is short, too: whoever finds no place in it tries again by itself (TCP), and who is let
in is served in time.

Peers that connect and say nothing must not keep others out: where no handshake ends, another is begun all the same
after PATIENCE_S. What holds connections that are made is `meshd.ca.limits`.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from meshd.api.complaints import Dam
from meshd.api.names import Address
from meshd.api.tasks import Tasks
from meshd.ca.limits import HANDSHAKE_S
from meshd.ca.listening import listen_at

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())

AT_ONCE: Final = 64
"""Handshakes. What is computed for them takes 0.1 s of a core, so that they wait for the network, if for anything."""

QUEUE: Final = 256
"""Connections that wait outside: a second's work or less."""

PATIENCE_S: Final = 0.005
_AFTER_TROUBLE_S: Final = 0.1


class Door:
    """Connections to `listen`, under `tls`, for the protocols that `limited` makes. `connections` are those that are
    made or being made; `address` is where it listens, once it is open."""

    def __init__(self, limited: Callable[[], asyncio.Protocol], tls: ssl.SSLContext) -> None:
        self._limited, self._tls = limited, tls
        self._listeners: list[socket.socket] = []
        self._tasks = Tasks("ca.door")
        self._shaking = 0
        self._done = asyncio.Event()

    async def open(self, listen: Address) -> Address:
        """Listen at all addresses that the name stands for; the first of them. OSError when one cannot be had."""
        self._listeners = await listen_at(listen, QUEUE)
        for listener in self._listeners:
            self._tasks.start(self._accept(listener), "accepting")
        return Address(*self._listeners[0].getsockname()[:2])

    async def close(self) -> None:
        """Let no one in any more, and leave those outside to the system."""
        await self._tasks.cancel()
        self._close_listeners()

    def _close_listeners(self) -> None:
        while self._listeners:
            self._listeners.pop().close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # too many open files, or the peer has gone
                complaints.warning("a connection was not accepted: %s", error.strerror)
                await asyncio.sleep(_AFTER_TROUBLE_S)
                continue
            self._shaking += 1
            self._tasks.start(self._shake(connection), "handshake")

    async def _room(self) -> None:
        if self._shaking < AT_ONCE:
            return
        self._done.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._done.wait()

    async def _shake(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._limited, connection, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:  # it is no TLS, has a certificate that is not good, took too long, or has gone
            connection.close()
        finally:
            self._shaking -= 1
            self._done.set()
