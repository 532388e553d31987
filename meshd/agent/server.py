"""The control API's server: takes connections on the agent's socket, within bounds, and gives each its session."""

import asyncio
from collections import Counter

from meshd.agent.complaints import complaints
from meshd.agent.connection import Connection
from meshd.agent.core import Core
from meshd.agent.listening import ControlSocket
from meshd.agent.peer import Peer
from meshd.agent.session import ControlSession
from meshd.api.control import Refused
from meshd.api.tasks import Tasks

MAX_CONNECTIONS = 4096
"""Two for a workload (its `meshd run` and its proxy), and those who look."""

MAX_CONNECTIONS_OF_STRANGERS = 16
"""Those of one user who may only read the status."""


class ControlServer:
    """Serves while it is open; `close` ends every connection."""

    def __init__(self, core: Core, control: ControlSocket) -> None:
        self._core, self._control = core, control
        self._tasks = Tasks("control")
        self._open: set[Connection[Peer]] = set()
        self._strangers: Counter[int] = Counter()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Connection(Peer.at, self._accept, self._closed), sock=self._control.socket
        )

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def _accept(self, connection: Connection[Peer], peer: Peer) -> ControlSession | Refused:
        self._open.add(connection)
        if self._is_stranger(peer):
            self._strangers[peer.uid] += 1
        if len(self._open) > MAX_CONNECTIONS or self._strangers[peer.uid] > MAX_CONNECTIONS_OF_STRANGERS:
            complaints.warning("control API: too many connections: %s turned away", peer)
            return Refused("the agent has too many connections already", retry=True)
        return ControlSession(self._core, peer, connection, self._tasks)

    def _closed(self, connection: Connection[Peer]) -> None:
        self._open.discard(connection)
        if self._is_stranger(connection.peer):
            self._strangers[connection.peer.uid] -= 1
            self._strangers += Counter()  # drops those at 0

    def _is_stranger(self, peer: Peer) -> bool:
        return not (self._core.access.may_declare(peer) or self._core.access.may_be_host_proxy(peer))

    async def close(self) -> None:
        """Take no more connections, remove the socket, end what is open."""
        self._control.close()
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.close()
        await self._tasks.cancel()
