"""A listener to which connections are redirected, among those that are made to it: each is told apart as it is
accepted, and before anything is read of it.

The loop accepts by itself only where one protocol, and one TLS context, is for all of a listener's connections; so this
accepts in its place (`loop.connect_accepted_socket`). That costs every connection some 45 µs, so it is for listeners of
a proxy to which somebody's connections are led at present; the others are the loop's (`proxy.listeners`, `sort`).
"""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Final, Protocol

from meshd.api.names import Address
from meshd.api.tasks import Tasks
from proxy.capture.original import original_destination
from proxy.mesh.tls import CLOSE_TIMEOUT_S, HANDSHAKE_TIMEOUT_S

log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Connections that are accepted before others have their turn."""
PAUSE_S: Final = 0.1
"""How long nothing is accepted where that fails: the host has no descriptors or no memory left."""
_RESET: Final = struct.pack("ii", 1, 0)


class Captured(Protocol):
    """What redirected connections are for."""

    def expects(self, where: Address) -> bool:
        """Whether one that was going to `where` is for this; else it is as any that was made to the listener."""

    async def take(self, accepted: socket.socket, where: Address) -> None:
        """Have a connection that was going to `where`: `serve` it, or `refuse` it."""


class Sorting:
    """Accepts at `listening`, until `close`. `admit` says whether there is room for one more; `accept` makes the
    protocol for a connection that was made to this very address, which begins with TLS where there is `tls`."""

    def __init__(
        self,
        listening: socket.socket,
        admit: Callable[[], bool],
        accept: Callable[[], asyncio.Protocol],
        captured: Captured,
        tls: ssl.SSLContext | None,
        tasks: Tasks,
    ) -> None:
        self._listening = listening
        self._admit = admit
        self._accept = accept
        self._captured = captured
        self._tls = tls
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("connections cannot be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(PAUSE_S, self._again)
                return
            accepted.setblocking(False)
            self._sort(accepted)
            if self._listening.fileno() < 0:
                return

    def _again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._readable)

    def _sort(self, accepted: socket.socket) -> None:
        if not self._admit():
            refuse(accepted)
            return
        where = original_destination(accepted)
        if where is None or not self._captured.expects(where):
            self._tasks.start(serve(accepted, self._accept(), self._tls), "accept")
        else:
            self._tasks.start(self._captured.take(accepted, where), f"captured for {where}")

    def close(self) -> None:
        """Accept no more."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()


async def serve(accepted: socket.socket, protocol: asyncio.Protocol, tls: ssl.SSLContext | None = None) -> bool:
    """Let protocol have the connection: with `tls`, when the handshake is done. Whether it hears of it."""
    try:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: protocol,
            accepted,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
            ssl_shutdown_timeout=CLOSE_TIMEOUT_S if tls else None,
        )
    except (OSError, TimeoutError) as error:  # ssl.SSLError among them
        log.debug("a connection came to nothing: %s", error)
        accepted.close()
        return False
    except BaseException:
        accepted.close()
        raise
    return True


def refuse(accepted: socket.socket) -> None:
    """Reset the connection."""
    try:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:  # it is over already
        pass
    finally:
        accepted.close()
