"""One host: systemd in a container of systemd-nspawn, from a root that it cannot change.

Its process is in a cgroup of its own, since each nspawn puts what it boots into a cgroup beside itself. What the host
writes goes to memory (`--volatile=overlay`).
"""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.cgroups import PLACES
from tests.support.machines.network import BRIDGE, NOBODY, ip
from tests.support.peers import path
from tests.support.waiting import wait_until

BOOT_WITHIN_S: Final = 180.0
END_WITHIN_S: Final = 20.0
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Machine:
    """See the module. `commands` counts what a person would have typed (`types`). `programs` of this machine are there,
    too, where they say."""

    def __init__(self, name: str, address: str, network: Path, root: Path, programs: Mapping[str, str]) -> None:
        self.name, self.address = name, address
        self.commands: list[str] = []
        self._network, self._root, self._programs = network, root, programs
        self._log = tempfile.NamedTemporaryFile(prefix=f"meshd-{name}-", suffix=".log")  # noqa: SIM115 - closed in end
        self._cgroups = [
            place / f"meshd-test-{os.getpid()}-{name}"
            for place in (*PLACES, Path("/sys/fs/cgroup/systemd"))
            if (place / "cgroup.procs").exists()
        ]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._halts = False

    def start(self) -> None:
        """Begin to boot it."""
        for group in self._cgroups:
            group.mkdir()
        nspawn = [
            path("systemd-nspawn"), "--quiet", "--boot", f"--directory={self._root}", "--volatile=overlay",
            "--register=no", "--keep-unit", f"--network-bridge={BRIDGE}", f"--machine={self.name}", "--console=pipe",
            f"--hostname={self.name}", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            *(f"--bind-ro={here}:{there}" for here, there in self._programs.items()),
        ]  # fmt: skip
        inside = "".join(f"echo $$ >{shlex.quote(str(group))}/cgroup.procs; " for group in self._cgroups)
        # It ends when the test does, however that ends. nsenter and not `ip netns exec`, which hides the cgroups.
        argv = [path("setpriv"), "--pdeathsig", "TERM", "sh", "-c", inside + 'exec "$@"', "sh"]
        argv += [path("nsenter"), f"--net={self._network}", *nspawn]
        self._nspawn = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def booted(self, addresses: dict[str, str]) -> None:
        """Wait until it has booted, and give it its address; it knows the others, of `addresses`, by name."""
        self._init = wait_until(self._find_init, f"{self.name} has an init", BOOT_WITHIN_S)
        wait_until(self._has_booted, f"{self.name} has booted: {self._said()}", BOOT_WITHIN_S)
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "host0")
        self.run("ip", "link", "set", "host0", "up")
        self.run("ip", "route", "add", "default", "via", NOBODY)
        self.write("/etc/hostname", f"{self.name}\n")
        self.run("hostname", self.name)
        known = "".join(f"{address} {name}\n" for name, address in addresses.items())
        self.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{known}")

    def _find_init(self) -> int:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, f"systemd-nspawn ended: {self._said()}"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children and _program(int(children[0])) == "systemd" else 0

    def _has_booted(self) -> bool:
        return self.runs("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def _said(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]

    def plugged(self, is_plugged: bool) -> None:
        """Its cable to the network's switch, in or out: what it sends is lost, and what is sent to it."""
        state = "up" if is_plugged else "down"
        ip("-n", self._network.name, "link", "set", f"vb-{self.name}", state)

    def lose(self) -> None:
        """It loses power: nobody hears a last word of it."""
        self.plugged(False)
        os.kill(self._init, signal.SIGKILL)

    def halt(self) -> None:
        """Have it begin to halt; `end` waits for that."""
        if self._nspawn is not None and not self._halts:
            self._halts = True
            self._nspawn.terminate()

    def end(self) -> None:
        """Halt it; at once if it does not."""
        self.halt()
        if self._nspawn is not None:
            for at_once in (self._nspawn.terminate, self._nspawn.kill):  # to nspawn, the second SIGTERM is no request
                try:
                    self._nspawn.wait(END_WITHIN_S)
                    break
                except subprocess.TimeoutExpired:
                    at_once()
            self._nspawn.wait()
        for group in self._cgroups:
            for directory, _, _ in os.walk(group, topdown=False):
                wait_until(lambda directory=directory: _removed(Path(directory)), f"{directory} is empty")  # type: ignore[misc]
        self._log.close()

    # --- what is done on it

    def runs(self, *argv: str, stdin: str = "", timeout_s: float = 180.0) -> "subprocess.CompletedProcess[str]":
        """Run a program there, to its end, and say how that was."""
        return subprocess.run(
            self._inside(argv), input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def run(self, *argv: str, stdin: str = "", timeout_s: float = 180.0) -> str:
        """What a program printed there. AssertionError when it fails, with what it said."""
        done = self.runs(*argv, stdin=stdin, timeout_s=timeout_s)
        assert done.returncode == 0, f"{self.name}: {shlex.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def types(self, command: str, timeout_s: float = 180.0) -> str:
        """`run`, of what a person types, counted."""
        self.commands.append(command)
        return self.run("sh", "-c", command, timeout_s=timeout_s)

    def begins(self, *argv: str) -> "subprocess.Popen[str]":
        """A program that goes on there; its output can be read. It is to end by itself."""
        return subprocess.Popen(
            self._inside(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _inside(self, argv: tuple[str, ...]) -> list[str]:
        spaces = [path("nsenter"), f"--target={self._init}", "-m", "-u", "-i", "-n", "-p", "-C", "--wd=/"]
        return [*spaces, "env", "-i", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), *argv]

    def file(self, name: str) -> Path:
        """A file there, as it is seen from here."""
        return Path(f"/proc/{self._init}/root{name}")

    def write(self, name: str, text: str) -> None:
        """Make a file there; root's, and for all to read."""
        self.file(name).write_text(text, encoding="utf-8")

    def journal(self, *units: str) -> str:
        """What units said there."""
        return self.run("journalctl", "--no-pager", "-o", "cat", *(f"--unit={unit}" for unit in units))


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
