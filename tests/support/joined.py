"""A host that joined a mesh, on loopback: a CA, its agent, its proxy and an application, each a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from meshd.client.sockets import answers
from tests.support.meshed import MESHD
from tests.support.ports import accepts, free_port
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = (sys.executable, "-P", "-m", "proxy.main")

Checks = dict[str, dict[str, str]]
"""What `meshd check -o json` found, by id, or by `id description` where an id comes more than once."""


class Joined:
    """The host vm1 of prod.example in a directory, with the workload default/web at a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self.state, self.conf = directory / "ca", directory / "state", directory / "conf.d"
        self.settings, self.socket = directory / "etc" / "meshd.yaml", directory / "meshd.sock"
        self.ca_port, self.outbound, self.inbound, self.admin, self.port = (free_port() for _ in range(5))
        self.conf.mkdir()
        self.does("ca", "init", "--trust-domain", "prod.example", "--state-dir", self.ca)
        with self.serves():
            self.join(self.settings, self.state)
        self._begun = self.settings.read_text()
        self.set()
        self.write("web", f"metadata: {{name: web}}\nspec: {{ports: [{{port: {self.port}}}]}}")

    def set(self, more: str = "admin: ''\nnames: {listen: ''}\ncapture: {enabled: false}") -> None:
        """Write the settings, with others."""
        listeners = ", ".join(
            f"{name}: '127.0.0.1:{port}'"
            for name, port in (("outbound", self.outbound), ("inbound", self.inbound), ("admin", self.admin))
        )
        self.settings.write_text(
            f"{self._begun}socket: {self.socket}\ndiscovery: [{{file: {{path: {self.conf}}}}}]\n"
            f"workloadApi: {{enabled: false}}\nproxy: {{{listeners}}}\n{more}\n"
        )

    def join(self, settings: Path, state: Path, *token_for: str) -> None:
        """Have a host with that file and directory join as vm1. AssertionError where the CA does not let it."""
        made = self.does("ca", "token", "create", "--state-dir", self.ca, "--workload", "default/web", *token_for)
        token = made.strip()
        where = ("--config", settings, "--state-dir", state)
        self.does("join", f"127.0.0.1:{self.ca_port}", "--node", "vm1", "--token", token, *where)

    def write(self, name: str, text: str, kind: str = "Workload") -> None:
        """A document."""
        (self.conf / f"{name}.yaml").write_text(f"apiVersion: meshd.io/v1\nkind: {kind}\n{text}\n")

    # --- what runs

    @property
    def serving(self) -> list[str]:
        """The command line of its CA."""
        return [*MESHD, "ca", "serve", "--state-dir", str(self.ca), "--listen", f"127.0.0.1:{self.ca_port}"]

    @contextmanager
    def serves(self, *within: str) -> Iterator[None]:
        """Its CA. `within` begins the command line of what runs."""
        with running([*within, *self.serving], self.directory / "ca.log", lambda: accepts(self.ca_port)):
            yield

    @contextmanager
    def agent(self, *within: str) -> Iterator["subprocess.Popen[bytes]"]:
        argv = [*within, *MESHD, "agent", "--config", str(self.settings)]
        with running(argv, self.directory / "agent.log", lambda: answers(self.socket)) as process:
            yield process

    @contextmanager
    def proxy(self, *within: str) -> Iterator["subprocess.Popen[bytes]"]:
        argv = [*within, *PROXY, "--control", str(self.socket)]
        with running(argv, self.directory / "proxy.log", lambda: True) as process:
            yield process

    @contextmanager
    def application(self) -> Iterator[None]:
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]
        with running(argv, self.directory / "app.log", lambda: accepts(self.port)):
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """All of it; ready."""
        with ExitStack() as held:
            for each in (self.serves(), self.application(), self.agent(), self.proxy()):
                held.enter_context(each)
            wait_until(lambda: self.workload().get("waiting_for") == [], "the proxy is ready")
            yield

    # --- what is to be seen

    def log(self, name: str) -> str:
        file = self.directory / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def workload(self) -> dict[str, Any]:
        """Its workload, as the status has it; nothing while there is no agent."""
        done = subprocess.run(
            [*MESHD, "status", "--socket", str(self.socket), "-o", "json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            return {}
        found: dict[str, Any]
        (found,) = json.loads(done.stdout)["workloads"]
        return found

    def does(self, *arguments: object) -> str:
        """What `meshd` prints that is run with these."""
        done = subprocess.run([*MESHD, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def check(self, *options: str, within: Sequence[str] = ()) -> tuple[int, Checks]:
        """The status of `meshd check`, and what it found."""
        return checked(*within, *MESHD, "check", *(options or ("--config", str(self.settings))))


def checked(*argv: str) -> tuple[int, Checks]:
    """The status of a `meshd check` with that command line, and what it found."""
    done = subprocess.run([*argv, "-o", "json"], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["success"] is (done.returncode == 0)
    found: Checks = {}
    for section in data["categories"]:
        for each in section["checks"]:
            found[f"{each['id']} {each['description']}" if each["id"] in found else each["id"]] = each
    return done.returncode, found


def wrong(checks: Checks) -> dict[str, str]:
    """What is not well of them, by id."""
    return {name: each["error"] for name, each in checks.items() if each["result"] != "success"}
