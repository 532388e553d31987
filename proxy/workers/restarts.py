"""When a worker that has ended is started again, and when that is given up. Pure: time is an argument.

One that was ready has died of what happened to it, and its successor may live; one that ends before it is ready, time
after time, has a reason that starting it again does not change, and the connections in its place's queue would wait for
ever.
"""

import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.05
MOST_S: Final = 5.0
SETTLED_AFTER_S: Final = 10.0
"""A worker that was ready this long did not die of how it was started: the next delay is a first one again."""
TRIES: Final = 5
"""Starts in a row that may fail."""


class Restarts:
    """Those of one place."""

    def __init__(self, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._draw = draw
        self._delay_s = FIRST_S
        self._failed = 0
        self._ready_at: float | None = None
        self.deaths = 0

    def ready(self, now: float) -> None:
        """The worker of now is ready."""
        if self._ready_at is None:
            self._ready_at = now
            self._failed = 0

    def ended(self, now: float) -> float | None:
        """The worker has ended: seconds after which to start another; None: it is of no use."""
        self.deaths += 1
        if self._ready_at is None:
            self._failed += 1
            if self._failed >= TRIES:
                return None
        elif now - self._ready_at > SETTLED_AFTER_S:
            self._delay_s = FIRST_S
        self._ready_at = None
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MOST_S)
        return self._draw(delay_s / 2, delay_s)
