"""Which workload the processes of a control group are: the agent's answer, remembered by group and user.

The kernel gives no group's id twice, so what was said stays true but for the documents, which may change: it is asked
again after `FRESH_S`, while the old answer serves. That a process is no workload is believed for a moment. While the
agent is away, what is known stays so, and what is not known is nobody. Of a connection to which the kernel gave another
port, whose process only the agent can tell, it is waited for.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from meshd.api.complaints import Dam
from meshd.api.control import Caller
from meshd.api.names import Address, InvalidName, WorkloadName
from meshd.api.tasks import Tasks
from proxy.capture.diag import Process

log = logging.getLogger(__name__)
log.addFilter(Dam())

FRESH_S: Final = 5.0
UNKNOWN_S: Final = 1.0
AWAY_S: Final = 30.0
"""How long an agent that does not answer is waited for where nobody else can tell who calls: it is being restarted."""
ASK_AGAIN_S: Final = 0.25
MAX_KNOWN: Final = 4096
"""Groups and users that are remembered; the one that called longest ago makes room."""
MAX_ASKED: Final = 64
"""Of whom the agent is asked at a time; who calls beyond it is nobody."""


class Unanswered(Exception):
    """The agent did not say."""


class Agent(Protocol):
    """Who is asked."""

    async def identify(self, cgroup: int, uid: int) -> Caller:
        """Which workload the processes of uid in a control group are. Unanswered."""

    async def source(self, here: Address, peer: Address) -> int:
        """From which port the connection was made that was accepted at here, from peer; 0 where nobody knows.
        Unanswered."""


class _Known:
    __slots__ = ("due_at", "reason", "workload")

    def __init__(self) -> None:
        self.workload: WorkloadName | None = None
        self.reason = ""
        self.due_at = 0.0


class Callers:
    """See the module."""

    def __init__(self, agent: Agent, tasks: Tasks, clock: Callable[[], float] = monotonic) -> None:
        self._agent = agent
        self._tasks = tasks
        self._clock = clock
        self._known: OrderedDict[Process, _Known] = OrderedDict()
        self._asked: dict[Process, asyncio.Task[None]] = {}

    async def workload(self, process: Process) -> WorkloadName | None:
        """Which workload it is; None where it is none, or nobody says."""
        known = self._known.get(process)
        if known is None or self._clock() >= known.due_at:
            asking = self._ask(process)
            if known is None or known.workload is None:
                if asking is None:
                    return None
                await asyncio.wait((asking,))  # of many that wait none ends it for the others
                known = self._known.get(process)
        if known is None:
            return None
        if process in self._known:
            self._known.move_to_end(process)
        return known.workload

    async def source(self, here: Address, peer: Address) -> Address | None:
        """Where the connection came from before the kernel gave it another port; None where nobody says."""
        until = self._clock() + AWAY_S
        while True:
            try:
                port = await self._agent.source(here, peer)
                break
            except Unanswered:
                if self._clock() >= until:
                    return None
                await asyncio.sleep(ASK_AGAIN_S)
        return Address(peer.host, port) if port not in (0, peer.port) else None

    def _ask(self, process: Process) -> "asyncio.Task[None] | None":
        asking = self._asked.get(process)
        if asking is None and len(self._asked) < MAX_ASKED:
            asking = self._asked[process] = self._tasks.start(self._asking(process), f"who is {process.cgroup}")
        return asking

    async def _asking(self, process: Process) -> None:
        try:
            answer = await self._agent.identify(process.cgroup, process.uid)
            workload = WorkloadName.parse(answer.workload) if answer.workload else None
            self._learn(process, workload, answer.reason)
        except (Unanswered, InvalidName) as error:
            known = self._known.get(process)
            self._learn(process, known.workload if known is not None else None, str(error))
        finally:
            del self._asked[process]

    def _learn(self, process: Process, workload: WorkloadName | None, reason: str) -> None:
        known = self._known.setdefault(process, _Known())
        if workload is None and (reason != known.reason or known.workload is not None):
            log.warning("a caller is no workload of this host: %s", reason)
        known.workload, known.reason = workload, reason
        known.due_at = self._clock() + (UNKNOWN_S if workload is None else FRESH_S)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
