"""How often the CA is asked by one: a node, a join token, an address. Above it, 429 and when to come again.

    node      what it has signed, by its certificate     a host whose workloads all start at once is within the burst
    token     joining with it                            many hosts that boot together are, too
    address   the shared token, which has no other name
    failures  of an address that proves nothing: guessing is slow, and does not fill the audit log

Each is a token bucket: `burst` at once, and so many per second. The tables are bounded; the one that was idle longest
is forgotten first, which is as if it had been idle for long enough.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from meshd.ca.requester import Requester
from meshd.ca.settings import LimitSettings
from meshd.ca.source import Refusal

MAX_KEYS: Final = 10_000


class TooOften(Refusal):
    """Not now: again in `after_s` seconds, a whole number."""

    def __init__(self, who: str, wait_s: float) -> None:
        self.after_s = max(1, math.ceil(wait_s))
        super().__init__(f"too many requests of {who}: again in {self.after_s} s")


class Rate:
    """Buckets of one kind, by key; `clock` is monotonic."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._per_second, self._burst, self._clock, self._max = per_second, burst, clock, max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Key → what was left in its bucket, and when; the one used last is the last."""

    def wait_s(self, key: str) -> float:
        """How long until there is room for one; 0 when there is."""
        return max(0.0, (1.0 - self._left(key)) / self._per_second)

    def take(self, key: str) -> None:
        """Count one, whether there is room or not; below empty it does not go."""
        self._buckets[key] = (max(0.0, self._left(key) - 1.0), self._clock())
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)

    def _left(self, key: str) -> float:
        if key not in self._buckets:
            return float(self._burst)
        left, at = self._buckets[key]
        return min(left + (self._clock() - at) * self._per_second, float(self._burst))


class Rates:
    """All limits of one CA daemon."""

    def __init__(self, limits: LimitSettings, clock: Callable[[], float]) -> None:
        self._nodes = Rate(limits.node_per_second, limits.node_burst, clock)
        self._tokens = Rate(limits.token_per_second, limits.token_burst, clock)
        self._addresses = Rate(limits.address_per_second, limits.address_burst, clock)
        self._failures = Rate(limits.failure_per_second, limits.failure_burst, clock)

    def hear(self, address: str) -> None:
        """Before anything is looked at that an address without a node's certificate says. TooOften when it failed too
        often."""
        if wait_s := self._failures.wait_s(address):
            raise TooOften(address, wait_s)

    def failed(self, address: str) -> None:
        """The address proved nothing."""
        self._failures.take(address)

    def admit(self, requester: Requester, what: str) -> None:
        """Count a request of one who is known, for `what`; TooOften when there is no room for it. What is asked for by
        one path does not use up what there is for another: a program that wants tokens without end is not to keep its
        host from renewing certificates."""
        rate, who = self._of(requester)
        key = f"{what} {who}"
        if wait_s := rate.wait_s(key):
            raise TooOften(str(requester), wait_s)
        rate.take(key)

    def _of(self, requester: Requester) -> tuple[Rate, str]:
        if requester.node:
            return self._nodes, requester.node
        if requester.token is not None:
            return self._tokens, requester.token.id
        return self._addresses, requester.address
