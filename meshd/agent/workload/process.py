"""Who is at the other end of a Unix socket: the process itself, held so that its number can never mean another.

A process number is used again when its process has ended, so a number alone proves nothing a moment later. The kernel
gives a handle of the very process that connected (SO_PEERPIDFD, Linux 6.5). With it:

    1. open the directory /proc/PID; it stays that of the process that had the number then, and is empty after its end
    2. see by the handle that the process that connected still lives: so the directory is its own
    3. read what is to be known through the directory

On an older kernel the handle is made from the number as soon as the connection is there. That leaves the time between
connect(2) and accept(2), in which the process would have to end and its number be used again; that the user is still
the one that connected is checked, there and everywhere.

The executable is what /proc/PID/exe says, and only if that path, as the agent sees it, is the very file that runs:
anybody can have a mount namespace in which a file of their own is at /usr/bin/web.
"""

import errno
import os
import pwd
import select
import socket
from collections.abc import Callable
from typing import Final

from meshd.agent.peer import Peer
from meshd.agent.workload.attest import Facts, NotAttested, cgroup_of

SO_PEERPIDFD: Final = 77
"""asm-generic/socket.h; Python has no name for it yet."""

MAX_READ_BYTES: Final = 64 << 10
"""Of a file of /proc: the longest is a list of cgroups, each path at most 4 KiB."""


class LocalProcess:
    """The process that connected, until `close`. NotAttested from the constructor when it is gone already, or is none
    of this host's."""

    def __init__(self, connected: socket.socket, handle: Callable[[socket.socket, Peer], int] | None = None) -> None:
        self.peer = Peer.of(connected)
        if self.peer.pid <= 0:
            raise NotAttested("the process is in a process namespace that the agent cannot see into")
        try:
            self._pidfd = (handle or process_handle)(connected, self.peer)
        except OSError as error:
            raise NotAttested(f"{self.peer}: the process that connected is gone: {error.strerror}") from error

    def facts(self) -> Facts:
        """What the kernel says of it now; NotAttested when it ended, or became another user's. Reads /proc and the
        user database: not for the loop."""
        directory = -1
        try:
            directory = os.open(f"/proc/{self.peer.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if self.has_ended():
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._check_user(_read(directory, "status"))
            return Facts(
                pid=self.peer.pid,
                uid=self.peer.uid,
                user=_user_name(self.peer.uid),
                cgroup=cgroup_of(_read(directory, "cgroup")),
                executable=_executable(directory),
            )
        except OSError as error:
            raise NotAttested(f"{self.peer}: the process that connected is gone: {error.strerror}") from error
        finally:
            if directory >= 0:
                os.close(directory)

    def __str__(self) -> str:
        return str(self.peer)

    def has_ended(self) -> bool:
        return self._pidfd < 0 or bool(_poll(self._pidfd))

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _check_user(self, status: str) -> None:
        """The effective user (proc_pid_status(5)) is the one that connected, which SO_PEERCRED names."""
        for line in status.splitlines():
            if line.startswith("Uid:"):
                now = int(line.split()[2])
                if now != self.peer.uid:
                    raise NotAttested(f"{self.peer}: the process is of uid {now} now: connect again")
                return
        raise NotAttested(f"{self.peer}: the kernel does not say whose it is")


def process_handle(connected: socket.socket, peer: Peer) -> int:
    """A descriptor of the process that connected (pidfd_open(2)); OSError when it is gone."""
    try:
        return connected.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return handle_by_number(connected, peer)


def handle_by_number(_connected: socket.socket, peer: Peer) -> int:
    """The same on a kernel that has no SO_PEERPIDFD."""
    return os.pidfd_open(peer.pid)


def _poll(pidfd: int) -> list[tuple[int, int]]:
    """Not empty when the process has ended: its handle can then be read from."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return poll.poll(0)


def _read(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        content = b""
        while len(content) < MAX_READ_BYTES and (part := os.read(descriptor, MAX_READ_BYTES - len(content))):
            content += part
        return content.decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def _executable(directory: int) -> str:
    """Empty when it may not be seen, or what is at that path is another file: it runs in a namespace of its own, or was
    replaced since it was started."""
    try:
        path = os.readlink("exe", dir_fd=directory)
        running, named = os.stat("exe", dir_fd=directory), os.stat(path, follow_symlinks=False)
    except OSError:
        return ""
    return path if (running.st_dev, running.st_ino) == (named.st_dev, named.st_ino) else ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
