"""A root is followed by another under continuous traffic, and nobody notices: real programs, two hosts, one CA."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from meshd.client.sockets import answers
from tests.integration.test_proxy_process import Load, application, get, ready
from tests.integration.test_proxy_workers import value
from tests.support.meshed import MESHD
from tests.support.ports import accepts, free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = [sys.executable, "-m", "proxy.main"]
WORKLOAD = "---\napiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: {}}}\nspec: {}\n"
SERVICE = (
    "---\napiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {}}}\nspec:\n  port: 80\n  protocol: {}\n"
    "  endpoints: [{{address: 127.0.0.1, port: {}, workload: api, inboundPort: {}}}]\n  timeouts: {{connect: 60s}}\n"
)


class Handshakes:
    """Opens one opaque connection after the other and keeps them all: each needs a handshake between proxies."""

    def __init__(self, port: int) -> None:
        self._port, self._ending = port, threading.Event()
        self._open: list[HTTPConnection] = []
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.wait(0.2):
            connection = HTTPConnection("127.0.0.1", self._port, timeout=60.0)
            self._open.append(connection)
            self._ask(connection)

    def _ask(self, connection: HTTPConnection) -> None:
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.errors.append(str(answer.status))
        except (OSError, HTTPException) as error:
            self.errors.append(repr(error))

    def __enter__(self) -> "Handshakes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for connection in self._open:
            self._ask(connection)  # live connections go on with what they began with
            connection.close()

    def __len__(self) -> int:
        return len(self._open)


class Host:
    """A host that has joined; its agent and its proxy run."""

    def __init__(self, mesh: "Mesh", name: str, workloads: str, documents: str) -> None:
        self.name = name
        self.directory = mesh.directory / name
        self.socket = self.directory / "meshd.sock"
        self.outbound, self.inbound, self.admin = free_ports(3)
        self._settings = self.directory / "meshd.yaml"
        token = mesh.ca("token", "create", "--workload", workloads)
        mesh.says(
            "join", f"127.0.0.1:{mesh.port}", "--config", self._settings, "--state-dir", self.directory / "state",
            "--node", name, "--token", token.strip(),
        )  # fmt: skip
        self._settings.write_text(
            mesh.known(self._settings.read_text()) + f"socket: {self.socket}\nadmin: ''\nnames: {{listen: ''}}\n"
            f"discovery: [{{file: {{path: {self.directory}/none}}}}]\n"
            f"proxy: {{outbound: '127.0.0.1:{self.outbound}', inbound: '127.0.0.1:{self.inbound}', "
            f"admin: '127.0.0.1:{self.admin}'}}\n" + documents
        )

    @contextmanager
    def runs(self) -> Iterator[None]:
        agent = [*MESHD, "agent", "--config", str(self._settings)]
        proxy = [*PROXY, "--control", str(self.socket)]
        with (
            running(agent, self.directory / "agent.log", lambda: answers(self.socket)),
            running(proxy, self.directory / "proxy.log", lambda: ready(self.admin)),
        ):
            yield


class Mesh:
    """`web` on vm1 calls `api` on vm2, for HTTP through the upstream `http` and for opaque bytes through `raw`;
    `other`, there too, calls it through the upstream `other`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.http, self.raw, self.other = free_ports(4)
        self.web: Host
        self.api: Host
        self.state = directory / "ca"
        self.make()

    def make(self) -> None:
        self.says("ca", "init", "--trust-domain", "prod.example", "--state-dir", self.state)

    def says(self, *arguments: object) -> str:
        done = subprocess.run(
            [*MESHD, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ca(self, *arguments: str) -> str:
        return self.says("ca", *arguments, "--state-dir", self.state)

    def known(self, settings: str) -> str:
        """The settings of a host that has joined, with the CAs that it is to ask."""
        return settings

    @contextmanager
    def serves(self) -> Iterator[None]:
        argv = [*MESHD, "ca", "serve", "--state-dir", str(self.state), "--listen", f"127.0.0.1:{self.port}"]
        with running(argv, self.directory / "ca.log", lambda: accepts(self.port)):
            yield

    def rotation(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ca("rotate", "status", "-o", "json"))
        return found

    def comes_to(self, stage: str) -> None:
        wait_until(lambda: self.rotation()["stage"] == stage, f"the rotation is {stage}", 120.0)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with up(Mesh(tmp_path)) as made:
        yield made


@contextmanager
def up(made: Mesh) -> Iterator[Mesh]:
    """With its CA, and its hosts in it."""
    with ExitStack() as stack:
        stack.enter_context(made.serves())
        ports = [stack.enter_context(application()) for _ in range(2)]
        declared = f"{{ports: [{{port: {ports[0]}}}, {{port: {ports[1]}, protocol: tcp}}]}}"
        api = Host(made, "vm2", "default/api", WORKLOAD.format("api", declared))
        upstreams = (
            f"{{upstreams: [{{service: api, listen: '127.0.0.1:{made.http}'}}, "
            f"{{service: raw, listen: '127.0.0.1:{made.raw}', protocol: tcp}}]}}"
        )
        services = SERVICE.format("api", "auto", ports[0], api.inbound) + SERVICE.format(
            "raw", "tcp", ports[1], api.inbound
        )
        other = f"{{upstreams: [{{service: api, listen: '127.0.0.1:{made.other}'}}]}}"
        workloads = WORKLOAD.format("web", upstreams) + WORKLOAD.format("other", other)
        web = Host(made, "vm1", "default/*", workloads + services)
        made.web, made.api = web, api
        stack.enter_context(api.runs())
        stack.enter_context(web.runs())
        wait_until(lambda: get(made.http, "/")[0] == 200, "web reaches api")
        yield made


def roots(mesh: Mesh) -> list[str]:
    end = "-----END CERTIFICATE-----\n"
    return [each + end for each in mesh.ca("bundle").split(end) if each]


def believed(host: Host) -> str:
    """The trust bundle that the host's agent keeps."""
    return str(json.loads((host.directory / "state" / "trust.json").read_text())["bundle_pem"])


def test_a_root_is_replaced_under_traffic_and_nothing_fails(mesh: Mesh) -> None:
    (old,) = roots(mesh)
    with Load(mesh.http, 2) as load, Handshakes(mesh.raw) as handshakes:
        mesh.ca("rotate", "root", "--settle", "1s", "--renew-within", "1s")
        mesh.comes_to("done")
        (new,) = roots(mesh)
        assert new != old
        hosts = (mesh.web, mesh.api)
        wait_until(lambda: all(believed(host) == new for host in hosts), "all believe the new root alone")
        before = len(handshakes)
        wait_until(lambda: len(handshakes) >= before + 5, "handshakes with the new root alone")
    assert (load.errors, handshakes.errors) == ([], [])
    stages = re.findall(r"root: (\w+) since", (mesh.state / "audit.log").read_text())
    assert stages == ["prepared", "active", "done"]


def test_a_revoked_workload_is_refused_within_seconds_and_others_go_on(mesh: Mesh) -> None:
    with Load(mesh.other, 1) as others:
        assert get(mesh.http, "/")[0] == 200
        mesh.ca("issued", "revoke", "--workload", "default/web")
        wait_until(lambda: get(mesh.http, "/")[0] >= 500, "web is refused")
        refused = value(mesh.api.admin, "inbound_tcp_errors_total")
        assert get(mesh.http, "/")[0] >= 500
        answered = len(others.statuses)
        wait_until(lambda: len(others.statuses) > answered + 20, "the other workload is answered")
    assert others.errors == []
    assert refused >= 1
    assert "default/sa/web is revoked" in (mesh.api.directory / "proxy.log").read_text()
