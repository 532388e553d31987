"""The demo's mesh: a certificate authority, an agent, and the workloads, each a process, in a directory of their own.

    ca ◄── agent ◄── meshd run: load ──► web ──► api ──► store

They are the real parts, started by the command lines that a user would type, and talk over loopback alone.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import yaml

from meshd.api.control import GetStatus, Status
from meshd.api.names import Address
from meshd.client import sockets
from meshd.client.connection import ControlConnection
from meshd.demo.parts import Part
from meshd.demo.report import LOAD
from meshd.run.ports import listening
from meshd.run.programs import MESHD, PYTHON

TRUST_DOMAIN = "demo.example"
WITHIN_S = 30.0
LOOK_AGAIN_S = 0.05
DRAIN = "2s"
WORKLOAD = "workload "
"""What the name of a part begins with that is a workload."""


class Stage:
    """Set up by `start`, taken down by `stop`, which is called whatever became of the start."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.socket = directory / sockets.SOCKET_NAME
        self._directory = directory
        self._say = say
        self._parts: list[Part] = []
        self._connection: ControlConnection | None = None

    async def start(self) -> None:
        """Returns when every workload can be called. Problem, with the last lines of its log, for a part that fails."""
        ca, web, api, store, stock = (Address("127.0.0.1", port) for port in free_ports(5))
        await self._start_ca(ca)
        await self._start_agent(ca)
        self._say("starting the workloads: store, api and web")
        self._run("store", [store.port, stock.port], store.port, stock.port)
        self._run("api", [api.port], api.port, f"store:{stock.port}", upstream=f"store:{stock.port}")
        self._run("web", [web.port], web.port)
        await self._all_announced()

    def start_load(self, rate: float, seconds: float) -> Path:
        """Begin to send requests. The path is where their report will be once all are answered."""
        report = self._directory / "report.json"
        self._run(LOAD, [], rate, seconds, report)
        return report

    async def status(self, window_s: float) -> Status:
        """What the agent sees. Problem when a part has ended."""
        self.check()
        if self._connection is None:
            self._connection = await ControlConnection.connect(self.socket)
        return await self._connection.call(GetStatus(window_s), Status)

    def check(self) -> None:
        for part in self._parts:
            part.check()

    async def stop(self) -> None:
        """End every part: workloads together, then what they depend on."""
        if self._connection is not None:
            await self._connection.close()
        workloads = [part for part in self._parts if part.name.startswith(WORKLOAD)]
        await asyncio.gather(*(part.stop() for part in workloads))
        for part in reversed(self._parts):
            await part.stop()

    # --- the parts --------------------------------------------------------------------------------------------------

    async def _start_ca(self, address: Address) -> None:
        self._say("starting a certificate authority")
        state = str(self._directory / "ca")
        init = [*MESHD, "ca", "init", "--trust-domain", TRUST_DOMAIN, "--state-dir", state, "--shared-token"]
        serve = [*MESHD, "ca", "serve", "--state-dir", state, "--listen", str(address)]
        making = Part.start("ca init", init, self._directory)
        try:
            await making.finish()
        finally:
            await making.stop()
        part = self._add(Part.start("ca serve", serve, self._directory))
        await self._until(lambda: address in set(listening()), f"it listens on {address}", part)

    async def _start_agent(self, ca: Address) -> None:
        self._say("starting an agent")
        settings = self._directory / "meshd.yaml"
        documents = self._directory / "conf.d"
        documents.mkdir()
        written = {
            "trustDomain": TRUST_DOMAIN,
            "stateDir": str(self._directory / "agent"),
            "socket": str(self.socket),
            "ca": {
                "url": f"https://{ca}",
                "bundle": str(self._directory / "ca" / "bundle.pem"),
                "tokenFile": str(self._directory / "ca" / "agent.token"),
            },
            "discovery": [{"file": {"path": str(documents)}}],
        }
        settings.write_text(yaml.safe_dump(written), encoding="utf-8")
        part = self._add(Part.start("agent", [*MESHD, "agent", "--config", str(settings)], self._directory))
        await self._until(lambda: sockets.answers(self.socket), f"it answers at {self.socket}", part)

    def _run(self, name: str, ports: list[int], *arguments: object, upstream: str = "") -> None:
        """A workload of the demo as `meshd run` runs it."""
        argv = [*MESHD, "run", "--name", name, "--socket", str(self.socket), "--drain-timeout", DRAIN]
        for port in ports:
            argv += ["--port", str(port)]
        if upstream:
            argv += ["--upstream", f"{upstream}=127.0.0.1:0"]
        program = [*PYTHON, "-m", f"meshd.demo.workloads.{name}", *map(str, arguments)]
        self._add(Part.start(WORKLOAD + name, [*argv, "--", *program], self._directory))

    def _add(self, part: Part) -> Part:
        self._parts.append(part)
        return part

    async def _until(self, look: Callable[[], bool], what: str, part: Part) -> None:
        """Wait for `look`. Problem when any part ends first, or with `part`'s log when it takes too long."""
        end = time.monotonic() + WITHIN_S
        while not look():
            self.check()
            if time.monotonic() > end:
                raise part.failed(f"not within {WITHIN_S:g} s: {what}")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _all_announced(self) -> None:
        workloads = {part.name: part for part in self._parts if part.name.startswith(WORKLOAD)}
        end = time.monotonic() + WITHIN_S
        while waiting := _waiting(await self.status(1.0), workloads):
            if time.monotonic() > end:
                name, what = next(iter(waiting.items()))
                raise workloads[name].failed(f"after {WITHIN_S:g} s it waits for {what}")
            await asyncio.sleep(LOOK_AGAIN_S)


def _waiting(status: Status, names: Iterable[str]) -> dict[str, str]:
    """Which of the named workloads cannot be called yet, and what each waits for."""
    known = {WORKLOAD + each.name: each.waiting_for for each in status.workloads}
    waiting = {name: known.get(name, ("its registration",)) for name in names}
    return {name: ", ".join(what) for name, what in waiting.items() if what}


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nothing listens on. They are held together, so they differ."""
    with ExitStack() as held:
        bound = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]
