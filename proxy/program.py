"""One run of the proxy: it feeds a `Proxy` its configuration, from a file, an agent or a controller, and ends it well.

`proxy.main` reads the command line; what it is told while it runs comes from its place (`proxy.orders`).
"""

import argparse
import asyncio
import gc
import logging
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from msgspec.structs import replace

from meshd import __version__
from meshd.api.control import MAX_WORKERS, ProxyConfiguration, ReportStats, Traffic, Workers
from meshd.api.loading import ConfigurationError
from meshd.api.names import WorkloadName
from meshd.api.problems import Misuse, Problem
from meshd.api.tasks import Tasks
from proxy import heap
from proxy.capture.callers import Agent
from proxy.control import AgentClient
from proxy.mesh.identity import Sign
from proxy.mesh.identity import check as check_held
from proxy.mesh.tls import Held
from proxy.orders import Condition, Orders, Place
from proxy.report import rows
from proxy.resolve import Resolver
from proxy.runtime import Proxy, admin_of, here
from proxy.static import StaticResolver, StaticWorld, load
from proxy.ways import UnixSocket, Way

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


def run(arguments: argparse.Namespace, place: Place, instance: str) -> None:
    """Run as the command line says, to the end. `instance` is the secret shared with the `meshd run` that started the
    proxy, empty where none did. Problem where it cannot be."""
    heap.keep()
    uvloop.run(Program(arguments, place, instance).run())


