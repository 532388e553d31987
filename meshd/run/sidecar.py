"""`meshd run`, in order: sockets, agent, registration, proxy, command; and back.

    start   listeners ─ registered (waits for its ports) ─ proxy ready ─ command ─ its ports accept: announced
    stop    SIGTERM ─ withdrawn ─ command gets SIGTERM ─ command ends ─ proxy drains ─ entry ends

The agent announces the workload only while its proxy is ready and its ports accept, so that no caller is sent to a
process that is still starting. On SIGTERM callers are sent elsewhere before the command hears of it.
"""

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from meshd.api.control import RegisterWorkload
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.names import Address, WorkloadName
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.run import signals
from meshd.run.agents import Agent
from meshd.run.child import Child
from meshd.run.environment import command_environment
from meshd.run.listeners import Listeners, address_of
from meshd.run.ports import not_listening
from meshd.run.proxy import Proxy
from meshd.run.registration import Registration

log = logging.getLogger(__name__)

LATE_CALLERS_S = 0.1
"""How long the command still serves after the withdrawal: what callers sent before they heard of it is under way."""

LOOK_FIRST_S = 0.02
LOOK_MOST_S = 0.5
REMARK_AFTER_S = 10.0
"""A command whose ports do not accept for this long is remarked on: it may listen elsewhere than it was said to."""


class NotFound(Problem):
    """There is no such command; the status is the one that shells have for it (POSIX XCU, 2.8.2)."""

    exit_status = 127


class NotExecutable(Problem):
    """There is such a command, but it cannot be executed."""

    exit_status = 126


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, and how. Port 0 is any that is free; `workers` is what `meshd-proxy --workers` takes."""

    workload: WorkloadName
    command: tuple[str, ...]
    ports: tuple[WorkloadPort, ...]
    upstreams: tuple[Upstream, ...]
    outbound: Address
    inbound: Address
    admin: Address
    drain_s: float
    workers: str = "1"


class Sidecar:
    """One workload, from its first socket to its exit status."""

    def __init__(self, plan: Plan, agent: Agent, environment: Mapping[str, str]) -> None:
        """Problem when a socket cannot be had."""
        self._plan = plan
        self._environment = environment
        self._tasks = Tasks("run")
        self._starting: asyncio.Task[int] | None = None
        self._command: Child | None = None
        self._stopped_by = 0
        self._withdrawn = False
        self._draining = False
        instance = secrets.token_hex(16)
        self._listeners = Listeners(plan.outbound, plan.inbound, plan.admin, plan.upstreams)
        self._registration = Registration(agent, self._entry(instance))
        self._proxy = Proxy(self._listeners, agent.socket, instance, environment, plan.drain_s, plan.workers)

    async def run(self) -> int:
        """The command's exit status as a shell counts it, or of the signal that ended the start. Problem when the
        workload could not be started."""
        self._starting = asyncio.current_task()
        signals.handle(self._receive)
        try:
            self._command = await self._start()
            self._starting = None
            return await self._command.ended
        except asyncio.CancelledError:
            if not self._stopped_by:
                raise
            return 128 + self._stopped_by
        finally:
            self._starting = None
            await self._stop()

    def _entry(self, instance: str) -> RegisterWorkload:
        return RegisterWorkload(
            instance=instance,
            namespace=self._plan.workload.namespace,
            name=self._plan.workload.name,
            ports=self._plan.ports,
            upstreams=self._listeners.upstreams,
            outbound=str(address_of(self._listeners.outbound)),
            inbound=str(address_of(self._listeners.inbound)),
            admin=str(address_of(self._listeners.admin)),
            pid=os.getpid(),
            waiting_for=("command",),
        )

    async def _start(self) -> Child:
        identity = await self._registration.start()
        await self._proxy.start()
        outbound, admin = address_of(self._listeners.outbound), address_of(self._listeners.admin)
        log.info("%s is meshed as %s: outbound %s, admin %s", self._plan.workload, identity, outbound, admin)
        environment = command_environment(self._environment, identity, outbound, admin, self._listeners.upstreams)
        command = self._execute(environment)
        self._tasks.start(self._announce(command), "announce")
        return command

    def _execute(self, environment: Mapping[str, str]) -> Child:
        try:
            return Child.spawn(self._plan.command, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{self._plan.command[0]}: command not found") from error
        except OSError as error:
            raise NotExecutable(f"{self._plan.command[0]} cannot be executed: {error.strerror}") from error

    async def _announce(self, command: Child) -> None:
        """Let callers come once the command's ports accept connections."""
        loop = asyncio.get_running_loop()
        remark = loop.call_later(REMARK_AFTER_S, self._remark)
        said: tuple[str, ...] | None = None
        pause_s = LOOK_FIRST_S
        try:
            while said != ():
                missing = not_listening(self._plan.ports)
                if missing != said:
                    said = missing
                    await self._registration.change(pid=command.pid, waiting_for=missing)
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LOOK_MOST_S)
        finally:
            remark.cancel()

    def _remark(self) -> None:
        missing = ", ".join(not_listening(self._plan.ports))
        log.warning("the command does not listen yet: %s; no caller is sent to it until it does", missing)

    def _receive(self, signum: int) -> None:
        if self._starting is not None:
            self._stopped_by = signum
            self._starting.cancel()
        elif self._draining:
            self._proxy.kill()
        elif self._command is None or self._command.ended.done():
            pass  # the Ctrl-C that ended the command, say, is no reason not to drain
        elif signum == signal.SIGTERM and not self._withdrawn:
            self._withdrawn = True
            self._tasks.start(self._terminate(self._command), "terminate")
        elif not signals.came_from_terminal(signum):
            self._command.signal(signum)

    async def _terminate(self, command: Child) -> None:
        await self._tasks.cancel()
        await self._registration.withdraw()
        if self._plan.ports:
            await asyncio.sleep(LATE_CALLERS_S)
        command.signal(signal.SIGTERM)

    async def _stop(self) -> None:
        await self._tasks.cancel()
        if not self._withdrawn:
            await self._registration.withdraw()
        # From here on the proxy alone holds its listeners: when it stops accepting, callers are refused, not kept.
        self._listeners.close()
        self._draining = True
        await self._proxy.stop()
        await self._registration.close()
