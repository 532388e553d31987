"""Who is at the other end of a Unix socket: real processes, of several users and cgroups, and some that play tricks."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.agent.workload.attest import Facts, NotAttested
from meshd.agent.workload.process import LocalProcess, handle_by_number
from tests.support.cgroups import cgroups, inside

root = pytest.mark.skipif(os.geteuid() != 0, reason="starts processes of other users: needs root")

CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.recv(1)
"""

AS_A_USER = """
import os, pwd, socket, sys
os.setuid(pwd.getpwnam({!r}).pw_uid)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.recv(1)
"""

BECOME_NOBODY = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
os.setuid(65534)
connection.send(b'.')
connection.recv(1)
"""

LEAVE_THE_CONNECTION_TO_A_CHILD = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
if os.fork() == 0:
    connection.recv(1)
"""


class Listener:
    """A socket that everybody may connect to, and the processes that do."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "s"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.path.chmod(0o666)
        self.socket.listen()
        self.socket.settimeout(60)

    @contextmanager
    def connected(
        self, program: str = CONNECT, before: tuple[str, ...] = (), python: str = sys.executable
    ) -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket]]:
        argv = [*before, python, "-P", "-c", program, str(self.path)]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, cwd="/") as process:
            try:
                connection, _ = self.socket.accept()
                with connection:
                    yield process, connection
            finally:
                process.kill()

    def facts(self, **how: object) -> Facts:
        with self.connected(**how) as (_, connection):  # type: ignore[arg-type]
            return facts(connection)


def facts(connection: socket.socket) -> Facts:
    process = LocalProcess(connection)
    try:
        return process.facts()
    finally:
        process.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/meshd-test-XXXXXX"], text=True).strip())
    directory.chmod(0o755)
    listener = Listener(directory)
    yield listener
    listener.socket.close()
    shutil.rmtree(directory)


def test_who_connects(listener: Listener) -> None:
    with listener.connected() as (process, connection):
        seen = facts(connection)
        executable = os.path.realpath(f"/proc/{process.pid}/exe")
    assert (seen.pid, seen.uid, seen.executable) == (process.pid, os.geteuid(), executable)
    assert seen.cgroup.startswith("/")


@root
def test_two_users_are_told_apart(listener: Listener) -> None:
    users = ("nobody", "daemon")
    assert [listener.facts(program=AS_A_USER.format(user)).user for user in users] == list(users)


@root
def test_a_cgroup_is_seen_and_with_it_the_unit(listener: Listener) -> None:
    with cgroups("web.service") as (group,):
        seen = listener.facts(before=tuple(inside(group)))
    assert seen.cgroup == f"/meshd-test-{os.getpid()}.slice/web.service"
    assert seen.unit == "web.service"


@root
def test_a_file_of_ones_own_in_a_namespace_of_ones_own_is_not_what_its_path_says(
    listener: Listener, tmp_path: Path
) -> None:
    """The kernel says /bin/ls of it, and so it is, but only in there."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare here")
    masked = os.path.realpath("/bin/ls")
    mine = tmp_path / "mine"
    shutil.copy(os.path.realpath(sys.executable), mine)
    mask = (
        unshare,
        "--mount",
        "/bin/sh",
        "-c",
        f'mount --bind {mine} {masked} && PYTHONHOME={sys.base_prefix} exec "$@"',
        "sh",
    )
    with listener.connected(before=mask, python=masked) as (process, connection):
        assert os.readlink(f"/proc/{process.pid}/exe") == masked
        assert facts(connection).executable == ""


def test_a_program_that_was_replaced_is_not_what_is_there_now(listener: Listener, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copy(os.path.realpath(sys.executable), mine)
    with listener.connected(python=str(mine)) as (_, connection):
        assert facts(connection).executable == str(mine)
        mine.unlink()
        mine.write_text("another")
        assert facts(connection).executable == ""


@root
def test_one_that_became_another_user_must_connect_again(listener: Listener) -> None:
    with listener.connected(BECOME_NOBODY) as (_, connection):
        assert connection.recv(1) == b"."
        with pytest.raises(NotAttested, match="the process is of uid 65534 now"):
            facts(connection)


@pytest.mark.parametrize("handle", [None, handle_by_number])
def test_nothing_is_said_of_a_process_that_has_ended(listener: Listener, handle: object) -> None:
    with listener.connected() as (process, connection):
        known = LocalProcess(connection, handle)  # type: ignore[arg-type]
        assert known.facts().pid == process.pid
        process.kill()
        process.wait()
        assert known.has_ended()
        with pytest.raises(NotAttested, match="is gone"):
            known.facts()
        known.close()


def test_a_connection_that_outlives_its_process_is_nobodys(listener: Listener) -> None:
    with listener.connected(LEAVE_THE_CONNECTION_TO_A_CHILD) as (process, connection):
        process.wait()
        with pytest.raises(NotAttested, match="is gone"):
            facts(connection)


def test_a_number_that_another_process_has_now_is_not_believed(listener: Listener) -> None:
    """The handle is of a process that has ended; under its number the kernel would show another, here this test."""
    with listener.connected() as (process, connection):
        known = LocalProcess(connection)
        process.kill()
        process.wait()
        known.peer = known.peer._replace(pid=os.getpid())
        with pytest.raises(NotAttested, match="is gone"):
            known.facts()
        known.close()
