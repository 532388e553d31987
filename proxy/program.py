"""One run of the proxy: it feeds a `Proxy` its configuration, from a file or from an agent, and ends it well.

`proxy.main` reads the command line. Signals: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads the file
again; SIGUSR2 hands the listeners over to a new generation of the program (`proxy.handover`).
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
from pathlib import Path

import uvloop

from meshd import __version__
from meshd.api.control import ProxyConfiguration, ReportStats, Traffic
from meshd.api.loading import ConfigurationError
from meshd.api.names import WorkloadName
from meshd.api.problems import Misuse, Problem
from meshd.api.tasks import Tasks
from proxy import handover
from proxy.control import AgentClient
from proxy.mesh.identity import check as check_held
from proxy.notify import notify, reloading
from proxy.report import rows
from proxy.runtime import Proxy
from proxy.sockets import Sockets
from proxy.static import StaticResolver, StaticWorld, load

log = logging.getLogger("proxy")

REPORT_S = 1.0
GC_THRESHOLD = 20_000
"""Objects between two young collections. The data path makes no cycles, so there is little to find."""


def check(file: Path) -> None:
    """Whether the file and what it names can be had; Misuse, with every finding, where not."""
    world = _load(file)
    for workload, held in world.held.items():
        try:
            check_held(WorkloadName.parse(workload), held, world.configuration.trust_bundle_pem)
        except ssl.SSLError as error:
            raise _do_not_fit(file, error) from error
    for warning in world.warnings:
        print(f"meshd-proxy: warning: {warning}", file=sys.stderr)


def _load(file: Path) -> StaticWorld:
    try:
        return load(file)
    except ConfigurationError as error:
        raise Misuse(str(error)) from error


def _do_not_fit(file: Path, error: ssl.SSLError) -> Misuse:
    return Misuse(f"{file}: certificates, keys and bundle do not fit: {error.reason}")


def run(arguments: argparse.Namespace) -> None:
    """Run as the command line says, to the end. Problem where it cannot be."""
    uvloop.run(Program(arguments).run())


class Program:
    """One run of the program."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._tasks = Tasks("meshd-proxy")
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._proxy: Proxy
        self._sockets: Sockets
        self._agent: AgentClient | None = None
        self._instance = os.environ.pop("MESHD_INSTANCE", "")
        self._inheritance = handover.received()
        self._was_ready = False
        self._succession: asyncio.Task[None] | None = None
        self._succeeded = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR2, self._hand_over)
        own = {address: several[0] for address, several in self._inheritance.own.items()}
        self._sockets = Sockets(self._inheritance.kept, own)
        self._proxy = Proxy(self._sockets, self._changed)
        if self._arguments.config is not None:
            await self._run_static()
        else:
            self._run_controlled()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 50, 50)
        await self._stopping.wait()
        await self._drain()

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._stop_now.set()
        self._stopping.set()

    # --- generations

    def _changed(self) -> None:
        """The proxy is not as it was: say so to whom it concerns."""
        if not self._was_ready and not self._proxy.waiting_for():
            self._was_ready = True
            for address in self._sockets.own.keys() - set(self._proxy.listeners.addresses):
                self._sockets.release(address)  # the generation before had it, and this one does not need it
            if self._inheritance.predecessor >= 0:
                self._inheritance.tell_ready()  # it tells the service manager
            else:
                notify("READY=1")
        self._report_state()

    def _hand_over(self) -> None:
        if why_not := handover.why_not(self._instance):
            log.error("SIGUSR2: no new generation: %s", why_not)
        elif self._succession is None and not self._stopping.is_set():
            self._succession = self._tasks.start(self._succeed(), "succession")

    async def _succeed(self) -> None:
        log.info("starting a new generation")
        reloading()
        try:
            own = {address: (listener,) for address, listener in self._sockets.own.items()}
            pid = await handover.succeeded(self._sockets.kept, own)
        except Problem as problem:
            log.error("there is no new generation, and this one goes on: %s", problem)
            notify("READY=1")
            self._succession = None
        else:
            log.info("process %d has taken over", pid)
            notify("READY=1", f"MAINPID={pid}")
            self._succeeded = True
            self._stopping.set()

    # --- the end

    async def _drain(self) -> None:
        if not self._succeeded:
            notify("STOPPING=1")
        for address in self._sockets.own:
            self._sockets.release(address)  # those too that no listener has yet
        log.info("draining for %g s at most", self._arguments.drain_timeout)
        draining = self._tasks.start(self._proxy.drain(self._arguments.drain_timeout), "drain")
        hurried = self._tasks.start(self._stop_now.wait(), "second signal")
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        if draining.done() and (left := draining.result()):
            log.warning("%d connections were not finished in time and are cut", left)
        if self._agent is not None:
            self._report_stats()
        await self._tasks.cancel()
        await self._proxy.close()

    # --- from a file

    async def _run_static(self) -> None:
        world = _load(self._arguments.config)
        for address in _addresses(world):
            try:
                self._sockets.listen(
                    address
                ).close()  # the first start fails where a port is taken; later ones try again
            except Problem as problem:
                raise Problem(f"{self._arguments.config}: {problem}: end what listens there, or change it") from problem
        resolver = StaticResolver(world.services)
        await self._apply(world, resolver)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: self._tasks.start(self._reload(resolver), "reload")
        )
        log.info("%s is in force", self._arguments.config)

    async def _apply(self, world: StaticWorld, resolver: StaticResolver) -> None:
        try:
            await self._proxy.apply(world.configuration, resolver, held=world.held)
        except ssl.SSLError as error:
            raise _do_not_fit(self._arguments.config, error) from error

    async def _reload(self, resolver: StaticResolver) -> None:
        reloading()
        try:
            world = await asyncio.to_thread(_load, self._arguments.config)
            await self._apply(world, resolver)
        except Problem as problem:
            for line in str(problem).splitlines():
                log.error("not reloaded: %s", line)
            return
        finally:
            notify("READY=1")
        resolver.replace(world.services)
        self._proxy.reread()
        log.info("%s was read again and is in force", self._arguments.config)

    # --- from an agent

    def _run_controlled(self) -> None:
        latest: asyncio.Queue[ProxyConfiguration] = asyncio.Queue()
        self._agent = AgentClient(self._arguments.control, self._instance, __version__, latest.put_nowait)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reread)
        self._report_stats()  # nothing yet: from there on every request counts in the agent's rates
        self._tasks.start(self._agent.run(), "control")
        self._tasks.start(self._follow(self._agent, latest), "configuration")
        self._tasks.start(self._report(), "report")

    def _reread(self) -> None:
        log.info("SIGHUP: listeners' certificates are read again; of the rest the agent says what changes")
        self._proxy.reread()

    async def _follow(self, agent: AgentClient, latest: asyncio.Queue[ProxyConfiguration]) -> None:
        """Apply what the agent says, one after the other; what cannot be applied leaves the last in force."""
        while True:
            configuration = await latest.get()
            try:
                await self._proxy.apply(configuration, agent, signer=agent.signer)
            except (Problem, ssl.SSLError) as error:
                log.error("the agent's configuration is not applied: %s", error)

    def _report_state(self) -> None:
        if self._agent is not None:
            self._agent.report_state(self._proxy.state(os.getpid()))

    async def _report(self) -> None:
        """Tell the agent what was counted, when it has changed; and how the proxy is, likewise."""
        assert self._agent is not None
        told: tuple[Traffic, ...] = ()
        state = None
        while True:
            await asyncio.sleep(REPORT_S)
            self._proxy.connected = self._agent.connected
            if (counted := rows(self._proxy.stats)) != told:
                told = counted
                self._agent.report_stats(ReportStats(self._proxy.id, counted))
            if (now := self._proxy.state(os.getpid())) != state:
                state = now
                self._agent.report_state(now)

    def _report_stats(self) -> None:
        assert self._agent is not None
        self._agent.report_stats(ReportStats(self._proxy.id, rows(self._proxy.stats)))


def _addresses(world: StaticWorld) -> list[str]:
    """All addresses the file says to listen at."""
    configuration = world.configuration
    fixed = [configuration.outbound, configuration.inbound, configuration.admin]
    upstreams = [upstream.listen for workload in configuration.workloads for upstream in workload.upstreams]
    return [address for address in (*fixed, *upstreams) if address]
