"""Real processes beside a test: started, waited for, and ended by their own id whatever the test does."""

import pwd
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

END_WITHIN_S = 60.0


@contextmanager
def running(
    argv: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline_s: float = 60.0,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process `argv`, once `ready()`; its output goes to the file `log`. It gets SIGTERM at the end. Root may start
    it as `user`.

    AssertionError, with its output, when it ends or the deadline comes before it is ready, and when it does not end.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, **_as(user)
        )
    try:
        try:
            wait_until(lambda: process.poll() is not None or ready(), f"{argv[0]} is ready", deadline_s)
            assert process.poll() is None, f"{argv[0]} ended with status {process.returncode}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text(errors='replace')}") from None
        yield process
    finally:
        _end(process)


def finished(argv: Sequence[str], log: Path, cwd: Path, user: str | None = None) -> None:
    """Run `argv` to its end. AssertionError, with its output, when that is no success."""
    with log.open("ab") as output:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, check=False, **_as(user)
        )
    assert done.returncode == 0, f"{argv[0]} ended with status {done.returncode}\n{log.read_text(errors='replace')}"


def _as(user: str | None) -> dict[str, Any]:
    """What has a program run as user and in no group but its own; as we are, where there is none."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{process.args!r} did not end within {END_WITHIN_S:g} s of SIGTERM") from None
