"""The back ends of discovery behind one face, each with a registry that runs: for a suite that all of them pass.

A new back end is an entry of `BACKENDS`: how a registry of its kind is started, stopped and told that the service
`web` (port 80) has endpoints at ports of one address; and how an agent's settings name it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

from tests.support import consul
from tests.support.consul import Consul
from tests.support.kubernetes import bodies
from tests.support.kubernetes.relay import Relay
from tests.support.kubernetes.worlds import world
from tests.support.nameservers import NameServer
from tests.support.ports import own_address


class Backend(Protocol):
    """A registry that runs, and knows nothing at first."""

    settings: dict[str, Any]
    """An item of the agent's `discovery`."""

    authority: str
    """How `web` is asked for."""

    namespace: str
    """Which it is of."""

    address: str
    """Where its endpoints are: 127.0.0.1 where the registry lets them."""

    def serve(self, *ports: int) -> None:
        """The service has endpoints at these ports of the address, and no others."""

    def goes(self) -> None:
        """It cannot be read from now on."""

    def returns(self) -> None:
        """It can be again, and knows what it knew."""


class FileBackend:
    authority, namespace, address = "web", "default", "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self._directory, self._away = directory / "documents", directory / "away"
        self._directory.mkdir()
        self.settings = {"file": {"path": str(self._directory)}}

    def serve(self, *ports: int) -> None:
        endpoints = ", ".join(f"{{address: 127.0.0.1, port: {port}}}" for port in ports)
        (self._directory / "web.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: web}\n"
            f"spec: {{port: 80, endpoints: [{endpoints}]}}\n"
        )

    def goes(self) -> None:
        self._directory.rename(self._away)

    def returns(self) -> None:
        self._away.rename(self._directory)


class DnsBackend:
    authority, namespace, address = "web", "default", "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self._server = NameServer(directory)
        self._server.serve("")
        self._running: AbstractContextManager[Any] | None = None
        self.settings = {
            "dns": {
                "services": {
                    "web": {"srv": "_web._tcp.example", "port": 80},
                    "nobody": {"name": "no.example", "port": 1},
                },
                "resolvers": [str(self._server.address)],
            }
        }

    def serve(self, *ports: int) -> None:
        records = "".join(f"_web._tcp 1 IN SRV 0 1 {port} here\n" for port in ports)
        self._server.serve(f"here 1 IN A 127.0.0.1\n{records}", negative_s=1)

    def goes(self) -> None:
        assert self._running is not None
        self._running.__exit__(None, None, None)
        self._running = None

    def returns(self) -> None:
        self._running = self._server.running()
        self._running.__enter__()

    def close(self) -> None:
        if self._running is not None:
            self.goes()


class ConsulBackend:
    authority, namespace, address = "web:80", "default", "127.0.0.1"

    def __init__(self, server: Consul) -> None:
        self._server = server
        self._ports: set[int] = set()
        self.settings = {"consul": {"url": server.url}}

    def serve(self, *ports: int) -> None:
        for port in sorted(set(ports) - self._ports):
            self._server.elsewhere("vm1", "127.0.0.1", "web", port)
        for port in sorted(self._ports - set(ports)):
            self._server.gone("vm1", f"web-{port}")
        self._ports = set(ports)

    def goes(self) -> None:
        self._server.stop()

    def returns(self) -> None:
        self._server.start()
        self._server.wait_until_led()


class KubernetesBackend:
    """A double of an API server, or a real one (`make test-k8s`), by a way that can be cut. It lives on a thread."""

    address = own_address() or "192.0.2.1"  # loopback addresses are refused

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._there: set[str] | None = None
        try:
            self._do(self._begin(directory))
        except BaseException:
            self.close()
            raise
        self.namespace = self._world.namespace
        self.authority = f"web.{self.namespace}.svc"
        self.settings = {"kubernetes": {"kubeconfig": str(self._relay.kubeconfig(directory / "by-relay"))}}

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120.0)

    async def _begin(self, directory: Path) -> None:
        self._world = await self._stack.enter_async_context(world(directory))
        self._relay = Relay(self._world.kubeconfig)
        await self._relay.begin()
        self._stack.push_async_callback(self._relay.end)

    def serve(self, *ports: int) -> None:
        self._do(self._write({f"web-{port}": port for port in ports}))

    async def _write(self, wanted: dict[str, int]) -> None:
        """A slice for each port: one alone has one number for a port."""
        if self._there is None:
            self._there = set()
            await self._world.service(bodies.service("web", ("http", 80, 80)))
        for name in self._there ^ wanted.keys():
            if name in wanted:
                endpoint = bodies.endpoint(self.address)
                await self._world.slice(bodies.slice_of("web", name, endpoint, ports={"http": wanted[name]}))
            else:
                await self._world.delete_slice(name)
        self._there = set(wanted)

    def goes(self) -> None:
        self._do(self._open(False))

    def returns(self) -> None:
        self._do(self._open(True))

    async def _open(self, yes: bool) -> None:
        """Done when it is so: whoever cuts and opens again at once is not to find it cut."""
        if yes:
            self._relay.open = True
        else:
            self._relay.cut()

    def close(self) -> None:
        try:
            self._do(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60.0)
            self._loop.close()


@contextmanager
def _file(directory: Path) -> Iterator[Backend]:
    yield FileBackend(directory)


@contextmanager
def _dns(directory: Path) -> Iterator[Backend]:
    backend = DnsBackend(directory)
    try:
        backend.returns()
        yield backend
    finally:
        backend.close()


@contextmanager
def _consul(_: Path) -> Iterator[Backend]:
    with consul.lasting() as server:
        yield ConsulBackend(server)


@contextmanager
def _kubernetes(directory: Path) -> Iterator[Backend]:
    backend = KubernetesBackend(directory)
    try:
        yield backend
    finally:
        backend.close()


class Kind(NamedTuple):
    """How one of a kind is begun in a directory, the programs it needs, and whether it is doubted, and what it said is
    kept: a file is at hand, and believed."""

    begun: Callable[[Path], AbstractContextManager[Backend]]
    programs: tuple[str, ...] = ()
    doubts: bool = True


BACKENDS = {
    "file": Kind(_file, doubts=False),
    "consul": Kind(_consul, ("consul",)),
    "dns": Kind(_dns, ("nsd",)),
    "kubernetes": Kind(_kubernetes),
}
