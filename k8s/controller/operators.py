"""The Unix socket for people: `kubectl exec deploy/meshd-controller -- meshd status`, and the other verbs that read.

Whoever may run a program in the controller's pod may read all of it; nothing that is said here changes anything.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from k8s.controller.core import Core
from meshd.agent.connection import Connection
from meshd.agent.listening import ControlSocket
from meshd.agent.peer import Peer
from meshd.agent.registry import Unacceptable
from meshd.agent.telling import Telling
from meshd.api.control import Call, Cancel, GetConfiguration, GetEndpoints, GetServices, GetStatus, Refused
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32


class Operators:
    """Serves at `socket` while it is open. `trouble` says why it does not."""

    def __init__(self, core: Core, socket: Path) -> None:
        self._core, self._path = core, socket
        self._tasks = Tasks("operators")
        self._open: set[Connection[Peer]] = set()
        self._socket: ControlSocket | None = None
        self._server: asyncio.Server | None = None
        self.trouble = ""

    async def start(self) -> None:
        """A socket that cannot be had is said, and keeps no sidecar from being served."""
        try:
            self._socket = ControlSocket(self._path, "the socket for `meshd status`", "--socket")
        except Problem as problem:
            self.trouble = str(problem)
            log.error("%s", problem)
            return
        self._path.chmod(0o600)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(Peer.at, self._accept, self._open.discard), sock=self._socket.socket
        )

    def _accept(self, connection: Connection[Peer], _: Peer) -> "_Session | Refused":
        self._open.add(connection)
        if len(self._open) > MAX_CONNECTIONS:
            return Refused("too many look at this controller already", retry=True)
        return _Session(self._core, connection, self._tasks)

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._open):
            connection.close()
        await self._tasks.cancel()


class _Session:
    """One connection's calls."""

    def __init__(self, core: Core, connection: Connection[Peer], tasks: Tasks) -> None:
        self._connection = connection
        self._telling = Telling(core.discovery, core.documents, core.status, connection, tasks)

    def handle(self, call: Call) -> None:
        body = call.body
        try:
            if isinstance(body, GetStatus | GetConfiguration | GetEndpoints | GetServices):
                self._telling.tell(call.id, body)
            elif not isinstance(body, Cancel):
                self._connection.answer(call.id, Refused(f"a controller answers no {type(body).__name__} here"))
        except Unacceptable as error:
            self._connection.answer(call.id, Refused(str(error), error.retry))

    def closed(self) -> None:
        """Nothing outlives an answer."""
