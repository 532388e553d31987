"""The sidecars that are connected, and what they counted, within bounds whatever they say.

Traffic is kept by workload and not by pod: a workload of a thousand pods takes as much as one of one.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from meshd.agent.golden import golden
from meshd.agent.status import edges
from meshd.agent.traffic import Account, Span
from meshd.api.control import EdgeStatus, ReportState, ReportStats, WorkloadStatus
from meshd.api.names import Identity, WorkloadName

MAX_ROWS_EACH: Final = 128
"""Rows of traffic that are kept for a workload."""

MAX_ROWS: Final = 4096
"""And of all: some 10 kB each, with their snapshots."""

SNAPSHOT_EVERY_S: Final = 5.0

MAX_SHOWN: Final = 1000
"""Workloads of a status."""

MAX_WAITED_FOR: Final = 3
MAX_SHOWN_TEXT: Final = 300


@dataclass(slots=True, eq=False)
class Sidecar:
    """One connection of a sidecar that is attached."""

    pod: str
    workload: WorkloadName
    report: ReportState | None = None
    counted: str = ""


@dataclass(slots=True)
class _Workload:
    sidecars: set[Sidecar] = field(default_factory=set)
    account: Account | None = None


class Sidecars:
    """All that are attached here."""

    def __init__(self, trust_domain: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._trust_domain, self._monotonic = trust_domain, monotonic
        self._workloads: dict[WorkloadName, _Workload] = {}
        self._rows = 0
        self.count = 0
        """How many are attached."""
        self.left_out = 0
        """Reports of traffic that there was no room for."""

    @property
    def workloads(self) -> int:
        """How many workloads they are of."""
        return len(self._workloads)

    def attach(self, sidecar: Sidecar) -> None:
        self._workloads.setdefault(sidecar.workload, _Workload()).sidecars.add(sidecar)
        self.count += 1

    def leave(self, sidecar: Sidecar) -> None:
        found = self._workloads[sidecar.workload]
        found.sidecars.discard(sidecar)
        self.count -= 1
        if found.account is not None and sidecar.counted:
            found.account.leave(sidecar.counted)
        if not found.sidecars:
            del self._workloads[sidecar.workload]
            self._rows -= 0 if found.account is None else found.account.rows

    def take(self, sidecar: Sidecar, report: ReportStats) -> None:
        """What a sidecar counted; of other workloads nothing is believed, and nothing that would move the cursor of who
        reads it. ValueError for a report that is none."""
        own = str(sidecar.workload)
        rows = tuple(row for row in report.rows if row.workload == own and (row.service + row.peer).isprintable())
        found = self._workloads[sidecar.workload]
        if found.account is None:
            if self._rows >= MAX_ROWS:
                self.left_out += 1
                return
            found.account = Account(MAX_ROWS_EACH, SNAPSHOT_EVERY_S)
        before = found.account.rows
        found.account.take(ReportStats(report.proxy, rows), self._monotonic())
        self._rows += found.account.rows - before
        sidecar.counted = report.proxy

    # --- for people -----------------------------------------------------------------------------------------------

    def statuses(self, window_s: float) -> tuple[tuple[WorkloadStatus, ...], tuple[EdgeStatus, ...]]:
        """Of each workload, and of what its sidecars call, over a window of so many seconds."""
        now = self._monotonic()
        shown = sorted(self._workloads.items())[:MAX_SHOWN]
        spans = {
            name: () if found.account is None else tuple(found.account.over(window_s, now)) for name, found in shown
        }
        workloads = tuple(self._status(name, found, spans[name]) for name, found in shown)
        return workloads, tuple(edges(self._trust_domain, spans.values()))

    def _status(self, name: WorkloadName, found: _Workload, spans: tuple[Span, ...]) -> WorkloadStatus:
        states = [
            state
            for each in found.sidecars
            if each.report is not None
            for state in each.report.certificates
            if state.workload == str(name)
        ]
        return WorkloadStatus(
            namespace=name.namespace,
            name=name.name,
            identity=str(Identity.of(self._trust_domain, name)),
            ports=(),
            pid=0,
            outbound="",
            inbound="",
            admin="",
            waiting_for=tuple(self._waiting(found)),
            certificate_not_after=min((state.not_after for state in states), default=0.0),
            certificate_error=_printable(next((state.error for state in states if state.error), "")),
            golden=golden(span for span in spans if span.key.direction == "inbound"),
        )

    def _waiting(self, found: _Workload) -> Iterator[str]:
        """What keeps which of its pods from being ready; of the first few."""
        waiting = sorted(
            (each.pod, ", ".join(each.report.waiting_for[:MAX_WAITED_FOR]) if each.report else "first report")
            for each in found.sidecars
            if each.report is None or each.report.waiting_for
        )
        for pod, what in waiting[:MAX_WAITED_FOR]:
            yield f"{pod.partition('/')[2]}: {_printable(what)}"
        if len(waiting) > MAX_WAITED_FOR:
            yield f"{len(waiting) - MAX_WAITED_FOR} more pods"

    def oldest_certificate(self) -> float:
        """Since when the oldest certificate has been good that any of them presents; inf where there is none."""
        return min(
            (
                state.not_before
                for found in self._workloads.values()
                for each in found.sidecars
                if each.report is not None
                for state in each.report.certificates
                if state.not_after
            ),
            default=math.inf,
        )


def _printable(text: str) -> str:
    """What a sidecar says, for a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text[:MAX_SHOWN_TEXT])
