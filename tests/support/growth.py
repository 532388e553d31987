"""Whether work grows with the size of what it is done on, or with the square of it.

A limit in seconds would say more of the machine than of the code. What is compared instead is the cost of one size with
that of eight times as much, in the same breath: some 8 times where each byte is looked at once, 64 where all that has
come is looked at again for each.
"""

import time
from collections.abc import Callable

TIMES = 8
MOST = 24
ATTEMPTS = 6
"""Whatever else the machine does may spoil some measurements; the square spoils all of them."""


def assert_proportional(prepare: Callable[[int], Callable[[], object]], size: int) -> None:
    """`prepare(n)` makes ready and gives what is to be measured on n pieces; size is the larger of the two sizes."""
    ratios = []
    for _ in range(ATTEMPTS):
        small, large = _cost(prepare(size // TIMES)), _cost(prepare(size))
        ratios.append(large / small)
        if ratios[-1] < MOST:
            return
    raise AssertionError(f"{TIMES} times the size cost {[round(ratio) for ratio in ratios]} times as much")


def _cost(work: Callable[[], object]) -> int:
    begun = time.process_time_ns()
    work()
    return max(time.process_time_ns() - begun, 1)
