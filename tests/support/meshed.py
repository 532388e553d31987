"""`meshd run` and its agent as real processes, and looks at them from outside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshd.client import sockets
from tests.support.processes import running
from tests.support.waiting import wait_until

MESHD = (sys.executable, "-P", "-m", "meshd.cli")


def program(name: str) -> list[str]:
    """The command line of one of `tests/support/programs`."""
    return [sys.executable, "-u", str(Path(__file__).parent / "programs" / f"{name}.py")]


@contextmanager
def embedded_agent(directory: Path) -> Iterator[Path]:
    """The agent that `meshd run --state-dir directory` finds; its socket."""
    directory.mkdir(mode=0o700, exist_ok=True)
    socket = directory / "meshd.sock"
    argv = [*MESHD, "agent", "--embedded", "--state-dir", str(directory)]
    with running(argv, directory / "test-agent.log", lambda: sockets.answers(socket)):
        yield socket


class Run:
    """A `meshd run` process; its output goes to `log`."""

    def __init__(self, name: str, options: list[str], command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*MESHD, "run", "--name", name, *options, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, deadline_s: float = 60.0) -> None:
        """Returns when it has written text. AssertionError when it ends before, or does not in time."""
        wait_until(lambda: text in self.text or self.process.poll() is not None, f"{self.name} says {text}", deadline_s)
        assert text in self.text, f"{self.name} ended with {self.process.poll()} and said:\n{self.text}"

    def child(self, program: str) -> int:
        """The process id of a direct child whose command line contains `program`."""
        return wait_until(lambda: self._child(program), f"{self.name} has a child {program}")

    def ends(self, deadline_s: float = 60.0) -> int:
        return self.process.wait(deadline_s)

    def _child(self, program: str) -> int:
        for pid in children(self.process.pid):
            line = command_line(pid)
            if program in line and "meshd.cli" not in line:  # which it is until it has been executed
                return pid
        return 0


@contextmanager
def run(name: str, options: list[str], command: list[str], directory: Path) -> Iterator[Run]:
    """`meshd run` for as long as the block takes, and no longer."""
    started = Run(name, options, command, directory / f"{name}.log")
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
            try:
                started.process.wait(60.0)
            except subprocess.TimeoutExpired:
                started.process.kill()
                started.process.wait()
                raise AssertionError(f"{name} did not end on SIGTERM and said:\n{started.text}") from None


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(socket: Path) -> dict[str, Any]:
    """What `meshd status -o json` prints."""
    argv = [*MESHD, "status", "-o", "json", "--socket", str(socket)]
    printed = subprocess.run(argv, stdout=subprocess.PIPE, env=os.environ, check=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def waits_for(socket: Path, name: str) -> list[str] | None:
    """What the workload waits for before it is announced; None when the agent does not know it."""
    for workload in status(socket)["workloads"]:
        if workload["name"] == name:
            return list(workload["waiting_for"])
    return None


def announced(socket: Path, name: str) -> None:
    """Returns when callers are sent to the workload."""
    wait_until(lambda: waits_for(socket, name) == [], f"{name} is announced")
