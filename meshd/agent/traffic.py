"""What a proxy counted, kept so that it can be asked for a window of time.

A proxy reports totals since it started (`ReportStats`). From these an `Account` makes totals that never go back, even
when the proxy restarts (its report says so by its `proxy` id) or forgets a row, and keeps one snapshot a second for a
minute. Rates are the difference between two snapshots; nothing is averaged twice. A proxy with nothing new to say says
nothing, so a gap between two snapshots is a time without traffic. Pure: time is an argument.

The counterpart is `meshd.agent.golden`, which makes the golden metrics of what `over` gives.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import islice
from operator import add, sub
from typing import NamedTuple

from meshd.api.control import LATENCY_BOUNDS_MS, MAX_WORKERS, ReportStats, Traffic

WINDOW_S = 60.0
"""The longest window that can be asked for."""

SNAPSHOT_EVERY_S = 1.0
"""As often as a proxy reports while it has traffic."""

SILENT_S = 2 * SNAPSHOT_EVERY_S
"""A proxy that has not reported for so long has no traffic."""

MAX_ROWS = 512
"""Rows kept for a proxy. 60 snapshots of as many rows that all change are some 40 MB; rows at rest cost nothing."""

MAX_PROXIES = 4 * MAX_WORKERS
"""Processes of one instance's proxy that may take turns: the workers that serve, those that drain, those they follow.
Each keeps no more rows than there are in all."""

MAX_TEXT = 512
"""Characters in a peer or a service; a SPIFFE ID of ours has at most 400."""

BUCKETS = len(LATENCY_BOUNDS_MS) + 1


class Key(NamedTuple):
    """What tells one row from another."""

    direction: str
    workload: str
    peer: str
    service: str
    protocol: str
    tls: bool


class Counters(NamedTuple):
    """What only grows."""

    requests: int = 0
    successes: int = 0
    failures: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    buckets: tuple[int, ...] = (0,) * BUCKETS

    def plus(self, other: "Counters") -> "Counters":
        return self._each(add, other)

    def minus(self, other: "Counters") -> "Counters":
        return self._each(sub, other)

    def _each(self, operate: Callable[[int, int], int], other: "Counters") -> "Counters":
        return Counters(
            operate(self.requests, other.requests),
            operate(self.successes, other.successes),
            operate(self.failures, other.failures),
            operate(self.read_bytes, other.read_bytes),
            operate(self.write_bytes, other.write_bytes),
            tuple(map(operate, self.buckets, other.buckets)),
        )


NOTHING = Counters()

Snapshot = Mapping[Key, Counters]


class Span(NamedTuple):
    """A row over a window: what was counted in `seconds`, what was counted in all, and what is open now."""

    key: Key
    counted: Counters
    seconds: float
    total: Counters
    open_connections: int


class Account:
    """The traffic of one proxy, be it one process or several, of those that take its place after it, and of both while
    one drains."""

    def __init__(self, max_rows: int = MAX_ROWS, every_s: float = SNAPSHOT_EVERY_S) -> None:
        """It keeps so many rows, and snapshots that far apart."""
        self._max_rows, self._every_s = max_rows, every_s
        self._reported: dict[str, dict[Key, Counters]] = {}  # by proxy, as it last said
        self._totals: dict[Key, Counters] = {}
        self._open: dict[str, dict[Key, int]] = {}  # by proxy
        self._snapshots: deque[tuple[float, Snapshot]] = deque()

    def take(self, report: ReportStats, now: float) -> None:
        """Take in a report that arrived at `now`. ValueError when a row is not as it must be."""
        for row in report.rows:
            if len(row.latency_buckets) != BUCKETS:
                raise ValueError(f"a row has {BUCKETS} latency buckets")
            if len(row.peer) > MAX_TEXT or len(row.service) > MAX_TEXT:
                raise ValueError(f"a row's texts have at most {MAX_TEXT} characters")
        reported = self._reported[report.proxy] = self._reported.pop(report.proxy, {})
        while len(self._reported) > MAX_PROXIES:
            forgotten = next(iter(self._reported))
            del self._reported[forgotten]
            self._open.pop(forgotten, None)
        rows = {_key(row): row for row in report.rows}
        self._make_room(rows.keys())
        now_open = self._open[report.proxy] = {}
        for key, row in rows.items():
            if key in self._totals or len(self._totals) < self._max_rows:
                now_open[key] = row.open_connections
                self._count(reported, key, _counters(row))
        self._snap(now)

    @property
    def rows(self) -> int:
        """How many are kept."""
        return len(self._totals)

    def leave(self, proxy: str) -> None:
        """The proxy is gone, and what it had open is closed; what it counted stays."""
        self._open.pop(proxy, None)

    def _make_room(self, needed: Set[Key]) -> None:
        """Forget rows that are no longer reported, the longest known first, where new ones would not fit."""
        excess = len(self._totals.keys() | needed) - self._max_rows
        for key in [key for key in self._totals if key not in needed][: max(excess, 0)]:
            for rows in (self._totals, *self._reported.values()):
                rows.pop(key, None)

    def _count(self, reported: dict[Key, Counters], key: Key, counters: Counters) -> None:
        before = reported.get(key, NOTHING)
        if counters.requests < before.requests:  # the proxy forgot the row, and began it anew
            before = NOTHING
        reported[key] = counters
        if counters != before or key not in self._totals:  # else the object there serves on, and the snapshots share it
            self._totals[key] = self._totals.get(key, NOTHING).plus(counters.minus(before))

    def _snap(self, now: float) -> None:
        """Keep the totals as they are now: a snapshot a second, back to one from before the longest window."""
        snapshots = self._snapshots
        if len(snapshots) > 1 and snapshots[-1][0] - snapshots[-2][0] < self._every_s:
            snapshots.pop()
        snapshots.append((now, dict(self._totals)))
        while len(snapshots) > 2 and snapshots[1][0] <= now - WINDOW_S:
            snapshots.popleft()

    def over(self, window_s: float, now: float) -> Iterator[Span]:
        """Every row over the last window_s seconds, or as much of them as is known."""
        if not self._snapshots:
            return
        last_at, last = self._snapshots[-1]
        until = last_at if now - last_at < SILENT_S else now
        since = until - window_s
        first_at, first = self._snapshots[0]
        begun = max(first_at, since)
        for at, snapshot in islice(self._snapshots, 1, None):
            if at > since + self._every_s / 2:  # the nearest is taken, so that no window is longer as a rule
                # What this snapshot adds was counted in the second before it, however long the silence before that.
                begun = max(first_at, min(since, at - self._every_s))
                break
            first_at, first = at, snapshot
        for key, total in last.items():
            counted = total.minus(first.get(key, NOTHING))
            now_open = sum(rows.get(key, 0) for rows in self._open.values())
            yield Span(key, counted, until - begun, total, now_open)


def _key(row: Traffic) -> Key:
    return Key(row.direction, row.workload, row.peer, row.service, row.protocol, row.tls)


def _counters(row: Traffic) -> Counters:
    return Counters(row.requests, row.successes, row.failures, row.read_bytes, row.write_bytes, row.latency_buckets)
