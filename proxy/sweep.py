"""Deadlines of many connections, checked coarsely: the proxy's timer wheel.

A timer a request would cost more than the request. Instead every connection stands in one of a few buckets and each
tick looks at one bucket, so that each connection is looked at once a second and no tick looks at them all. To move a
deadline is then to set a float on the connection, and to end it is to leave the bucket.
"""

from collections import deque
from typing import Protocol


class Swept(Protocol):
    """Something with deadlines of its own."""

    def sweep(self, now: float) -> None:
        """Do what is due at `now` (the loop's clock, seconds). Called about once a second."""


class Sweep:
    """The buckets; whoever owns the loop calls `tick` every `TICK_S` seconds."""

    BUCKETS = 10
    TICK_S = 0.1

    def __init__(self) -> None:
        self._buckets: list[set[Swept]] = [set() for _ in range(self.BUCKETS)]
        self._at = 0

    def add(self, swept: Swept) -> None:
        self._buckets[hash(swept) % self.BUCKETS].add(swept)

    def discard(self, swept: Swept) -> None:
        self._buckets[hash(swept) % self.BUCKETS].discard(swept)

    def tick(self, now: float) -> None:
        self._at = (self._at + 1) % self.BUCKETS
        bucket = self._buckets[self._at]
        for swept in tuple(bucket):
            if swept in bucket:  # else it has left by what another did just now
                swept.sweep(now)


class Overdue:
    """Counts what began and was not settled within `within_s`, from two sums alone: for TLS handshakes, whose failure
    is told to no protocol."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._begun: deque[tuple[float, int]] = deque()
        self._overdue = 0

    def count(self, now: float, begun: int, settled: int) -> int:
        """How many more are overdue than were at the last call, when so many have `begun` and so many are `settled`."""
        self._begun.append((now, begun))
        before = self._overdue
        while self._begun[0][0] < now - self._within_s:
            self._overdue = max(self._overdue, self._begun.popleft()[1] - settled)
        return self._overdue - before
