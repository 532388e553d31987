"""What a run of the demo came to: the caller's own account of it, the mesh's, and the verdict."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from meshd.api.control import EdgeStatus, Golden, Status, WorkloadStatus

LOAD = "load"
"""The workload that makes the traffic; it serves nobody, so it is no row among those that do."""


class Report(msgspec.Struct, frozen=True):
    """The caller's account, request by request; latencies are of those that succeeded."""

    requests: int
    failures: int
    reasons: dict[str, int]
    taken_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @property
    def success_rate(self) -> float | None:
        return (self.requests - self.failures) / self.requests if self.requests else None


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The smallest value that at least the share q does not exceed; None of none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def serving(status: Status) -> list[WorkloadStatus]:
    return [each for each in status.workloads if each.name != LOAD]


def mtls_rate(status: Status) -> float | None:
    """The share of mutual TLS in all that the workloads were asked, over HTTP and TCP."""
    goldens = [each.golden for each in serving(status)]
    requests = sum(each.requests for each in goldens)
    return sum(each.mtls_requests for each in goldens) / requests if requests else None


def is_well(report: Report, status: Status) -> bool:
    """Whether there was traffic, all of it succeeded, and all of it was mutual TLS, by both accounts."""
    goldens = [each.golden for each in serving(status)] + [each.golden for each in status.edges]
    return (
        report.requests > 0
        and report.failures == 0
        and mtls_rate(status) == 1.0
        and all(each.tls for each in status.edges)
        and all(each.success_rate in (None, 1.0) for each in goldens)
    )


def document(report: Report, status: Status) -> dict[str, Any]:
    """What `meshd demo --json` prints."""
    return {
        "requests": report.requests,
        "success_rate": report.success_rate,
        "mtls_rate": mtls_rate(status),
        "p50_ms": report.p50_ms,
        "p95_ms": report.p95_ms,
        "p99_ms": report.p99_ms,
        "duration_s": report.taken_s,
        "failures": report.reasons,
        "workloads": [_workload(each) for each in serving(status)],
        "edges": [_edge(each) for each in status.edges],
    }


def _workload(workload: WorkloadStatus) -> dict[str, Any]:
    return {"name": workload.name, "namespace": workload.namespace, "identity": workload.identity} | _golden(
        workload.golden
    )


def _edge(edge: EdgeStatus) -> dict[str, Any]:
    fields = ("source", "source_identity", "service", "server_identity", "protocol", "tls")
    return {field: getattr(edge, field) for field in fields} | _golden(edge.golden)


def _golden(golden: Golden) -> dict[str, Any]:
    fields = ("requests", "success_rate", "rps", "p50_ms", "p95_ms", "p99_ms")
    share = golden.mtls_requests / golden.requests if golden.requests else None
    return {field: getattr(golden, field) for field in fields} | {"mtls_rate": share}
