"""A host of the test's own to capture on: a network namespace, one outside it, and a slice with control groups.

    inside   lo, and 10.98.0.1 fd98::1 towards the outside, which is its default route
    outside  10.98.0.2 fd98::2

Needs root; skips the test where the kernel does not let it have one of the parts. All of it is gone afterwards.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshd.capture import slices
from tests.support.processes import running
from tests.support.waiting import wait_until

PEER = Path(__file__).parent / "programs" / "capture_peer.py"
HERE, THERE = "10.98.0.1", "10.98.0.2"
HERE6, THERE6 = "fd98::1", "fd98::2"

PROXY_USER = "nobody"
"""As whom the proxy runs: there everywhere, and nobody else's here."""


class Host:
    """The namespaces by the ids of the processes that hold them, and the slice."""

    def __init__(self, inside: int, outside: int, slice_: str, directory: Path) -> None:
        self.inside, self.outside, self.slice, self._directory = inside, outside, slice_, directory
        top = slices.top()
        assert top is not None
        self._root = top / slice_

    def group(self, name: str) -> Path:
        """A control group in the slice, as of a unit that starts."""
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, *argv: str, within: Path | None = None, outside: bool = False, text: str = "") -> str:
        """What the command prints that is run on the host (or outside it), in a control group."""
        done = subprocess.run(
            [*self._enter(within, outside), *argv], input=text, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def call(
        self, address: str, port: int, *, within: Path | None = None, outside: bool = False, user: str = ""
    ) -> str:
        """Who answered there."""
        argv = (sys.executable, str(PEER), "call", address, str(port))
        return self.run(*_as(user), *argv, within=within, outside=outside).strip()

    def ruleset(self) -> str:
        return self.run("nft", "--stateless", "list", "ruleset")

    @contextmanager
    def serving(self, name: str, *places: tuple[str, int], outside: bool = False, user: str = "") -> Iterator[None]:
        """A server that says its name, in none of the slice's control groups."""
        ready = self._directory / f"{name}.ready"
        ready.unlink(missing_ok=True)
        self._directory.chmod(0o777)
        flat = [part for host, port in places for part in (host, str(port))]
        argv = [*self._enter(None, outside), *_as(user), sys.executable, str(PEER), "serve", name, str(ready), *flat]
        with running(argv, self._directory / f"{name}.log", ready.exists):
            yield

    def _enter(self, within: Path | None, outside: bool) -> list[str]:
        entered = ["nsenter", f"--net=/proc/{self.outside if outside else self.inside}/ns/net"]
        if within is None:
            return entered
        return ["/bin/sh", "-c", f'echo $$ > {within}/cgroup.procs && exec "$@"', "sh", *entered]

    def clean(self) -> None:
        for path in sorted((each for each in self._root.rglob("*") if each.is_dir()), reverse=True):
            wait_until(lambda path=path: not (path / "cgroup.procs").read_text(), "the cgroup is empty")  # type: ignore[misc]
            path.rmdir()
        self._root.rmdir()


def _as(user: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []


@contextmanager
def host(directory: Path) -> Iterator[Host]:
    """One. Skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if slices.top() is None:
        pytest.skip("no control groups of version 2 here")
    with ExitStack() as held:
        inside, outside = (held.enter_context(_namespace()) for _ in range(2))
        made = Host(inside, outside, f"meshdtest{os.getpid()}.slice", directory)
        try:
            made.group("")
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        held.callback(made.clean)
        _connect(made)
        yield made


@contextmanager
def _namespace() -> Iterator[int]:
    """The id of a process that holds a network namespace."""
    own = os.stat("/proc/self/ns/net").st_ino
    process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.PIPE)

    def is_there() -> bool:
        return process.poll() is not None or os.stat(f"/proc/{process.pid}/ns/net").st_ino != own

    try:
        wait_until(is_there, "the network namespace is there")
        if process.poll() is not None:
            pytest.skip("no network namespace can be made here")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _connect(made: Host) -> None:
    for outside, end, address, address6 in ((False, "in0", HERE, HERE6), (True, "out0", THERE, THERE6)):
        made.run("ip", "link", "set", "lo", "up", outside=outside)
        if not outside:
            made.run("ip", "link", "add", end, "type", "veth", "peer", "out0", "netns", str(made.outside))
        made.run("ip", "address", "add", f"{address}/24", "dev", end, outside=outside)
        made.run("ip", "address", "add", f"{address6}/64", "dev", end, "nodad", outside=outside)
        made.run("ip", "link", "set", end, "up", outside=outside)
    made.run("ip", "route", "add", "default", "via", THERE)
    made.run("ip", "-6", "route", "add", "default", "via", THERE6)
