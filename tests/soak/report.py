"""What came of a soak, in words and as values, and what of it is not as it must be."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.soak.soak import Run, Survivor
from tests.soak.verdict import MAX_GROWTH_BYTES, Trouble, excuse, held_up

MAX_SHOWN = 40
HANG_UPS = ("quits", "calls")
"""Services some of whose callers hang up: what they asked and did not wait for has no answer in the metrics."""


@dataclass
class Report:
    """See the module."""

    run: Run
    excused: Counter[tuple[str, str, str]]
    violations: list[str]

    @classmethod
    def of(cls, run: Run) -> "Report":
        excused: Counter[tuple[str, str, str]] = Counter()
        violations = []
        for trouble in run.ledger.troubles:
            if why := excuse(trouble, run.damage) or held_up(trouble, run.held):
                excused[trouble.kind, trouble.reason, why] += 1
            else:
                violations.append(_described_trouble(trouble, run))
        for survivor in run.survivors:
            violations += _kept(survivor)
        return cls(run, excused, violations + run.complaints)

    def values(self) -> dict[str, Any]:
        """For machines."""
        run, ledger = self.run, self.run.ledger
        return {
            "duration_s": run.duration_s,
            "seed": run.seed,
            "done": dict(sorted(ledger.done.items())),
            "given_up": dict(ledger.given_up),
            "bytes_up": ledger.bytes_up,
            "bytes_down": ledger.bytes_down,
            "served_by": dict(ledger.served_by),
            "events": dict(sorted(run.events.items())),
            "failed": [
                {"kind": kind, "reason": reason, "why": why, "count": count}
                for (kind, reason, why), count in sorted(self.excused.items())
            ],
            "survivors": [
                {
                    "name": one.name,
                    "rss_first_bytes": one.samples[0][1],
                    "rss_last_bytes": one.samples[-1][1],
                    "rss_growth_bytes": None if (found := one.memory()) is None else found.growth_bytes,
                    "descriptors_before": one.descriptors_before,
                    "descriptors_idle": one.descriptors_idle,
                    "requests": one.requests,
                    "cpu_s": one.cpu_s,
                    "errors": one.errors,
                }
                for one in run.survivors
            ],
            "violations": self.violations,
        }

    def text(self) -> str:
        """For people."""
        run, ledger = self.run, self.run.ledger
        lines = [f"{run.duration_s:g} s, seed {run.seed}", "", "done"]
        lines += [f"  {count:8}  {kind}" for kind, count in sorted(ledger.done.items())]
        lines += [f"  {count:8}  given up by the caller: {kind}" for kind, count in sorted(ledger.given_up.items())]
        lines.append(
            f"  {ledger.bytes_up / 1e6:.0f} MB up, {ledger.bytes_down / 1e6:.0f} MB down, all as they were sent"
        )
        lines += ["", "events"] + [f"  {count:8}  {what}" for what, count in sorted(run.events.items())]
        lines += ["", "failed, as may be"]
        lines += [f"  {n:8}  {kind}: {reason}, {why}" for (kind, reason, why), n in sorted(self.excused.items())]
        for one in run.survivors:
            lines += ["", *_described(one)]
        lines += ["", f"{len(self.violations)} violations"]
        lines += [f"  {line}" for line in self.violations[:MAX_SHOWN]]
        return "\n".join(lines)


def _described_trouble(trouble: Trouble, run: Run) -> str:
    """With what was done last before it ended, which is where to look first."""
    last = max(
        (each for each in run.damage if each.cut_at <= trouble.ended), key=lambda each: each.cut_at, default=None
    )
    lasted_s = trouble.ended - trouble.began
    before = ""
    if last is not None:
        ago = f"{trouble.ended - last.cut_at:.2f} s after the {last.part} of {last.endpoint} was {last.how}"
        before = (
            f", {ago}, gone {trouble.ended - last.gone_at:.2f} s ago, back {trouble.ended - last.back_at:.2f} s ago"
        )
    return (
        f"{trouble.kind} of {trouble.sent_bytes} bytes should not have failed: {trouble.reason}"
        f" (after {lasted_s:.2f} s{before})"
    )


def _described(one: Survivor) -> list[str]:
    found = one.memory()
    first, last = one.samples[0][1] / 2**20, one.samples[-1][1] / 2**20
    grown = f", {found.growth_bytes / 2**20:+.2f} MB from the end of the warm-up" if found is not None else ""
    return [
        f"the proxy of {one.name}: {one.requests} requests, {one.cpu_s:.0f} s of CPU",
        f"  resident {first:.1f} MB at first, {last:.1f} MB at last{grown}",
        f"  {one.descriptors_before} descriptors before, {one.descriptors_idle} at last",
        *(f"  {count:8}  {error}" for error, count in sorted(one.errors.items())),
    ]


def _kept(one: Survivor) -> list[str]:
    """What a survivor keeps that it should not."""
    found = []
    if (grown := one.memory()) is not None and not grown.flat:
        found.append(f"{one.name} grew by {grown.growth_bytes} bytes: more than {MAX_GROWTH_BYTES}")
    if one.connections_after:
        found.append(f"{one.name} has {one.connections_after} connections open to callers who have gone")
    if one.descriptors_after > one.descriptors_before:
        spare = one.descriptors_after - one.descriptors_before
        found.append(f"{one.name} has {spare} descriptors more than before, beside its connections")
    for where, count in one.unanswered.items():
        if count and not (count > 0 and where in HANG_UPS):
            found.append(f"{one.name}: {count} requests to {where} have no answer in the metrics")
    return found
