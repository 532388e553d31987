"""Children with what they inherit, how they end, and that they do not outlive their parent."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshd.run.child import Child, describe
from tests.support import aio
from tests.support.waiting import eventually, wait_until

TELL = """
import json, os, socket, sys
count = int(os.environ["LISTEN_FDS"])
told = {
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    "mine": os.environ["LISTEN_PID"] == str(os.getpid()),
    "ports": [socket.socket(fileno=3 + each).getsockname()[1] for each in range(count)],
    "environment": sorted(os.environ),
}
json.dump(told, sys.stdout)
"""


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_status_is_as_a_shell_counts_it(script: str, status: int) -> None:
    async def work() -> int:
        return await Child.spawn(["sh", "-c", script], os.environ).ended

    assert aio.run(work()) == status


def test_how_a_process_ended_in_words() -> None:
    assert describe(137) == "killed by SIGKILL"
    assert describe(3) == "exit status 3"
    assert describe(255) == "exit status 255"


@pytest.mark.parametrize("count", [0, 1, 20])
def test_sockets_are_inherited_from_descriptor_three_on(tmp_path: Path, count: int) -> None:
    async def work(sockets: list[socket.socket]) -> int:
        with (tmp_path / "out").open("wb") as output:
            environment = {"ONLY": "this", "LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}
            child = Child.spawn([sys.executable, "-S", "-c", TELL], environment, listening=sockets, output=output)
        return await child.ended

    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
        assert aio.run(work(sockets)) == 0
    told = json.loads((tmp_path / "out").read_text())
    assert told["ports"] == ports
    assert told["mine"] is (count > 0)
    assert set(told["environment"]) - {"LC_CTYPE"} == {"LISTEN_FDS", "LISTEN_PID", "ONLY"}
    assert len(told["open"]) == 4 + count, "nothing else of ours is inherited; one is the listing's own"


def test_what_cannot_be_executed_is_an_error_and_no_child(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    listening = socket.create_server(("127.0.0.1", 0))

    async def work() -> None:
        with pytest.raises(FileNotFoundError):
            Child.spawn([str(tmp_path / "none")], os.environ, listening=[listening])
        with pytest.raises(PermissionError):
            Child.spawn([str(tmp_path / "data")], os.environ, listening=[listening])

    with listening:
        aio.run(work())


def test_a_child_that_does_not_end_is_killed_after_its_time() -> None:
    async def work() -> tuple[bool, int, bool, int]:
        deaf = Child.spawn(["sh", "-c", "trap '' TERM; echo; sleep 60 & wait; wait"], os.environ, new_session=True)
        obedient = Child.spawn(["sleep", "60"], os.environ)
        await eventually(lambda: ignores(deaf.pid, signal.SIGTERM), "the trap is set")
        killed = await deaf.stop(0.1)
        os.killpg(deaf.pid, signal.SIGKILL)
        ended = await obedient.stop(60.0)
        deaf.signal(signal.SIGTERM)
        return killed, await deaf.ended, ended, await obedient.ended

    assert aio.run(work()) == (False, 137, True, 143)


PARENT = """
import asyncio, os, sys
from meshd.run.child import Child
async def main():
    child = Child.spawn(["sleep", "60"], os.environ, outlives_us=sys.argv[1] == "outlives")
    print(child.pid, flush=True)
    await child.ended
asyncio.run(main())
"""


@pytest.mark.parametrize("outlives", [True, False])
def test_a_child_of_a_killed_parent_is_ended_unless_it_is_to_outlive_it(outlives: bool) -> None:
    argv = [sys.executable, "-c", PARENT, "outlives" if outlives else "ends"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        if not outlives:
            wait_until(lambda: not alive(child), "the child has ended")
            return
        assert alive(child)
        os.kill(child, signal.SIGKILL)


def ignores(pid: int, signum: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> (signum - 1) & 1)


def alive(pid: int) -> bool:
    """Whether it runs: a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
