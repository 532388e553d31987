"""What capture adds to a connection, in microseconds of processor time.

    look-up      the kernel says whose socket is at the other end (`proxy.capture.diag`), among 1,000 that are open
    remembered   which workload that is, once the agent has said (`proxy.capture.callers`)
    accepted     a connection that is made to a listener itself, and closed: of a proxy that has no capture, and of one
                 that has it (`proxy.capture.sorting`)

Nothing of it is on the way of connections of a proxy that has no capture. Its counterpart are the scenarios, which
compare proxies; there is no other to compare this with.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

import uvloop

from meshd.api.control import Caller
from meshd.api.names import Address
from meshd.api.tasks import Tasks
from proxy.capture.callers import Callers
from proxy.capture.diag import Process, SocketDiag, Undecided
from proxy.capture.sorting import Sorting

ROUNDS = 7
REPEATS = 5_000
SOCKETS = 1_000
CONNECTIONS = 2_000


def figures() -> Iterator[str]:
    """A line for each; of several rounds the median, and the least and the most."""
    try:
        yield _line("look-up", _look_ups())
    except Undecided as error:
        yield f"look-up: {error}"
    yield _line("remembered", uvloop.run(_remembered()))
    yield _line("accepted, no capture", [uvloop.run(_accepted(sorts=False)) for _ in range(ROUNDS)])
    yield _line("accepted, with capture", [uvloop.run(_accepted(sorts=True)) for _ in range(ROUNDS)])


def _line(what: str, rounds_us: list[float]) -> str:
    return f"{what}: {median(rounds_us):.1f} us ({min(rounds_us):.1f} to {max(rounds_us):.1f})"


def _timed(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    for _ in range(REPEATS):
        work()
    return (time.thread_time() - begun) / REPEATS * 1e6


def _look_ups() -> list[float]:
    diag = SocketDiag()
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0), backlog=SOCKETS) as listening:
        where = Address(*listening.getsockname())
        for _ in range(SOCKETS // 2):  # a connection has two ends
            caller = opened.enter_context(socket.create_connection(where))
            opened.enter_context(listening.accept()[0])
        source = Address(*caller.getsockname())
        try:
            return [_timed(lambda: diag.whose(source, where)) for _ in range(ROUNDS)]
        finally:
            diag.close()


async def _remembered() -> list[float]:
    callers = Callers(_Agent(), Tasks("bench"), lambda: 0.0)
    rounds = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(REPEATS):
            await callers.workload(Process(4711, 0))
        rounds.append((time.thread_time() - begun) / REPEATS * 1e6)
    return rounds


class _Agent:
    """Has one answer for all."""

    async def identify(self, cgroup: int, uid: int) -> Caller:  # noqa: ARG002
        return Caller("default/web")

    async def source(self, here: Address, peer: Address) -> int:  # noqa: ARG002
        return 0


class _Closing(asyncio.Protocol):
    """Closes what it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Nothing:
    def expects(self, where: Address) -> bool:  # noqa: ARG002
        return True

    async def take(self, accepted: socket.socket, where: Address) -> None:  # noqa: ARG002
        accepted.close()  # nothing redirects here


async def _accepted(*, sorts: bool) -> float:
    loop, tasks = asyncio.get_running_loop(), Tasks("bench")
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setblocking(False)
    where = listening.getsockname()
    server: asyncio.Server | Sorting
    if sorts:
        server = Sorting(listening, lambda: True, _Closing, _Nothing(), None, tasks)
    else:
        server = await loop.create_server(_Closing, sock=listening)
    done = asyncio.Event()

    def call() -> None:
        for _ in range(CONNECTIONS):
            with socket.create_connection(where) as caller:
                caller.recv(1)
        loop.call_soon_threadsafe(done.set)

    callers = threading.Thread(target=call)
    begun = time.thread_time()
    callers.start()
    await done.wait()
    spent_s = time.thread_time() - begun
    callers.join()
    server.close()
    await tasks.cancel()
    return spent_s / CONNECTIONS * 1e6
