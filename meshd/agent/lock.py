"""One agent to a state directory: a lock that the kernel releases when its holder dies, however it dies."""

import fcntl
import os
from pathlib import Path

from meshd.api.problems import Problem, remedy


class AlreadyRunning(Problem):
    """Another agent holds the state directory."""


class StateLock:
    """Holds DIRECTORY/agent.lock, made with the directory when it is not there (0700), until `release`."""

    def __init__(self, directory: Path) -> None:
        """AlreadyRunning when another process holds it; Problem when the directory cannot be written."""
        file = directory / "agent.lock"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Problem(
                f"{directory}: the state directory cannot be written by uid {os.geteuid()}: {error.strerror}: "
                + remedy(error, "correct its owner or mode, or choose another")
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise AlreadyRunning(
                f"{file}: held by another agent: one is already running with this directory"
            ) from error

    def release(self) -> None:
        os.close(self._descriptor)
