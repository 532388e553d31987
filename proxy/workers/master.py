"""The master: it holds the listening sockets, keeps workers running, and stands for all of them to the outside.

    SIGTERM, SIGINT   all drain; the second time all end        SIGHUP    the file is checked, then all read it
    a worker ends     another takes its place and its sockets   SIGUSR2   another master and its workers follow

It touches no byte of traffic. Its counterpart is `proxy.workers.worker`.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic
from typing import Final

from meshd.api.notify import keep_watchdog, leave_manager, notify, reloading
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy import measured
from proxy.admin import Admin
from proxy.handover import Succession, received
from proxy.listeners import Listeners
from proxy.signals import heed
from proxy.starting import Starting
from proxy.sweep import Sweep
from proxy.workers.hired import STARTING, Hired
from proxy.workers.link import Told
from proxy.workers.metrics import Metrics, Seen
from proxy.workers.places import Places
from proxy.workers.restarts import TRIES, Restarts

log = logging.getLogger("proxy.master")

ANSWER_WITHIN_S: Final = 2.0
"""How long a scrape waits for the workers; of one that does not answer, what it last said is shown."""
_ADMIN: Final = 0
"""The place of the master's own listener."""
END_WITHIN_S: Final = 5.0
"""How long a worker may take to end after its drain is over."""


def run(from_file: bool, workers: int, drain_s: float, *, shutdown_endpoint: bool) -> None:
    """Run to the end. Problem where it cannot be."""
    asyncio.run(Master(from_file, workers, drain_s, shutdown_endpoint=shutdown_endpoint).run())


