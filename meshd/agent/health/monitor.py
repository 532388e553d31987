"""The checks of this host's workloads: a task each, and what the registry is told of what they find.

A workload that has checks is held back until each has passed, and from when one has failed until it passes again. That
of a workload which is announced already is believed to pass until it has failed as often as it takes: to write a check
into a document takes nothing out.
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshd.agent.health.judge import Judge
from meshd.agent.health.probes import accepts, answers, is_active
from meshd.agent.registry import Registry, reachable_at
from meshd.api.documents import Workload
from meshd.api.health import PortHealth, UnitHealth
from meshd.api.logs import about
from meshd.api.names import Address, WorkloadName
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

MAX_PORTS_AT_ONCE = 32
"""Ports that are looked at at a time; the rest waits, and its time-out has not begun."""

MAX_UNITS_AT_ONCE = 4
"""Likewise units, each of which is a process."""

JITTER = 0.1
"""The part of the interval by which one look is sooner or later after the one before than another."""

NOT_YET = "not known to be well yet"


class Check(NamedTuple):
    """One check of a workload: of the port at `address`, or of the unit that `health` names."""

    workload: WorkloadName
    health: PortHealth | UnitHealth
    address: Address | None = None

    @property
    def what(self) -> str:
        """What is looked at, for people and metrics; a query is left out, for it may hold a secret."""
        health = self.health
        if isinstance(health, UnitHealth):
            return f"unit {health.unit}"
        if health.http is not None:
            return f"GET http://{self.address}{health.http.path.partition('?')[0]}"
        if health.grpc is not None:
            return f"gRPC health of {self.address}" + (f" {health.grpc.service}" if health.grpc.service else "")
        return f"connection to {self.address}"

    async def look(self) -> str:
        """What is wrong now; empty where nothing is."""
        health = self.health
        if isinstance(health, UnitHealth):
            return await is_active(health.unit)
        assert self.address is not None
        if health.http is not None:
            return await answers(self.address, health.http)
        if health.grpc is not None:
            from meshd.agent.health.grpc import serves  # noqa: PLC0415 - h2, for agents that need it

            return await serves(self.address, health.grpc.service)
        return await accepts(self.address)


def checks_of(document: Workload) -> Iterator[Check]:
    """The checks that a document names."""
    workload = document.metadata.workload
    for port in document.spec.ports:
        if port.health is not None:
            yield Check(workload, port.health, reachable_at(str(Address(port.address, port.port))))
    if document.spec.health is not None:
        yield Check(workload, document.spec.health)


class Verdict(NamedTuple):
    """What is believed of a check. `passes`: None, nothing yet. `looks`, `failures`: how many there were."""

    check: Check
    passes: bool | None
    looks: int
    failures: int


class Monitor:
    """Runs the checks, and holds back in `registry` the workloads whose checks fail."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._running: dict[Check, _Running] = {}
        self._tasks = Tasks("health")
        self._ports = asyncio.Semaphore(MAX_PORTS_AT_ONCE)
        self._units = asyncio.Semaphore(MAX_UNITS_AT_ONCE)

    def use(self, checks: Iterable[Check]) -> None:
        """These from now on. Those that are there already go on as they are."""
        wanted = dict.fromkeys(checks)
        for check in self._running.keys() - wanted.keys():
            self._running.pop(check).task.cancel()
        announced = self._registry.announced()
        for check in wanted.keys() - self._running.keys():
            judge = Judge(check.health.healthy_after, check.health.unhealthy_after, check.workload in announced or None)
            running = _Running(judge, self._tasks.start(self._watch(check, judge), f"{check.workload}: {check.what}"))
            self._running[check] = running
        self._tell()

    async def close(self) -> None:
        """Look no more. What was found stays said."""
        await self._tasks.cancel()

    def verdicts(self) -> Iterator[Verdict]:
        for check, running in self._running.items():
            judge = running.judge
            yield Verdict(check, judge.healthy, judge.looks, judge.failures)

    async def _watch(self, check: Check, judge: Judge) -> None:
        while True:
            before = judge.healthy
            if judge.heard(await self._look(check)):
                name, known = check.workload, about(workload=check.workload)
                if not judge.healthy and before is not False:
                    log.warning("%s is not announced: %s: %s", name, check.what, judge.failure, extra=known)
                elif judge.healthy and before is False:
                    log.info("%s: %s is well again", name, check.what, extra=known)
                self._tell()
            await asyncio.sleep(check.health.interval_s * random.uniform(1.0 - JITTER, 1.0 + JITTER))  # noqa: S311

    async def _look(self, check: Check) -> str:
        async with self._units if isinstance(check.health, UnitHealth) else self._ports:
            try:
                async with asyncio.timeout(check.health.timeout_s):
                    return await check.look()
            except TimeoutError:
                return f"no answer within {check.health.timeout}"
            except Exception:
                log.exception("%s: %s", check.workload, check.what, extra=about(workload=check.workload))
                return "an error within: see the agent's log"

    def _tell(self) -> None:
        unwell: dict[WorkloadName, tuple[str, ...]] = {}
        for check, running in sorted(self._running.items(), key=lambda item: item[0].what):
            if not running.judge.healthy:
                said = f"{check.what} ({running.judge.failure or NOT_YET})"
                unwell[check.workload] = (*unwell.get(check.workload, ()), said)
        self._registry.hold_back(unwell)


class _Running(NamedTuple):
    judge: Judge
    task: "asyncio.Task[None]"
