"""Load on an agent by a Consul that changes: services that somebody watches, and endpoints that come and go.

python -m bench.loads.registry news DIRECTORY COUNT                      # prints one line of JSON
python -m bench.loads.registry changes DIRECTORY SERVICES EACH SECONDS   # one when all is known, one at the end

`news`: endpoints of `web` are registered one after another, and each is withdrawn when the next is known. Callers of
the host's proxy ask on and on; what is measured is from the answer of Consul to a registration to the end of the first
answer of the new endpoint.

`changes`: so many services with so many endpoints each, all of them watched as a proxy does. Then CHANGES_PER_S times a
second an endpoint's weight is another; each must come, or one after it, and at the end all must be known as they are.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from bench import cost
from bench.configure.agent import Parts
from bench.loads import driven
from bench.loads.nodes import quantiles
from bench.scenario import Load, Target
from meshd.api.control import Answer, Call, Destination, DestinationChange, WatchDestination
from meshd.api.differences import applied
from meshd.api.endpoints import EndpointSet
from meshd.api.frames import LineReader, frame
from meshd.api.problems import Problem
from tests.support import peers
from tests.support.consul import Consul
from tests.support.ports import accepts
from tests.support.processes import running

WITHIN_S = 120.0
CALLERS = 8
CHANGES_PER_S = 100
_OPERATIONS = 60
"""Of one transaction; Consul takes 64."""


def _missing() -> str | None:
    return None if peers.find("consul") else "consul (scripts/setup-system bench)"


@dataclass(frozen=True, slots=True)
class News:
    """So many registrations. The value is the 99th percentile, in ms."""

    registrations: int

    def missing(self) -> str | None:
        return _missing()

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        seen = driven.run(__name__, core, "news", target.directory, self.registrations)
        p50_ms, p99_ms = seen["p50_ms"], seen["p99_ms"]
        return Load(p99_ms, seen["count"], seen["duration_s"], seen["failed"], p50_ms, p99_ms)


@dataclass(frozen=True, slots=True)
class Changes:
    """So many services with so many endpoints each, for so long. The value is the part of its core that the target
    used, in %; `of_memory`: what it has at the end, in MB. The latency is from Consul's answer to the watcher."""

    services: int
    each: int
    lasting_s: float
    of_memory: bool = False

    def missing(self) -> str | None:
        return _missing()

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        what = ("changes", target.directory, self.services, self.each, self.lasting_s)
        with driven.going(__name__, core, *what) as program:
            program.line()
            began, before_s = time.monotonic(), sum(map(cost.cpu_s, target.pids))
            program.go_on()
            seen = program.line()
            took_s, used_s = time.monotonic() - began, sum(map(cost.cpu_s, target.pids)) - before_s
            resident_mb = sum(map(cost.rss_bytes, target.pids)) / 1e6
        value = resident_mb if self.of_memory else 100 * used_s / took_s
        return Load(value, seen["count"], took_s, seen["lost"], seen["p50_ms"], seen["p99_ms"])


@contextmanager
def _consul(parts: Parts) -> Iterator[Consul]:
    limits = {"http_max_conns_per_client": 1000}
    consul = Consul({"datacenter": "dc1", "node_name": "here", "limits": limits}, http=parts.consul)
    try:
        consul.start()
        consul.wait_until_led()
        yield consul
    finally:
        consul.close()


# --- news


class _Endpoints:
    """Applications at ports of their own, which answer with their port."""

    def __init__(self) -> None:
        self.seen: dict[int, asyncio.Event] = {}
        self._servers: list[asyncio.Server] = []

    async def another(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._servers.append(server)
        port = int(server.sockets[0].getsockname()[1])
        self.seen[port] = asyncio.Event()
        return port

    async def is_seen(self, port: int) -> None:
        """Wait until it answered a caller."""
        async with asyncio.timeout(WITHIN_S):
            await self.seen[port].wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = str(writer.get_extra_info("sockname")[1])
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(port)}\r\n\r\n{port}".encode()
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
        writer.close()

    async def call(self, port: int) -> int:
        """Ask on and on; the number of answers that were not as they should be."""
        failed = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r", 1)[0])
                body = await reader.readexactly(length)
                if head.startswith(b"HTTP/1.1 200"):
                    self.seen[int(body)].set()
                else:
                    failed += 1
        except asyncio.CancelledError:
            return failed
        finally:
            writer.transport.abort()


@asynccontextmanager
async def _host(directory: Path, parts: Parts) -> AsyncIterator[None]:
    """The CA and the proxy of the agent's host. They are begun and ended beside the loop, which answers the proxy."""
    meshd, stack, loop = Path(sys.executable).with_name("meshd"), ExitStack(), asyncio.get_running_loop()
    ca = [str(meshd), "ca", "serve", "--state-dir", str(directory / "ca"), "--listen", f"127.0.0.1:{parts.ca}"]
    ca += ["--config", str(directory / "no.yaml")]
    (directory / "no.yaml").write_text('admin: ""\n')
    proxy = [f"{meshd}-proxy", "--control", str(directory / "meshd.sock"), "--log-level", "warning"]

    def begin() -> None:
        stack.enter_context(running(ca, directory / "ca.log", lambda: accepts(parts.ca), deadline_s=WITHIN_S))
        is_ready = lambda: accepts(parts.upstream)  # noqa: E731
        stack.enter_context(running(proxy, directory / "proxy.log", is_ready, deadline_s=WITHIN_S))

    try:
        await loop.run_in_executor(None, begin)
        yield
    finally:
        await loop.run_in_executor(None, stack.close)