class WorkersFailed(Problem):
    """The workers cannot be started; with the exit status that they had."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status if status > 0 else Problem.exit_status


class Master:
    """See the module. `from_file`: the configuration is a file's, not an agent's."""

    def __init__(self, from_file: bool, workers: int, drain_s: float, *, shutdown_endpoint: bool) -> None:
        self._from_file = from_file
        self._drain_s = drain_s
        self._tasks = Tasks("master")
        self._inheritance = received()
        self._places = Places(self._inheritance.kept, self._inheritance.own)
        self._workers: dict[int, Hired | None] = dict.fromkeys(range(1, workers + 1))
        self._restarts = {number: Restarts() for number in self._workers}
        self._metrics = Metrics()
        self._collecting: asyncio.Task[bytes] | None = None
        self._sweep = Sweep()
        self._listeners = Listeners(_AdminSockets(self._places), self._tasks, self._changed)
        end = self._stop if shutdown_endpoint else None
        self._admin = Admin(self._waiting_for, self._page, self._endpoints, self._sweep, end)
        self._admin_at: tuple[str, ...] = ()
        self._all_started = False
        self._was_ready = False
        self._starting = Starting(self._waiting_for)
        self._stopping = False
        self._failure: Problem | None = None
        self._all_ended = asyncio.Event()
        self._succession = Succession(
            self._tasks, os.environ.get("MESHD_INSTANCE", ""), lambda: (self._places.kept, self._places.own), self._stop
        )

    async def run(self) -> None:
        """Until all workers have ended."""
        heed(self._tasks, self._terminate, self._reload, self._succession.begin)
        self._tasks.start(keep_watchdog(), "watchdog")
        if self._inheritance.predecessor < 0:
            self._starting.begin()
        self._tick()
        await self._hire(1)  # the others follow when it has found the configuration good
        await self._all_ended.wait()
        await self._tasks.cancel()
        if self._failure is not None:
            raise self._failure

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(Sweep.TICK_S, self._tick)
        self._sweep.tick(loop.time())

    # --- workers

    async def _hire(self, number: int) -> None:
        """Start a worker in that place."""
        if self._stopping:
            return
        self._places.begun(number)
        try:
            self._workers[number] = await Hired.start(number, len(self._workers), self)
        except Problem as problem:
            log.error("%s; trying again", problem)
            self._hire_later(number, self._restarts[number].ended(monotonic()))

    def _hire_later(self, number: int, delay_s: float | None) -> None:
        if delay_s is None:
            self._fail(f"worker {number} could not be started {TRIES} times in a row", Problem.exit_status)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(delay_s, lambda: self._tasks.start(self._hire(number), f"worker {number}"))

    def listen(self, number: int, address: str) -> socket.socket:
        """See `Employer`."""
        if self._stopping:
            raise Problem(f"cannot listen at {address}: the proxy ends")
        return self._places.listen(number, address)

    def release(self, number: int, address: str) -> None:
        """See `Employer`."""
        self._places.release(number, address)

    def said(self, hired: Hired, before: Told) -> None:
        """See `Employer`."""
        if self._stopping:
            hired.drain()  # again, for one that started when the others were told
            return
        if hired.told.admin != before.admin:
            self._move_admin(hired.told.admin)
        if not hired.told.waiting_for:
            self._restarts[hired.number].ready(monotonic())
            self._places.settle(hired.number)
        if not self._all_started:
            self._all_started = True
            for number in self._workers.keys() - {hired.number}:
                self._tasks.start(self._hire(number), f"worker {number}")
        self._changed()

    def ended(self, hired: Hired) -> None:
        """See `Employer`."""
        number, status = hired.number, hired.status or 0
        self._metrics.keep(hired.page)
        self._workers[number] = None
        if self._stopping:
            self._look_for_the_end()
        elif not self._was_ready and status > 0:
            self._fail(f"worker {number} ended with status {status} before it was ready", status)
        else:
            log.warning("worker %d %s; another takes its place", number, _described(status))
            self._hire_later(number, self._restarts[number].ended(monotonic()))

    # --- the admin port

    def _move_admin(self, addresses: tuple[str, ...]) -> None:
        """Answer at these addresses from now on."""
        before, self._admin_at = self._admin_at, addresses
        for address in before:
            if address not in addresses:
                self._listeners.close(address)
        for address in addresses:
            if address not in before:
                self._open_admin(address)

    def _open_admin(self, address: str) -> None:
        """A port that is taken ends the start, where a file names it, and later is tried again."""
        if self._from_file and not self._was_ready:
            try:
                self._places.listen(_ADMIN, address)
            except Problem as problem:
                self._fail(f"{problem}: end what listens there, or change it", problem.exit_status)
                return
        self._listeners.open(address, self._admin, "inbound", essential=True)

    def _waiting_for(self) -> tuple[str, ...]:
        workers = (
            f"worker {number}: {what}"
            for number, hired in self._workers.items()
            for what in (hired.told.waiting_for if hired is not None else (STARTING,))
        )
        return (*workers, *self._listeners.waiting_for())

    def _changed(self) -> None:
        """When all are ready for the first time, whoever waits for that is told."""
        if self._was_ready or self._stopping or self._waiting_for():
            return
        self._was_ready = True
        log.info("%d workers are ready", len(self._workers))
        self._places.settle_all()
        if self._inheritance.predecessor >= 0:
            self._inheritance.tell_ready()  # it tells the service manager
        else:
            self._starting.ready()

    def _page(self, take: Callable[[bytes], None]) -> None:
        """Hand the page to take, when the workers have answered. Scrapes that come meanwhile share it."""
        if self._collecting is None or self._collecting.done():
            self._collecting = self._tasks.start(self._collect(), "metrics")
        self._collecting.add_done_callback(lambda task: None if task.cancelled() else take(task.result()))

    async def _collect(self) -> bytes:
        asked = {number: hired.ask() for number, hired in self._workers.items() if hired is not None and hired.heard}
        if asked:
            await asyncio.wait(asked.values(), timeout=ANSWER_WITHIN_S)
        seen = []
        for number, hired in self._workers.items():
            page, ready = ("", False) if hired is None else (hired.page, not hired.told.waiting_for)
            answered = number in asked and asked[number].done() and asked[number].result()
            seen.append(Seen(number, page, ready, answered, self._restarts[number].deaths))
        return self._metrics.page(seen)

    def _endpoints(self, service: str, take: Callable[[bytes], None]) -> None:
        """Hand what the workers measured to take, when they have said."""
        collecting = self._tasks.start(self._collect_endpoints(service), "endpoints")
        collecting.add_done_callback(lambda task: None if task.cancelled() or task.exception() else take(task.result()))

    async def _collect_endpoints(self, service: str) -> bytes:
        hired = [(number, each) for number, each in self._workers.items() if each is not None and each.heard]
        pages = await asyncio.gather(*(each.ask_endpoints(service, ANSWER_WITHIN_S) for _, each in hired))
        said = dict(zip((number for number, _ in hired), pages, strict=True))
        return measured.merged((number, said.get(number, b"")) for number in self._workers)

    # --- from outside

    async def _reload(self) -> None:
        """Have the workers read their files again, the configuration's only if it is good: it is checked once, so that
        none takes what another does not."""
        reloading()
        if not self._from_file or await self._is_good():
            for hired in self._hired():
                hired.reload()
        notify("READY=1")

    async def _is_good(self) -> bool:
        """Whether the file can be had, as this program's --check finds; else the log says why not."""
        checking = await asyncio.create_subprocess_exec(
            sys.executable, *sys.orig_argv[1:], "--check", stderr=asyncio.subprocess.PIPE
        )
        _, found = await checking.communicate()
        if checking.returncode == 0:
            return True
        for line in found.decode(errors="replace").splitlines():
            log.error("not reloaded: %s", line.removeprefix("meshd-proxy: "))
        return False

    def _hired(self) -> list[Hired]:
        return [hired for hired in self._workers.values() if hired is not None]

    def _terminate(self) -> None:
        if self._stopping:
            for hired in self._hired():
                hired.end()
            asyncio.get_running_loop().call_later(END_WITHIN_S, self._kill)
        else:
            notify("STOPPING=1")
            leave_manager()  # what it keeps is for the process that it starts next
            self._stop()

    def _fail(self, message: str, status: int) -> None:
        self._failure = WorkersFailed(message, status)
        self._stop()

    def _stop(self) -> None:
        """Accept nothing more, let all workers drain."""
        self._stopping = True
        self._starting.end()
        self._succession.preclude()
        self._listeners.close_all()
        self._places.close()
        for hired in self._hired():
            hired.drain()
        asyncio.get_running_loop().call_later(self._drain_s + END_WITHIN_S, self._kill)
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if not self._hired():
            self._all_ended.set()

    def _kill(self) -> None:
        for hired in self._hired():
            log.warning("worker %d did not end when it had drained, and is killed", hired.number)
            hired.kill()


class _AdminSockets:
    """The master's own place among those of the workers."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def listen(self, text: str) -> socket.socket:
        """See `proxy.sockets.Listening`."""
        return self._places.listen(_ADMIN, text).dup()

    def release(self, text: str) -> None:
        """See `proxy.sockets.Listening`."""
        self._places.release(_ADMIN, text)


def _described(status: int) -> str:
    """How a worker ended, for a person."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
