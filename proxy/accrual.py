"""Failures of one endpoint, and what follows from them: out, probed, and in again.

    in ── failures ──► out ── the penalty is over ──► probing ── a success ──► in
                        ▲                                │
                        └──── a failure: twice as long ──┘

While probing, one request at a time is let through. What brings an endpoint out is a connection that cannot be made, or
answers that are failures; a connection that can be made brings it in again in the first case alone. Pure: time and
chance come in.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

SLOTS: Final = 10


class State(Enum):
    """See the module."""

    IN = "in"
    OUT = "out"
    PROBING = "probing"


class Reason(Enum):
    """Why an endpoint is out."""

    CONNECTION = "connection"
    ANSWERS = "answers"


class Window:
    """Answers of the last `window_s`, in slots of a tenth of it."""

    __slots__ = ("_at", "_failed", "_slot_s", "_well")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._at = 0
        self._well = [0] * SLOTS
        self._failed = [0] * SLOTS

    def count(self, well: bool, now: float) -> None:
        """Take an answer in."""
        slot = int(now / self._slot_s)
        if slot != self._at:
            for passed in range(max(self._at + 1, slot - SLOTS + 1), slot + 1):
                self._well[passed % SLOTS] = self._failed[passed % SLOTS] = 0
            self._at = slot
        (self._well if well else self._failed)[slot % SLOTS] += 1

    def success_rate(self) -> tuple[float, int]:
        """(the share of successes, of how many answers); 1 where there were none."""
        well = sum(self._well)
        answers = well + sum(self._failed)
        return (well / answers if answers else 1.0), answers


class Accrual:
    """See the module. `failures`: answers in a row; `probing_now`: the one request of a probe is under way."""

    __slots__ = ("_penalty_s", "failures", "out_until", "probing_now", "reason", "state", "window")

    def __init__(self) -> None:
        self.state = State.IN
        self.reason: Reason | None = None
        self.failures = 0
        self.out_until = 0.0
        self.probing_now = False
        self.window: Window | None = None
        self._penalty_s = 0.0

    def take_out(
        self, reason: Reason, now: float, least_s: float, most_s: float, jitter: float, random: Callable[[], float]
    ) -> float:
        """Out it goes, twice as long as the last time; how long, in s. `jitter` is a share of that, either way."""
        self.state = State.OUT
        self.reason = reason
        self.probing_now = False
        self._penalty_s = min(max(self._penalty_s * 2, least_s), most_s)
        pause = self._penalty_s * (1.0 + jitter * (2.0 * random() - 1.0))
        self.out_until = now + pause
        return pause

    def probe(self, now: float) -> None:
        """The penalty may be over: then requests are let through, one at a time."""
        if self.state is State.OUT and now >= self.out_until:
            self.state = State.PROBING
            self.probing_now = False

    def bring_in(self) -> None:
        """It is well again."""
        self.state = State.IN
        self.reason = None
        self.failures = 0
        self.probing_now = False
        self.window = None
        self._penalty_s = 0.0

    @property
    def askable(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.state is State.IN or (self.state is State.PROBING and not self.probing_now)
