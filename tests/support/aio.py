"""Running asynchronous tests on the loop that the product runs on."""

import asyncio
import json
import selectors
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], deadline_s: float = 120.0) -> T:
    """What `work` returns, run on a new uvloop that is closed afterwards.

    TimeoutError at the deadline. AssertionError when the loop was told of an error that no one awaited (in a protocol's
    callback, say): asyncio only logs these, and a test that passes over them tests nothing.
    """
    unseen: list[dict[str, Any]] = []

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
        async with asyncio.timeout(deadline_s):
            return await work

    with warnings.catch_warnings(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # What a failing test leaves open is warned of as the loop closes; raised there, the warning hangs uvloop.
        warnings.simplefilter("default", ResourceWarning)
        result = runner.run(main())
    if unseen:
        raise AssertionError(f"the loop saw {len(unseen)} errors that no one awaited: {unseen}") from next(
            (context["exception"] for context in unseen if "exception" in context), None
        )
    return result


ATTEMPTS = 20
HELD_UP_S = 0.05


def run_on_time(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `work()` returns, all of which runs on this loop and depends on tenths of a second: where it fails and the
    loop was held up meanwhile by a machine that did something else, nothing is shown, and it is begun anew."""
    for _ in range(ATTEMPTS - 1):
        late = _Late()
        try:
            return run(late.watch(work()), deadline_s=40.0)
        except Exception:
            if late.by_s < HELD_UP_S:
                raise
    return run(work())


class _Late:
    """By how much a loop did later what it was to do, in all: by a timer that is set again and again."""

    TICK_S, USUAL_S = 0.005, 0.003

    def __init__(self) -> None:
        self.by_s = 0.0

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        self._set()
        try:
            return await work
        finally:
            self._count()
            self._timer.cancel()

    def _set(self) -> None:
        self._due = time.monotonic() + self.TICK_S + self.USUAL_S
        self._timer = asyncio.get_running_loop().call_later(self.TICK_S, self._tick)

    def _tick(self) -> None:
        self._count()
        self._set()

    def _count(self) -> None:
        self.by_s += max(time.monotonic() - self._due, 0.0)


class _MadeUpTime(selectors.DefaultSelector):
    """Reports what is there to be read, and where nothing is lets the time pass that would have been waited."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is not None:
            self.passed_s += timeout
        return found


class _MadeUpLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._made_up = _MadeUpTime()
        super().__init__(self._made_up)

    def time(self) -> float:
        return self._made_up.passed_s


def run_in_made_up_time(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, where no time passes but what it waits for, and that at once: for what depends on timers of
    the loop, and on no socket and no other clock."""
    with asyncio.Runner(loop_factory=_MadeUpLoop) as runner:
        return runner.run(work)


async def output(*argv: str, stdin: bytes = b"") -> bytes:
    """What a program that succeeds prints. One that is given nothing may have ended before it could be given that."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin or None)
    assert process.returncode == 0, (argv, process.returncode, out[-1000:], err[-1000:])
    return out


@asynccontextmanager
async def speaking(*argv: str) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
    """A program that says JSON, a line at a time, until it is left, when it is killed; its standard input stays open.
    What is given waits for its next line."""
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    output = process.stdout
    assert output is not None

    async def said() -> dict[str, Any]:
        async with asyncio.timeout(60.0):
            line: dict[str, Any] = json.loads(await output.readline())
            return line

    try:
        yield said
    finally:
        process.kill()
        await process.wait()
