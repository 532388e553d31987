"""The agent's Unix socket: made, taken over from an agent that died, and removed.

The file's mode lets everybody connect, as systemd's own sockets do; who may do what is decided by the peer's
credentials (`meshd.agent.peer`), which a file mode could only approximate.
"""

import errno
import os
import socket
import stat
from pathlib import Path

from meshd.api.problems import Misuse, Problem

MAX_PATH_BYTES = 107
"""sun_path holds 108 bytes, the last of them 0 (unix(7))."""

BACKLOG = 128


class ControlSocket:
    """A listening Unix socket at `path`; `close` removes the file, unless it is no longer the one made here. `name` is
    what a person calls it, `setting` where its path comes from."""

    def __init__(self, path: Path, name: str = "the control socket", setting: str = "socket") -> None:
        """Misuse when the path is too long; Problem when it cannot be had, or an agent answers there."""
        self.path = path
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise Misuse(
                f"{path}: a Unix socket's path has at most {MAX_PATH_BYTES} bytes: choose a shorter `{setting}` or "
                "state directory"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(path, setting)
            self.socket = _listen(path)
            self._inode = path.stat().st_ino
        except OSError as error:
            raise Problem(
                f"{path}: {name} cannot be made: {error.strerror}: check the directory's owner and mode, "
                f"or choose another `{setting}`"
            ) from error

    def close(self) -> None:
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except OSError:  # gone already, or its directory is
            pass
        self.socket.close()


def _remove_dead(path: Path, setting: str) -> None:
    """Remove what an agent that died left at path; Problem when an agent lives there, or it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Problem(f"{path}: is in the way, and is not a socket: move it, or choose another `{setting}`")
    if answers(path):
        raise Problem(f"{path}: an agent is already running there: stop it first, or choose another `{setting}`")
    path.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether a process listens at path, be it too busy to accept at once. OSError when that cannot be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        error = probe.connect_ex(os.fspath(path))
    if error in (errno.ECONNREFUSED, errno.ENOENT):
        return False
    if error in (0, errno.EAGAIN):
        return True
    raise OSError(error, os.strerror(error), os.fspath(path))


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(os.fspath(path))
        path.chmod(0o666)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
