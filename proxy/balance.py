"""Which endpoint a request goes to: the power of two choices over a load (Mitzenmacher 2001).

The load of an HTTP endpoint is its peak EWMA latency times what is pending on it (Finagle, and as Linkerd has it): a
slow answer counts at once, a fast one slowly, and an endpoint nobody asks drifts back to being tried. For connections,
whose length says nothing about the endpoint, it is the number that are open, and the least loaded of all is taken;
of very many, of some that chance draws, so that a pick costs the same whatever the number of endpoints.

Pure: time comes in as an argument, in seconds; so does chance.
"""

from collections.abc import Callable, Sequence
from math import exp
from typing import Final, Protocol, TypeVar

DEFAULT_RTT_S: Final = 0.030
"""What an endpoint is taken to need before it has answered; Linkerd's."""
MOST_COMPARED: Final = 32
"""Endpoints whose connections are compared for one pick. Of 32 drawn from any number, the least loaded is among the
best tenth but once in thirty picks."""
LEAST_ESTIMATE_S: Final = 1e-6
DECAY_S: Final = 10.0
"""Time in which an old sample's weight falls to 1/e; Linkerd's."""


class PeakEwma:
    """The latency of one endpoint, in seconds, and how many requests wait on it."""

    __slots__ = ("_at", "_estimate", "pending")

    def __init__(self, now: float, estimate: float = DEFAULT_RTT_S) -> None:
        self._estimate = estimate
        self._at = now
        self.pending = 0

    def observe(self, rtt: float, now: float) -> None:
        """Take in that an answer took rtt seconds and came at `now`."""
        weight = exp((self._at - now) / DECAY_S) if now > self._at else 1.0
        decayed = self._estimate * weight
        self._estimate = rtt if rtt > decayed else decayed + rtt * (1.0 - weight)
        self._at = now

    def estimate(self, now: float) -> float:
        """The latency to expect at `now`, decayed since the last sample."""
        return self._estimate * exp((self._at - now) / DECAY_S) if now > self._at else self._estimate

    def load(self, now: float) -> float:
        return self.estimate(now) * (self.pending + 1)


class Loaded(Protocol):
    """What is balanced over. Both loads are divided by the endpoint's weight."""

    def load(self, now: float) -> float:
        """Of requests, at a time."""

    def connections(self) -> float:
        """Of connections."""


L = TypeVar("L", bound=Loaded)


def pick(ready: Sequence[L], now: float, random: Callable[[], float]) -> L:
    """The less loaded of two that chance draws from `ready`, which is not empty. `random` yields [0, 1)."""
    count = len(ready)
    if count == 1:
        return ready[0]
    first = int(random() * count)
    second = int(random() * (count - 1))
    if second >= first:
        second += 1
    one, other = ready[first], ready[second]
    return one if one.load(now) <= other.load(now) else other


def pick_least(ready: Sequence[L], random: Callable[[], float]) -> L:
    """The one of `ready` with the least load of connections, or of MOST_COMPARED of them; chance decides between
    equals."""
    count = len(ready)
    start = int(random() * count)
    if count > MOST_COMPARED:
        drawn = [ready[start], *(ready[int(random() * count)] for _ in range(MOST_COMPARED - 1))]
    else:
        drawn = [*ready[start:], *ready[:start]]
    return min(drawn, key=lambda one: one.connections())
