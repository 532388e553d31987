"""The processes of the soak: web's proxy, and three endpoints, each an application and the proxy before it."""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.certificates import TRUST_DOMAIN, Root, identity, write
from tests.support.ports import accepts

ENDPOINTS: Final = ("one", "two", "three")
SERVICES: Final = {"api": "http1", "quits": "http1", "calls": "grpc", "echo": "auto", "chat": "auto"}
"""The application's ports, and what their workload declares of them."""
DRAIN_S: Final = 4.0
START_WITHIN_S: Final = 60.0
LOOK_AGAIN_S: Final = 0.02

_PROXY: Final = (sys.executable, "-m", "proxy.main", "--drain-timeout", f"{DRAIN_S:g}")
_DIES_WITH_US: Final = (_SETPRIV, "--pdeathsig", "KILL", "--") if (_SETPRIV := shutil.which("setpriv")) else ()
"""Even when the soak itself is killed; without util-linux' setpriv, when it ends in any other way."""
_APPLICATION: Final = (sys.executable, "-m", "tests.soak.application")
_LOWEST_PORT, _HIGHEST_PORT = 21_000, 31_000
"""Below those that the kernel gives to outgoing connections: a port must be free still when its process comes back."""


class SoakFailed(Exception):
    """The soak itself cannot go on: a process did not start, or ended by itself."""


def ports(count: int, chance: random.Random) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now."""
    found: list[int] = []
    while len(found) < count:
        port = chance.randrange(_LOWEST_PORT, _HIGHEST_PORT)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@dataclass
class Process:
    """A program that can be ended and started again. `expected`: it is to run now."""

    name: str
    argv: tuple[str, ...]
    log: Path
    ready: Callable[[], bool]
    expected: bool = False
    running: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def spawn(self) -> None:
        with self.log.open("ab") as output:
            # In a group of its own, so that a Ctrl-C is the soak's to answer.
            self.running = subprocess.Popen(
                (*_DIES_WITH_US, *self.argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )
        self.expected = True
        self.starts += 1

    async def start(self) -> None:
        """Returns when it is ready. SoakFailed."""
        self.spawn()
        deadline = asyncio.get_running_loop().time() + START_WITHIN_S
        while not await asyncio.to_thread(self.ready):
            self.check()
            if asyncio.get_running_loop().time() > deadline:
                raise SoakFailed(f"{self.name} is not ready within {START_WITHIN_S:g} s: see {self.log}")
            await asyncio.sleep(LOOK_AGAIN_S)

    async def end(self, number: signal.Signals) -> None:
        """Send the signal, and return when it is gone. SoakFailed where SIGTERM does not end it."""
        assert self.running is not None
        self.expected = False
        self.signal(number)
        deadline = asyncio.get_running_loop().time() + START_WITHIN_S
        while self.running.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                raise SoakFailed(f"{self.name} did not end within {START_WITHIN_S:g} s of {number.name}")
            await asyncio.sleep(LOOK_AGAIN_S)

    def signal(self, number: signal.Signals) -> None:
        assert self.running is not None
        self.running.send_signal(number)

    def check(self) -> None:
        """SoakFailed where it has ended by itself."""
        if self.expected and self.running is not None and (status := self.running.poll()) is not None:
            raise SoakFailed(f"{self.name} ended by itself with status {status}: see {self.log}")

    def kill(self) -> None:
        """Whatever it does."""
        if self.running is not None and self.running.poll() is None:
            self.running.kill()
            self.running.wait()

    # --- what the kernel says of it

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def admin_page(port: int, path: str) -> str:
    """What an admin port answers with status 200; empty for everything else."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n".encode())
            pieces = []
            while piece := connection.recv(1 << 20):
                pieces.append(piece)
    except OSError:
        return ""
    head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
    return body.decode() if b" 200 " in head.split(b"\r\n")[0] else ""


Series = list[tuple[str, dict[str, str], float]]
"""(name, labels, value), each."""


def counted(page: str) -> Series:
    """The series on a page of metrics."""
    families = text_string_to_metric_families(page)
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


@dataclass
class Endpoint:
    """An application and its proxy. `ports` are the application's, by service."""

    name: str
    ports: dict[str, int]
    inbound: int
    admin: int
    application: Process
    proxy: Process


