"""Tasks that go on for ever, on a clock that only sleeping moves."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


class Clock:
    """Seconds, as `time.time` gives them."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def until(
    reached: Callable[[], bool],
    work: Coroutine[Any, Any, None],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    falls_asleep: Callable[[], None] = lambda: None,
) -> None:
    """Have it go on until that is so. Whoever sleeps wakes at once, and the clock is later by as much."""
    yielding = asyncio.sleep

    async def sleep(pause_s: float) -> None:
        falls_asleep()
        clock.now += pause_s
        await yielding(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    going_on = asyncio.get_running_loop().create_task(work)
    async with asyncio.timeout(30.0):
        while not reached():
            await yielding(0)
    going_on.cancel()
    await asyncio.gather(going_on, return_exceptions=True)
