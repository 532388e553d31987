"""Load on a controller: sidecars that watch services of a cluster whose endpoints change.

python -m bench.loads.sidecars DIRECTORY SIDECARS SERVICES    # prints one line of JSON, and goes on until stdin ends

The API server is the double of the tests, and the CA a real one, both in this process. Each sidecar is a connection
with mutual TLS that attaches for a pod of its own and watches all services. Then an endpoint of one service after the
other is replaced; what is measured is from before the API server is told until each sidecar has read that it is so.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from bench import cost
from bench.configure.controller import Parts, beside
from bench.loads import driven
from bench.loads.nodes import quantiles
from bench.scenario import Load, Target
from k8s.settings import CONTROLLER
from meshd.api.control import Attach, Call, WatchDestination
from meshd.api.frames import frame
from meshd.api.names import Address
from meshd.ca.authority import Authority
from meshd.ca.server import CaServer
from meshd.ca.settings import CaDaemonSettings
from proxy.mesh.tls import control_context
from tests.support.controllers import DOMAIN, ControlPlane
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.ports import accepts

CHANGES, EACH, WORKLOADS = 50, 10, 10
"""Changes that are made, endpoints of a service, workloads that the sidecars are of."""

WITHIN_S = 300.0
BETWEEN_S = (0.1, 0.3)
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Watch:
    """So many sidecars, each of which watches so many services. The value is what the target has of memory at the end,
    in MB; latencies are those of changes."""

    sidecars: int
    services: int

    def missing(self) -> str | None:
        return None

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        with driven.going(__name__, core, target.directory, self.sidecars, self.services) as program:
            seen = program.line()
            resident_mb = sum(map(cost.rss_bytes, target.pids)) / 1e6
        return Load(resident_mb, self.sidecars, seen["took_s"], seen["failed"], seen["p50_ms"], seen["p99_ms"])


class _Sidecar(asyncio.Protocol):
    """A sidecar's end. It reads no more than it needs to know that a change has come: its address."""

    def __init__(self, calls: bytes, answers: int, known: asyncio.Semaphore) -> None:
        self._calls, self._left, self._known = calls, answers, known
        self._pending = b""
        self.awaited = b""
        self.read_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._calls)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._left:
            self._left -= data.count(b"\n")
            if self._left <= 0:
                self._left = 0
                self._known.release()
        elif self.awaited and not self.read_at:
            self._pending += data
            if self.awaited in self._pending:
                self.read_at, self._pending = now, b""


class _World:
    """The cluster, and the sidecars in it."""

    def __init__(self, plane: ControlPlane, services: int) -> None:
        self._plane, self._services = plane, services
        self._pods = 0
        self.sidecars: list[_Sidecar] = []

    def lay(self) -> None:
        for number in range(self._services):
            name = f"service-{number}"
            self._plane.service("shop", service(name, ("http", 80, 8080), selector={"app": name}))
            self._plane.slice("shop", self._slice(number, 0))

    def _slice(self, number: int, last: int) -> dict[str, Any]:
        """The endpoints of a service; the last of them is another with each change."""
        places = [f"10.{number}.0.{each + 1}" for each in range(EACH - 1)]
        name = f"service-{number}"
        listed = [endpoint(address) for address in (*places, f"10.{number}.1.{last + 1}")]
        return slice_of(name, f"{name}-a", *listed, ports={"http": 8080})

    async def connect(self, count: int, port: int) -> float:
        """All of them; how long it took until they had all answers."""
        asked = [
            WatchDestination(f"service-{each}.shop:80", "shop", differences=True) for each in range(self._services)
        ]
        watches = b"".join(frame(Call(number + 2, each)) for number, each in enumerate(asked))
        known, turns = asyncio.Semaphore(0), asyncio.Semaphore(AT_ONCE)
        contexts: list[ssl.SSLContext] = []
        for number in range(WORKLOADS):
            held = self._plane.issue(f"spiffe://{DOMAIN}/ns/shop/sa/web-{number}")
            contexts.append(control_context(self._plane.bundle_pem, held))
        for number in range(count):
            self._plane.pod("shop", f"web-{number}", f"web-{number % WORKLOADS}")
        began = time.monotonic()

        async def one(number: int) -> None:
            calls = frame(Call(1, Attach("1", pod=f"shop/web-{number}"))) + watches
            async with turns:
                _, sidecar = await asyncio.get_running_loop().create_connection(
                    lambda: _Sidecar(calls, self._services + 1, known),
                    "127.0.0.1",
                    port,
                    ssl=contexts[number % WORKLOADS],
                    server_hostname=f"{CONTROLLER}.meshd.sa.{DOMAIN}",
                )
            self.sidecars.append(sidecar)

        await asyncio.gather(*map(one, range(count)))
        async with asyncio.timeout(WITHIN_S):
            for _ in range(count):
                await known.acquire()
        return time.monotonic() - began

    async def change(self, number: int) -> list[float]:
        """Replace an endpoint of a service; how long it took each sidecar to know it."""
        which = random.randrange(self._services)
        for sidecar in self.sidecars:
            sidecar.awaited, sidecar.read_at = f"10.{which}.1.{number + 2}".encode(), 0.0
        changed_at = time.monotonic()
        self._plane.replace_slice("shop", self._slice(which, number + 1))
        with suppress(TimeoutError):
            async with asyncio.timeout(30.0):
                while not all(sidecar.read_at for sidecar in self.sidecars):
                    await asyncio.sleep(0.01)
        return [sidecar.read_at - changed_at for sidecar in self.sidecars if sidecar.read_at]


async def _run(directory: Path, sidecars: int, services: int) -> None:
    loop, parts = asyncio.get_running_loop(), Parts.of(directory)
    cluster, authority = beside(directory, parts), Authority.open(directory / "ca", time.time())
    async with cluster.serves():
        plane = ControlPlane(directory, cluster, authority)
        plane.lay()
        ca = CaServer(
            authority, Address("127.0.0.1", parts.ca), settings=CaDaemonSettings(kubernetes=cluster.settings())
        )
        await ca.start()
        world = _World(plane, services)
        world.lay()
        async with asyncio.timeout(WITHIN_S):
            while not await loop.run_in_executor(None, accepts, parts.control):
                await asyncio.sleep(0.1)
        took_s = await world.connect(sidecars, parts.control)
        heard: list[float] = []
        for number in range(CHANGES):
            await asyncio.sleep(random.uniform(*BETWEEN_S))
            heard += await world.change(number)
        failed = CHANGES * sidecars - len(heard)
        print(json.dumps({"took_s": took_s, "failed": failed, **quantiles(heard)}), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        await ca.stop()
    authority.close()


if __name__ == "__main__":
    uvloop.run(_run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
