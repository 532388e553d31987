"""A process that this one started: how it ended can be awaited, and it does not outlive this one by accident.

The kernel tells of the end through a pidfd (pidfd_open(2)), so no signal handler and no other child is involved. A
child that is to end with its parent is told so by the kernel too (PR_SET_PDEATHSIG, prctl(2)): SIGTERM, so that it can
end in good order, even when the parent was killed and could say nothing.
"""

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

FIRST_INHERITED_FD = 3
"""Where inherited sockets begin (sd_listen_fds(3))."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """Made by `spawn`. `ended` is done with the exit status, as a shell counts it, when the process has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.ended: asyncio.Future[int] = loop.create_future()
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._on_end)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        listening: Sequence[socket.socket] = (),
        output: IO[bytes] | None = None,
        new_session: bool = False,
        outlives_us: bool = False,
        cwd: Path | None = None,
    ) -> "Child":
        """Start argv. It inherits `listening` from descriptor 3 on, as LISTEN_FDS and LISTEN_PID tell it.

        Standard input is ours unless `output`, which takes both outputs, is given. OSError when it cannot be executed.
        """
        fds = [each.fileno() for each in listening]
        with ExitStack() as held:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            held.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
            prepare = partial(_prepare, None if outlives_us else os.getpid(), dict(environment), fds, mask)
            _occupy(FIRST_INHERITED_FD + len(fds), held)
            process = subprocess.Popen(  # noqa: S603 - running what the user typed is what it is for
                argv,
                stdin=None if output is None else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=new_session,
                cwd=cwd,
                pass_fds=range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + len(fds)),
                preexec_fn=prepare,  # noqa: PLW1509 - there are no threads here, and nothing else can do all of it
            )
        return cls(process)

    def signal(self, signum: int) -> None:
        """Send it a signal; nothing when it has ended."""
        if not self.ended.done():
            self._process.send_signal(signum)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)

    async def stop(self, within_s: float) -> bool:
        """End it: SIGTERM, and SIGKILL when it is still there after within_s. Whether SIGTERM was enough."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.kill()
            await asyncio.shield(self.ended)
            return False
        return True

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set_result(exit_status(self._process.wait()))


def exit_status(returncode: int) -> int:
    """A return code as a shell counts it: 128 + N for a process that signal N ended."""
    return 128 - returncode if returncode < 0 else returncode


def describe(status: int) -> str:
    """How a process ended, for a person."""
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exit status {status}"


def _occupy(end: int, held: ExitStack) -> None:
    """Leave no descriptor free below `end`: the pipe over which Popen hears of a failed exec gets the lowest free ones,
    and must not lie where the child puts its sockets."""
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) < end:
        held.callback(os.close, fd)
    os.close(fd)


def _prepare(
    parent: int | None, environment: dict[str, str], fds: list[int], mask: Iterable[int | signal.Signals]
) -> None:
    """In the child, between fork and exec. Signals are blocked until our handlers are gone: run here they would wake
    the parent's loop, over the descriptors that are still shared with it, and not end the child."""
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    if parent is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be watched
            os.kill(os.getpid(), signal.SIGTERM)
    _libc.clearenv()  # os.environ does not know what libraries have set since the start
    os.environ.update(environment)
    if fds:
        end = FIRST_INHERITED_FD + len(fds)
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) for fd in fds]
        for target, copy in enumerate(copies, FIRST_INHERITED_FD):
            os.dup2(copy, target)
        os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
