"""Real processes beside a test: started, waited for, and ended by their own id whatever the test does."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_until

END_WITHIN_S = 10.0


@contextmanager
def running(
    argv: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline_s: float = 10.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process `argv`, once `ready()`; its output goes to the file `log`. It gets SIGTERM at the end.

    AssertionError, with its output, when it ends or the deadline comes before it is ready, and when it does not end.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd
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


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{process.args!r} did not end within {END_WITHIN_S:g} s of SIGTERM") from None
