"""A retry budget: retries may add so much to the load and no more, however many requests fail (after Finagle's).

Each request deposits `ratio` of a retry, which is good for `ttl_s`; besides there are `min_per_s` in each second. Pure:
time comes in, in seconds.
"""

from typing import Final

SLOTS: Final = 10


class RetryBudget:
    """See the module. The window is kept in slots of a tenth of it."""

    __slots__ = ("_at", "_deposits", "_ratio", "_reserve", "_slot_s", "_withdrawals")

    def __init__(self, ratio: float, min_per_s: float, ttl_s: float, now: float) -> None:
        self._ratio = ratio
        self._reserve = min_per_s * ttl_s
        self._slot_s = ttl_s / SLOTS
        self._at = int(now / self._slot_s)
        self._deposits = [0] * SLOTS
        self._withdrawals = [0] * SLOTS

    def deposit(self, now: float) -> None:
        """A request was made."""
        slot = int(now / self._slot_s)
        if slot != self._at:
            self._advance(slot)
        self._deposits[slot % SLOTS] += 1

    def withdraw(self, now: float) -> bool:
        """Whether a retry may be made; if so it is counted."""
        slot = int(now / self._slot_s)
        if slot != self._at:
            self._advance(slot)
        if sum(self._withdrawals) + 1 > sum(self._deposits) * self._ratio + self._reserve:
            return False
        self._withdrawals[slot % SLOTS] += 1
        return True

    def _advance(self, slot: int) -> None:
        for passed in range(self._at + 1, min(slot, self._at + SLOTS) + 1):
            self._deposits[passed % SLOTS] = self._withdrawals[passed % SLOTS] = 0
        self._at = slot
