"""`meshd-proxy`: the program. It reads the command line, starts a `Proxy`, feeds it its configuration, and ends well.

    meshd-proxy --config FILE       from a file, with no agent (see `proxy.static`)
    meshd-proxy --control SOCKET    from the agent that answers there

SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads the file again. Exit status 0 after a drain,
1 where something outside was wrong, 2 for a wrong command line or file.
"""

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import ssl
import sys
from pathlib import Path

import uvloop

from meshd import __version__
from meshd.api.control import ProxyConfiguration, ReportStats, Traffic
from meshd.api.loading import ConfigurationError
from meshd.api.logs import Lines
from meshd.api.problems import Misuse, Problem
from meshd.api.tasks import Tasks
from proxy.control import AgentClient
from proxy.report import rows
from proxy.runtime import Proxy
from proxy.sockets import Sockets, inherited
from proxy.static import StaticResolver, StaticWorld, load

log = logging.getLogger("proxy")

REPORT_S = 1.0
GC_THRESHOLD = 20_000
"""Objects between two young collections. The data path makes no cycles, so there is little to find."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="meshd-proxy", description="The data plane of meshd.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE", type=Path, help="run from this file, with no agent")
    source.add_argument("--control", metavar="SOCKET", help="run as the agent at this Unix socket says")
    parser.add_argument("--check", action="store_true", help="with --config: check the file and exit")
    parser.add_argument("--drain-timeout", metavar="S", type=float, default=30.0, help="seconds to finish in (30)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"meshd-proxy {__version__}")
    arguments = parser.parse_args()
    if arguments.check and arguments.config is None:
        parser.error("--check goes with --config")
    return arguments


def main() -> None:
    """The console script."""
    arguments = _arguments()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=arguments.log_level.upper(), handlers=[handler])
    try:
        if arguments.check:
            load(arguments.config)
        else:
            _raise_descriptor_limit()
            uvloop.run(_Program(arguments).run())
    except ConfigurationError as error:
        _fail(error, Misuse.exit_status)
    except Problem as problem:
        _fail(problem, problem.exit_status)


def _fail(error: Exception, status: int) -> None:
    for line in str(error).splitlines():
        print(f"meshd-proxy: {line}", file=sys.stderr)
    sys.exit(status)


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor or two; the soft limit of 1024 is for programs that call select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Program:
    """One run of the program."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._tasks = Tasks("meshd-proxy")
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._proxy: Proxy
        self._agent: AgentClient | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        sockets = Sockets(inherited())
        self._proxy = Proxy(sockets, self._report_state)
        if self._arguments.config is not None:
            await self._run_static(sockets)
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

    async def _drain(self) -> None:
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

    async def _run_static(self, sockets: Sockets) -> None:
        world = load(self._arguments.config)
        for address in _addresses(world):
            try:
                sockets.listen(address).close()  # the first start fails where a port is taken; later ones try again
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
            raise Misuse(
                f"{self._arguments.config}: certificates, keys and bundle do not fit: {error.reason}"
            ) from error

    async def _reload(self, resolver: StaticResolver) -> None:
        try:
            world = await asyncio.to_thread(load, self._arguments.config)
            await self._apply(world, resolver)
        except (ConfigurationError, Problem) as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)
            return
        resolver.replace(world.services)
        log.info("%s was read again and is in force", self._arguments.config)

    # --- from an agent

    def _run_controlled(self) -> None:
        latest: asyncio.Queue[ProxyConfiguration] = asyncio.Queue()
        instance = os.environ.pop("MESHD_INSTANCE", "")
        self._agent = AgentClient(self._arguments.control, instance, __version__, latest.put_nowait)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: log.info("SIGHUP: there is no file to read; the agent says what changes")
        )
        self._report_stats()  # nothing yet: from there on every request counts in the agent's rates
        self._tasks.start(self._agent.run(), "control")
        self._tasks.start(self._follow(self._agent, latest), "configuration")
        self._tasks.start(self._report(), "report")

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


if __name__ == "__main__":
    main()
