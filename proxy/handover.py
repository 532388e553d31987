"""From one generation of the program to the next, without a connection refused: SIGUSR2, for reload and upgrade.

    old   starts the same program with the same arguments, its listening sockets open in it
    new   accepts on them beside the old one, and says through a pipe that it is ready
    old   tells the service manager of the new main process, drains, and ends

When the new one ends before, or is not ready in time, it is ended and the old one goes on. Between the two is a third
process meanwhile, for systemd's sake (`proxy.foster`). What is passed on is told in
MESHD_HANDOVER, as JSON: descriptors of the pipe, of what the first generation inherited, and of what the program bound,
by address.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

import msgspec

from meshd.api.inherited import adopted, inherited
from meshd.api.notify import leave_manager, notify, reloading
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy import foster
from proxy.kept import address_of

log = logging.getLogger(__name__)

VARIABLE: Final = "MESHD_HANDOVER"
INSTANCE: Final = "MESHD_INSTANCE"
"""The secret that a proxy shares with the `meshd run` that started it."""

READY_WITHIN_S: Final = 30.0
END_WITHIN_S: Final = 2.0
"""How long a generation that was not ready in time has for ending."""


class _Written(msgspec.Struct):
    """What MESHD_HANDOVER says. The next generation may be of another version: fields may come, and none may go."""

    ready: int
    kept: list[int]
    own: dict[str, list[int]]


class Inheritance(NamedTuple):
    """What this process was started with. `kept`: listening sockets that belong to whoever started the first
    generation. `own`: those that the program bound, by address as it was written; several where workers share one.
    `predecessor`: the pipe to the old generation, -1 where there is none."""

    kept: list[socket.socket]
    own: dict[str, list[socket.socket]]
    predecessor: int

    def written(self) -> str:
        """As `received` reads it."""
        own = {address: [each.fileno() for each in several] for address, several in self.own.items()}
        return msgspec.json.encode(_Written(self.predecessor, [each.fileno() for each in self.kept], own)).decode()

    def descriptors(self) -> list[int]:
        """All that is passed on."""
        sockets = [*self.kept, *(each for several in self.own.values() for each in several)]
        return [*([self.predecessor] if self.predecessor >= 0 else []), *(each.fileno() for each in sockets)]

    def tell_ready(self) -> None:
        """Let the old generation go, if there is one."""
        if self.predecessor >= 0:
            try:
                os.write(self.predecessor, b"ready")
            except BrokenPipeError:
                pass  # it was ended meanwhile: so much the better that this one is here
            os.close(self.predecessor)


def received() -> Inheritance:
    """What this process was started with; the environment forgets it, so that children do not take it for theirs."""
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return _started_with(inherited())
    told = msgspec.json.decode(text, type=_Written)
    if told.ready >= 0:
        os.set_inheritable(told.ready, False)
    own = {address: [adopted(fd) for fd in fds] for address, fds in told.own.items()}
    return Inheritance([adopted(fd) for fd in told.kept], own, told.ready)


def _started_with(listeners: Iterable[tuple[str, socket.socket]]) -> Inheritance:
    """What the service manager kept for a process before this one is this one's own."""
    kept: list[socket.socket] = []
    own: dict[str, list[socket.socket]] = {}
    for name, listener in listeners:
        address = address_of(name)
        if address is None:
            kept.append(listener)
        else:
            own.setdefault(address, []).append(listener)
    return Inheritance(kept, own, -1)


def again(inheritance: Inheritance, environment: Mapping[str, str]) -> NoReturn:
    """Be the same program with the same arguments anew, in this process, with that inheritance. OSError."""
    for descriptor in inheritance.descriptors():
        os.set_inheritable(descriptor, True)
    environment = {**os.environ, **environment, VARIABLE: inheritance.written()}
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - what this process is itself


