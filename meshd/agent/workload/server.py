"""The Workload API's socket, and the bounds on those who connect.

Everybody may connect (mode 0666): the kernel says who a process is, and one that is no workload is told so. A file mode
could only keep out workloads whose user the operator forgot. The socket has a path: one with an abstract name
(unix(7)) could be taken by any user while the agent is away, and would hand out keys of their making.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

from meshd.agent.complaints import complaints
from meshd.agent.core import Core
from meshd.agent.listening import ControlSocket
from meshd.agent.workload.attest import NotAttested
from meshd.agent.workload.grpc import GrpcConnection
from meshd.agent.workload.jwts import Jwts
from meshd.agent.workload.process import LocalProcess
from meshd.agent.workload.service import WorkloadApi
from meshd.agent.workload.svids import Svids
from meshd.api.tasks import Tasks

MAX_CONNECTIONS: Final = 2048
"""A process has one, seldom two."""

MAX_CONNECTIONS_OF_A_USER: Final = 256
"""Of one who is not root."""

REQUIRED: Final = ("workload.spiffe.io", "true")
"""The metadata that no request has which somebody else had a program make (SPIFFE Workload Endpoint, section 6.1)."""

Connection = GrpcConnection[LocalProcess]


class WorkloadServer:
    """Serves at `path`, which it takes at once: Problem when it cannot be had."""

    def __init__(self, core: Core, path: Path, svids: Svids | None = None, jwts: Jwts | None = None) -> None:
        self._core = core
        self.path = path
        self._socket = ControlSocket(path, "the Workload API's socket", "workloadApi.socket")
        self._svids, self._jwts = svids or Svids(core), jwts or Jwts(core)
        self._api = WorkloadApi(core, self._svids, self._jwts)
        self._tasks = Tasks("workload API")
        self._open: dict[Connection, LocalProcess | None] = {}
        self._of_user: Counter[int] = Counter()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def calls(self) -> int:
        """How many are being answered, on all connections."""
        return sum(connection.calls for connection in self._open)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connection, sock=self._socket.socket)
        self._core.follow(self._forget)

    async def close(self) -> None:
        """Take no more connections, remove the socket, end what is open."""
        self._socket.close()
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.close()
        await self._tasks.cancel()

    def _connection(self) -> Connection:
        return GrpcConnection(self._api.methods, REQUIRED, self._accept, self._closed, self._tasks)

    def _accept(self, connection: Connection, transport: asyncio.Transport) -> LocalProcess | None:
        try:
            process = LocalProcess(transport.get_extra_info("socket"))
        except NotAttested as refused:
            complaints.warning("workload API: turned away: %s", refused.detail)
            return None
        uid = process.peer.uid
        if len(self._open) >= MAX_CONNECTIONS or (uid != 0 and self._of_user[uid] >= MAX_CONNECTIONS_OF_A_USER):
            complaints.warning("workload API: too many connections: %s turned away", process.peer)
            process.close()
            return None
        self._open[connection] = process
        self._of_user[uid] += 1
        return process

    def _closed(self, connection: Connection) -> None:
        process = self._open.pop(connection, None)
        if process is not None:
            self._of_user[process.peer.uid] -= 1
            self._of_user += Counter()  # drops those at 0
            process.close()

    def _forget(self) -> None:
        workloads = frozenset(self._core.selectors)
        self._svids.keep(workloads)
        self._jwts.keep(workloads)
