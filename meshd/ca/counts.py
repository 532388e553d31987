"""What the CA's API counts, for its metrics (`meshd.admin.ca`): plain numbers, written by the loop alone."""

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""A signature and its fsync take milliseconds, a review of a pod's token the cluster's time."""

ACTIONS: Final = {
    "/v1/sign": "sign",
    "/v1/jwt": "jwt",
    "/v1/join": "join",
    "/v1/bundle": "bundle",
    "/v1/health": "health",
}

REASONS: Final = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    413: "too_large",
    429: "rate_limited",
    500: "failed",
    503: "unavailable",
}
"""By the status of the answer; any other is `other`."""


class Durations:
    """A histogram: how many took up to each bound, and more than the last; `total_s` is their sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, duration_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s


class Counts:
    """Since the start. `issued` are certificates by what was done, `tokens` are JWT-SVIDs; `refused` by what was asked
    for and why not, `took` by what was asked for. Whatever peers ask for, there are as many keys as there are words for
    it here."""

    def __init__(self) -> None:
        self.issued: Counter[str] = Counter({"sign": 0, "join": 0, "renew": 0})
        self.tokens = 0
        self.refused: Counter[tuple[str, str]] = Counter(
            {(action, reason): 0 for action in ("sign", "jwt", "join") for reason in REASONS.values()}
        )
        self.took: defaultdict[str, Durations] = defaultdict(Durations)

    def answered(self, path: str, status: int, duration_s: float, *, waits: bool = False) -> None:
        """A request has its answer; `waits`: it waited for news, so that its time says nothing."""
        action = ACTIONS.get(path, "other")
        if not waits:
            self.took[action].add(duration_s)
        if status != 200:
            self.refused[action, REASONS.get(status, "other")] += 1
