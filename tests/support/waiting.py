"""Waiting for something to become true: by looking again and again until a deadline, never by sleeping for a time."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_AGAIN_S = 0.005

DEADLINE_S = 60.0
"""Long enough for a machine that does much else; what works does not wait for it."""


def wait_until(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of `look()`; AssertionError naming `what` when there is none by the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(LOOK_AGAIN_S)
    return value


async def eventually(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """`wait_until` for a test on the loop, which goes on meanwhile."""
    end = time.monotonic() + deadline_s
    while not (value := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(LOOK_AGAIN_S)
    return value


async def steady(look: Callable[[], int], least: int) -> int:
    """What `look` says once it is over `least` and has not changed for 30 looks."""
    last, same = -1, 0

    def same_again() -> bool:
        nonlocal last, same
        now = look()
        same = same + 1 if now == last and now > least else 0
        last = now
        return same > 30

    await eventually(same_again, "the flow stands still")
    return last