class Program:
    """One run of the program, in its place."""

    def __init__(self, arguments: argparse.Namespace, place: Place, instance: str) -> None:
        self._arguments = arguments
        self._place = place
        self._instance = instance
        self._tasks = Tasks("meshd-proxy")
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._admin: tuple[str, ...] = ()
        self._wanted: Workers | None = None
        self._proxy: Proxy
        self._resolver: StaticResolver | None = None
        self._reload_wanted = False
        self._agent: AgentClient | None = None

    async def run(self) -> None:
        end = self._stopping.set if self._arguments.shutdown_endpoint else None
        self._proxy = Proxy(self._place.sockets, self._changed, end)
        pages = self._proxy.metrics.page, self._proxy.endpoints
        await self._place.begin(Orders(*pages, self._reload, self._stopping.set, self._end))
        if self._arguments.config is not None:
            await self._run_static()
        else:
            self._run_controlled()
        self._changed()
        gc.collect()
        gc.freeze()
        heap.give_back()
        gc.set_threshold(GC_THRESHOLD, 50, 50)
        await self._stopping.wait()
        await self._drain()

    def _changed(self) -> None:
        self._place.changed(Condition(self._proxy.waiting_for(), self._admin), self._proxy.listeners.addresses)
        self._report_state()

    async def _become(
        self,
        configuration: ProxyConfiguration,
        resolver: Resolver,
        *,
        held: dict[str, Held] | None = None,
        signer: Callable[[str], Sign] | None = None,
        caller_agent: Agent | None = None,
    ) -> None:
        """Put a configuration in force; see `Proxy.apply`."""
        before, self._admin = self._admin, tuple(filter(None, admin_of(here(configuration))))
        self._proxy.listeners.reserve(configuration.admin)
        try:
            await self._proxy.apply(
                self._own(configuration), resolver, held=held, signer=signer, caller_agent=caller_agent
            )
        except BaseException:
            self._admin = before
            raise

    def _own(self, configuration: ProxyConfiguration) -> ProxyConfiguration:
        """The part of a configuration that is for this process."""
        return configuration if self._place.serves_admin else replace(configuration, admin="", admin6="")

    # --- the end

    def _end(self) -> None:
        self._stopping.set()
        self._stop_now.set()

    async def _drain(self) -> None:
        self._place.draining()
        log.info("draining for %g s at most", self._arguments.drain_timeout)
        draining = self._tasks.start(self._proxy.drain(self._arguments.drain_timeout), "drain")
        hurried = self._tasks.start(self._stop_now.wait(), "second signal")
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        if draining.done() and (left := draining.result()):
            log.warning("%d connections were not finished in time and are cut", left)
        if self._agent is not None:
            self._report_stats()
        await self._place.end()
        await self._tasks.cancel()
        await self._proxy.close()

    # --- from a file

    async def _run_static(self) -> None:
        world = _load(self._arguments.config)
        for address in _addresses(self._own(world.configuration)):
            try:  # the first start fails where a port is taken; later ones try again
                self._place.sockets.listen(address).close()
            except Problem as problem:
                raise Problem(f"{self._arguments.config}: {problem}: end what listens there, or change it") from problem
        resolver = StaticResolver(world.services)
        await self._apply(world, resolver)
        self._resolver = resolver
        if self._reload_wanted:  # it came while the file was read
            self._tasks.start(self._reload(), "reload")
        log.info("%s is in force", self._arguments.config)

    async def _apply(self, world: StaticWorld, resolver: StaticResolver) -> None:
        try:
            await self._become(world.configuration, resolver, held=world.held)
        except ssl.SSLError as error:
            raise _do_not_fit(self._arguments.config, error) from error

    async def _reload(self) -> None:
        resolver = self._resolver
        if self._agent is not None:
            self._reread()
            return
        if resolver is None:
            self._reload_wanted = True
            return
        try:
            world = await asyncio.to_thread(_load, self._arguments.config)
            await self._apply(world, resolver)
        except Problem as problem:
            for line in str(problem).splitlines():
                log.error("not reloaded: %s", line)
            return
        resolver.replace(world.services)
        self._proxy.reread()
        log.info("%s was read again and is in force", self._arguments.config)

    # --- from an agent

    def _run_controlled(self) -> None:
        latest: asyncio.Queue[ProxyConfiguration] = asyncio.Queue()
        self._agent = AgentClient(self._way(), __version__, latest.put_nowait)
        self._report_stats()  # nothing yet: from there on every request counts in the agent's rates
        self._tasks.start(self._agent.run(), "control")
        self._tasks.start(self._follow(self._agent, latest), "configuration")
        self._tasks.start(self._report(), "report")

    def _way(self) -> Way:
        if self._arguments.control is not None:
            return UnixSocket(self._arguments.control, self._instance)
        from proxy.controller import ControllerWay, place  # noqa: PLC0415 - for sidecars alone

        where = place(self._arguments.controller, os.environ)
        return ControllerWay(where, lambda: self._proxy.held, self._proxy.renew)

    def _reread(self) -> None:
        log.info("SIGHUP: listeners' certificates are read again; of the rest the agent says what changes")
        self._proxy.reread()

    async def _follow(self, agent: AgentClient, latest: asyncio.Queue[ProxyConfiguration]) -> None:
        """Apply what the agent says, one after the other; what cannot be applied leaves the last in force."""
        while True:
            configuration = await latest.get()
            self._resize(configuration.workers)
            try:
                await self._become(configuration, agent, signer=agent.signer, caller_agent=agent)
            except (Problem, ssl.SSLError) as error:
                log.error("the agent's configuration is not applied: %s", error)

    def _resize(self, wanted: Workers | None) -> None:
        """The agent's word on how many workers there are to be, where the command line says nothing."""
        if self._arguments.workers is None and wanted is not None:
            count = len(os.sched_getaffinity(0)) if wanted == "auto" else wanted
            count = min(max(count, 1), MAX_WORKERS)
            if count != self._place.workers and wanted != self._wanted:
                self._place.resize(count, at_once=self._wanted is None)
            self._wanted = wanted

    def _report_state(self) -> None:
        if self._agent is not None:
            self._agent.identified()
            self._agent.report_state(self._proxy.state(self._place.pid))

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
            if (now := self._proxy.state(self._place.pid)) != state:
                state = now
                self._agent.report_state(now)

    def _report_stats(self) -> None:
        assert self._agent is not None
        self._agent.report_stats(ReportStats(self._proxy.id, rows(self._proxy.stats)))


def _addresses(configuration: ProxyConfiguration) -> list[str]:
    """All addresses it says to listen at."""
    fixed = [configuration.outbound, configuration.inbound, configuration.admin]
    upstreams = [upstream.listen for workload in configuration.workloads for upstream in workload.upstreams]
    return [address for address in (*fixed, *upstreams) if address]
