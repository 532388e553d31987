"""How long to wait before trying again what just failed."""

import random
from collections.abc import Callable


class Backoff:
    """Delays that double from `first_s` to `most_s`.

    Each is drawn from the upper half of its range, so that clients that lost the same agent do not all come back at
    the same moment.
    """

    def __init__(self, first_s: float, most_s: float, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self._next_s = first_s

    def next_s(self) -> float:
        """The next delay, in seconds."""
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._most_s)
        return self._draw(delay_s / 2, delay_s)

    def reset(self) -> None:
        """It went well: the next failure is a first one."""
        self._next_s = self._first_s