async def _news(directory: Path, count: int) -> dict[str, Any]:
    parts, endpoints, loop = Parts.of(directory), _Endpoints(), asyncio.get_running_loop()

    def register(port: int) -> float:
        service = {"ID": f"web-{port}", "Name": "web", "Address": "127.0.0.1", "Port": port}
        consul.call("PUT", "agent/service/register", service)
        return time.monotonic()

    with _consul(parts) as consul:
        stable = await endpoints.another()
        register(stable)
        async with _host(directory, parts):
            callers = [loop.create_task(endpoints.call(parts.upstream)) for _ in range(CALLERS)]
            took_s, before, began = [], 0, time.monotonic()
            try:
                await endpoints.is_seen(stable)
                for _ in range(count):
                    port = await endpoints.another()
                    registered_at = await loop.run_in_executor(None, register, port)
                    await endpoints.is_seen(port)
                    took_s.append(time.monotonic() - registered_at)
                    if before:
                        await loop.run_in_executor(None, consul.deregister, f"web-{before}")
                    before = port
                    await asyncio.sleep(random.uniform(0.1, 0.3))
            finally:
                duration_s = time.monotonic() - began
                for caller in callers:
                    caller.cancel()
                failed = sum(await asyncio.gather(*callers))
    return {"duration_s": duration_s, "failed": failed, **quantiles(took_s)}


# --- changes


def _name(number: int) -> str:
    return f"service-{number}"


def _operation(service: int, endpoint: int, weight: int) -> dict[str, Any]:
    """An endpoint as it is now. Each service's n-th endpoint is on the n-th node."""
    body = {
        "ID": f"{_name(service)}-{endpoint}",
        "Service": _name(service),
        "Address": f"192.0.{endpoint}.1",
        "Port": 1024 + service,
        "Meta": {"meshd-weight": str(weight)},
    }
    return {"Service": {"Verb": "set", "Node": f"node-{endpoint}", "Service": body}}


class _Watcher(asyncio.Protocol):
    """A proxy's end of the control API that watches all services, and knows them as they were told."""

    def __init__(self, services: int) -> None:
        self._lines = LineReader(Answer)
        self._sets: dict[int, EndpointSet | None] = {}
        self.weights: dict[tuple[int, str], int] = {}
        self.pending: dict[tuple[int, str], tuple[int, float]] = {}
        self.took_s: list[float] = []
        self._services = services

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        for number in range(self._services):
            ask = WatchDestination(_name(number), "default", differences=True)
            cast(asyncio.Transport, transport).write(frame(Call(number + 1, ask)))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        for answer in self._lines.feed(data):
            service, body = answer.id - 1, answer.body
            if isinstance(body, Destination):
                found, changed = body.found, body.found.endpoints if body.found is not None else ()
            elif isinstance(body, DestinationChange):
                found, changed = applied(self._sets.get(service), body), body.now.endpoints
            else:
                raise Problem(f"the agent answers {body}")
            self._sets[service] = found
            for endpoint in changed:
                place = service, endpoint.address
                self.weights[place] = endpoint.weight
                wanted = self.pending.get(place)
                if wanted is not None and endpoint.weight >= wanted[0]:
                    self.took_s.append(now - wanted[1])
                    del self.pending[place]


async def _changes(directory: Path, services: int, each: int, lasting_s: float) -> None:
    loop = asyncio.get_running_loop()
    with _consul(Parts.of(directory)) as consul:
        operations: list[dict[str, Any]] = [
            {"Node": {"Verb": "set", "Node": {"Node": f"node-{number}", "Address": f"192.0.{number}.1"}}}
            for number in range(each)
        ]
        operations += [_operation(service, number, 1) for service in range(services) for number in range(each)]
        for at in range(0, len(operations), _OPERATIONS):
            consul.call("PUT", "txn", operations[at : at + _OPERATIONS])
        watcher = _Watcher(services)
        await loop.create_unix_connection(lambda: watcher, str(directory / "meshd.sock"))
        async with asyncio.timeout(WITHIN_S):
            while len(watcher.weights) < services * each:
                await asyncio.sleep(0.1)
        _say({"known": len(watcher.weights)})
        await loop.run_in_executor(None, sys.stdin.readline)
        expected = await _change(consul, watcher, services, each, lasting_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_S):
                while watcher.pending:
                    await asyncio.sleep(0.05)
        lost = sum(watcher.weights.get(place) != weight for place, weight in expected.items())
        _say({"lost": lost, **quantiles(watcher.took_s)})
        await loop.run_in_executor(None, sys.stdin.read)


async def _change(
    consul: Consul, watcher: _Watcher, services: int, each: int, lasting_s: float
) -> dict[tuple[int, str], int]:
    """Make the changes; the weights that all must come to be known with, by service and address."""
    loop, expected = asyncio.get_running_loop(), dict(watcher.weights)
    begun = time.monotonic()
    for number in range(int(lasting_s * CHANGES_PER_S)):
        await asyncio.sleep(begun + number / CHANGES_PER_S - time.monotonic())
        service, endpoint, weight = random.randrange(services), random.randrange(each), 2 + number
        place = service, f"192.0.{endpoint}.1"
        expected[place] = weight
        watcher.pending[place] = weight, time.monotonic()
        await loop.run_in_executor(None, consul.call, "PUT", "txn", [_operation(service, endpoint, weight)])
    return expected


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _main(what: str, directory: Path, *numbers: str) -> None:
    if what == "news":
        _say(uvloop.run(_news(directory, int(numbers[0]))))
    else:
        uvloop.run(_changes(directory, int(numbers[0]), int(numbers[1]), float(numbers[2])))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