@dataclass
class World:
    """All of it, below `directory`."""

    directory: Path
    chance: random.Random
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    upstreams: dict[str, int] = field(default_factory=dict)
    outbound: int = 0
    admin: int = 0

    def __post_init__(self) -> None:
        self.root = Root()
        (self.directory / "bundle.pem").write_text(self.root.bundle_pem)
        self.certify("web")
        self.certify("api")
        self.outbound, self.admin, *listening = ports(2 + len(SERVICES), self.chance)
        self.upstreams = dict(zip(SERVICES, listening, strict=True))
        for name in ENDPOINTS:
            inbound, admin, *own = ports(2 + len(SERVICES), self.chance)
            self.endpoints[name] = self._endpoint(name, inbound, admin, dict(zip(SERVICES, own, strict=True)))
        self.write_web(dict.fromkeys(ENDPOINTS, 1))
        self.web = self._proxy("web", self.admin)

    def certify(self, name: str) -> None:
        """Lay a new certificate and key beside the configuration."""
        write(self.root.held(identity(name)), self.directory, name)

    def _endpoint(self, name: str, inbound: int, admin: int, own: dict[str, int]) -> Endpoint:
        declared = [{"port": own[service], "protocol": protocol} for service, protocol in SERVICES.items()]
        workload = {"name": "api", "certificate": "api.pem", "key": "api.key", "ports": declared}
        self._write(name, inbound=f"127.0.0.1:{inbound}", admin=f"127.0.0.1:{admin}", workloads=[workload])
        application = Process(
            f"the application of {name}",
            (*_APPLICATION, name, *(str(port) for port in own.values())),
            self.directory / f"{name}.application.log",
            lambda: all(accepts(port) for port in own.values()),
        )
        return Endpoint(name, own, inbound, admin, application, self._proxy(name, admin))

    def _proxy(self, name: str, admin: int) -> Process:
        return Process(
            f"the proxy of {name}",
            (*_PROXY, "--config", str(self.directory / f"{name}.yaml")),
            self.directory / f"{name}.proxy.log",
            lambda: bool(admin_page(admin, "/ready")),
        )

    def _write(self, name: str, **values: object) -> None:
        said = {"trustDomain": TRUST_DOMAIN, "trustBundle": "bundle.pem", **values}
        (self.directory / f"{name}.yaml").write_text(yaml.safe_dump(said))

    def write_web(self, weights: dict[str, int]) -> None:
        """web's configuration: the endpoints that have a weight."""
        self._write(
            "web",
            outbound=f"127.0.0.1:{self.outbound}",
            admin=f"127.0.0.1:{self.admin}",
            workloads=[
                {
                    "name": "web",
                    "certificate": "web.pem",
                    "key": "web.key",
                    "upstreams": [
                        {"service": service, "listen": f"127.0.0.1:{port}"} for service, port in self.upstreams.items()
                    ],
                }
            ],
            services=[
                {
                    "name": service,
                    "port": 80,
                    "endpoints": [
                        {
                            "address": "127.0.0.1",
                            "port": self.endpoints[name].ports[service],
                            "workload": "api",
                            "inboundPort": self.endpoints[name].inbound,
                            "weight": weight,
                        }
                        for name, weight in weights.items()
                    ],
                }
                for service in SERVICES
            ],
        )

    # --- all of them

    def processes(self) -> list[Process]:
        return [self.web, *(each for one in self.endpoints.values() for each in (one.proxy, one.application))]

    @property
    def survivors(self) -> dict[str, tuple[Process, int]]:
        """The proxies that nobody ends, and their admin ports."""
        steady = self.endpoints[ENDPOINTS[0]]
        return {"web": (self.web, self.admin), f"api, endpoint {steady.name}": (steady.proxy, steady.admin)}

    async def start(self) -> None:
        await asyncio.gather(*(process.start() for process in self.processes()))

    def check(self) -> None:
        """SoakFailed where one has ended by itself."""
        for process in self.processes():
            process.check()

    def kill(self) -> None:
        for process in self.processes():
            process.kill()

    def complaints(self) -> list[str]:
        """Lines of the logs that no operator should see: errors of the proxies themselves."""
        return [
            f"{log.name}: {line}"
            for log in sorted(self.directory.glob("*.proxy.log"))
            for line in log.read_text(errors="replace").splitlines()
            if "Traceback" in line or "ERROR" in line or "exception" in line.lower()
        ]