class Succession:
    """The signal, and what comes of it. `sockets` are those to pass on (`kept` and `own`, see `Inheritance`); `done` is
    called when the new generation is ready, for this one to drain."""

    def __init__(
        self,
        tasks: Tasks,
        instance: str,
        sockets: Callable[[], tuple[Iterable[socket.socket], Mapping[str, Sequence[socket.socket]]]],
        done: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._instance = instance
        self._sockets = sockets
        self._done = done
        self._going_on: asyncio.Task[None] | None = None
        self._precluded = False
        self.succeeded = False

    def preclude(self) -> None:
        """This generation ends: none is to follow, unless it does already."""
        self._precluded = True
        if self._going_on is not None and not self.succeeded:
            self._going_on.cancel()

    def begin(self) -> None:
        """Start a new generation, unless that is under way."""
        if why_not := _why_not(self._instance):
            log.error("SIGUSR2: no new generation: %s", why_not)
        elif self._going_on is None and not self._precluded:
            self._going_on = self._tasks.start(self._succeed(), "succession")

    async def _succeed(self) -> None:
        log.info("starting a new generation")
        reloading()
        try:
            pid = await _succeeded(*self._sockets())
        except Problem as problem:
            log.error("there is no new generation, and this one goes on: %s", problem)
            notify("READY=1")
        else:
            log.info("process %d has taken over", pid)
            notify("READY=1", f"MAINPID={pid}")
            leave_manager()
            self.succeeded = True
            self._done()
        finally:
            self._going_on = None


def _why_not(instance: str) -> str:
    """Why this process cannot be followed by another; empty when it can. `instance` is its `meshd run`'s, if any."""
    if instance:
        return "`meshd run` watches this very process: start the command again instead"
    return "this is process 1, whose end is everything's: start the container anew instead" if os.getpid() == 1 else ""


async def _succeeded(kept: Iterable[socket.socket], own: Mapping[str, Sequence[socket.socket]]) -> int:
    """Start the next generation with these sockets; its process id, once it is ready. Problem when it is not: then it
    has ended."""
    successor = _Successor(kept, own)
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            is_ready = await successor.is_ready()
    except TimeoutError as error:
        await successor.end()
        raise Problem(f"it was not ready within {READY_WITHIN_S:g} s") from error
    except asyncio.CancelledError:
        successor.kill()
        raise
    finally:
        successor.close()
    if not is_ready:
        raise Problem(f"it ended with status {await successor.end()} before it was ready")
    return successor.let_go()


class _Successor:
    """The next generation, started below a process that is its parent for as long as it may fail (`proxy.foster`)."""

    def __init__(self, kept: Iterable[socket.socket], own: Mapping[str, Sequence[socket.socket]]) -> None:
        self._said = b""  # its number and a newline, then what it says when it is ready
        self._pipe, writing = os.pipe()
        inheritance = Inheritance(list(kept), {address: list(several) for address, several in own.items()}, writing)
        try:
            self._parent = subprocess.Popen(  # noqa: S603 - what this process is itself
                [sys.executable, "-I", "-S", foster.__file__, str(writing), sys.executable, *sys.orig_argv],
                env={**os.environ, VARIABLE: inheritance.written()},
                pass_fds=inheritance.descriptors(),
            )
        except OSError as error:
            os.close(self._pipe)
            raise Problem(f"{sys.executable} cannot be executed: {error.strerror}") from error
        finally:
            os.close(writing)

    @property
    def _pid(self) -> int:
        """0 while it is not known."""
        number, newline, _ = self._said.partition(b"\n")
        return int(number) if newline else 0

    async def is_ready(self) -> bool:
        """True once it is, False when it has ended."""
        while part := await _read(self._pipe):
            self._said += part
            if self._said.partition(b"\n")[2]:
                return True
        return False

    def close(self) -> None:
        """Hear no more of it."""
        os.close(self._pipe)

    def let_go(self) -> int:
        """It goes on, and is nobody's child here; its number."""
        self._parent.kill()
        self._parent.wait()
        return self._pid

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        self._parent.wait()

    async def end(self) -> int:
        """End it, at once if need be; its status."""
        self._signal(signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + END_WITHIN_S
        while self._parent.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(0.02)
        return self._parent.returncode

    def _signal(self, number: signal.Signals) -> None:
        if self._parent.poll() is not None:
            return
        if self._pid:
            with suppress(ProcessLookupError):  # it has just ended, and its parent is about to
                os.kill(self._pid, number)
        else:
            self._parent.kill()


async def _read(pipe: int) -> bytes:
    """What comes first through pipe; nothing when all who could write have ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pipe)
    return os.read(pipe, 16)
