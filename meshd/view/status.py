"""`meshd status`: what the agent answers to `GetStatus`, as text or as data.

The data (`-o json`, `-o yaml`) are the fields of `meshd.api.control.Status` under their own names, in snake_case as in
`meshd demo --json`; times are seconds since the epoch, latencies milliseconds. They are added to, never renamed.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from meshd.api.control import EdgeStatus, Golden, Health, Status, WorkloadStatus
from meshd.view.figures import NOTHING, byte_rate, latency, rps, span, success_rate
from meshd.view.tables import cell, table

GOLDEN = ("SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99")
MOST_STALE = 5
"""Services that the table names as stale."""

FLOW = ("TCP_CONN", "READ_BYTES/SEC", "WRITE_BYTES/SEC")


def as_data(status: Status) -> dict[str, Any]:
    """The status as JSON's and YAML's own types."""
    data: dict[str, Any] = msgspec.to_builtins(status)
    del data["type"]
    return data


def as_text(status: Status, now: float, *, wide: bool = False) -> str:
    """The host, its workloads and, when `wide`, its edges; `now` in seconds since the epoch."""
    parts = [_host(status, now), _workloads(status, now, wide)]
    if wide:
        parts.append(_edges(status.edges))
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def golden(seen: Golden) -> tuple[str, ...]:
    """The cells below GOLDEN."""
    return (
        success_rate(seen.success_rate),
        rps(seen.rps),
        latency(seen.p50_ms),
        latency(seen.p95_ms),
        latency(seen.p99_ms),
    )


def certificate(workload: WorkloadStatus, now: float) -> str:
    """How long the workload's certificate is still good for; with `!` when it could not be renewed."""
    if not workload.certificate_not_after:
        left = "none"
    elif workload.certificate_not_after <= now:
        left = "expired"
    else:
        left = span(workload.certificate_not_after - now)
    return f"{left}!" if workload.certificate_error else left


# --- the host -----------------------------------------------------------------------------------------------------


def _host(status: Status, now: float) -> list[str]:
    agent = f"{status.version}, {status.mode}, pid {status.pid}, up {span(now - status.started_at)}"
    facts = [("node", status.node), ("trust domain", status.trust_domain), ("agent", agent)]
    facts.append(("certificate authority", _health(status.ca, now)))
    facts += [("discovery", _health(health, now)) for health in status.discovery] or [("discovery", "none")]
    facts += [("stale", line) for line in _stale(status, now)]
    facts += [("configuration", finding) for finding in status.configuration]
    facts += [("certificate", _error(each)) for each in status.workloads if each.certificate_error]
    facts += [("not ready", _waiting(each)) for each in status.workloads if each.waiting_for]
    width = max(len(name) for name, _ in facts)
    return [f"{name.ljust(width)}  {value}" for name, value in facts]


def _health(health: Health, now: float) -> str:
    """`NAME: ok`, or since when it is not and why."""
    if health.healthy:
        return f"{health.name}: ok" + (f" ({health.message})" if health.message else "")
    since = f" for {span(now - health.since)}" if health.since else ""
    return f"{health.name}: NOT OK{since}: {health.message}"


def _stale(status: Status, now: float) -> Iterator[str]:
    """Services that are served as they were; the first few by name."""
    for each in status.stale[:MOST_STALE]:
        called = f"{each.name}.{each.namespace}:{each.port}" if each.standing == "known" else each.name
        yield f"{cell(called)} of {each.source} for {span(now - each.stale_since)}: {each.trouble}"
    count = max(sum(each.stale_services for each in status.sources), len(status.stale))
    if count > MOST_STALE:
        yield f"{count - MOST_STALE} more: `meshd services` has them all"


def _error(workload: WorkloadStatus) -> str:
    return f"{workload.namespace}/{workload.name}: not renewed: {workload.certificate_error}"


def _waiting(workload: WorkloadStatus) -> str:
    return f"{workload.namespace}/{workload.name} waits for {', '.join(workload.waiting_for)}"


# --- workloads and edges ------------------------------------------------------------------------------------------


def _workloads(status: Status, now: float, wide: bool) -> list[str]:
    workloads, mode = status.workloads, status.mode
    if not workloads and mode == "controller":
        return ["No sidecar is connected to this controller."]
    if not workloads:
        return ["No workload runs here: start one with `meshd run --name web --port 8080 -- CMD`."]
    heading: tuple[str, ...] = ("NAMESPACE", "NAME", "READY", "PORTS", "CERTIFICATE", *GOLDEN, "IDENTITY")
    if wide:
        heading += ("PID", "OUTBOUND", "INBOUND", "ADMIN", *FLOW)
    return table(heading, [_workload(each, now, wide) for each in workloads])


def _workload(workload: WorkloadStatus, now: float, wide: bool) -> tuple[str, ...]:
    cells: tuple[str, ...] = (
        workload.namespace,
        workload.name,
        "no" if workload.waiting_for else "yes",
        ",".join(str(port) for port in workload.ports) or NOTHING,
        certificate(workload, now),
        *golden(workload.golden),
        workload.identity,
    )
    if wide:
        listeners = (workload.outbound, workload.inbound, workload.admin)
        cells += (str(workload.pid), *(each or NOTHING for each in listeners), *_flow(workload.golden))
    return cells


def _edges(edges: tuple[EdgeStatus, ...]) -> list[str]:
    heading = ("SRC", "DST", "PROTOCOL", "SECURED", *GOLDEN, *FLOW, "CLIENT_ID", "SERVER_ID")
    return table(heading, [_edge(each) for each in edges]) if edges else []


def _edge(edge: EdgeStatus) -> tuple[str, ...]:
    return (
        edge.source,
        edge.service,
        edge.protocol,
        "mTLS" if edge.tls else "NO",
        *golden(edge.golden),
        *_flow(edge.golden),
        edge.source_identity or NOTHING,
        edge.server_identity or NOTHING,
    )


def _flow(seen: Golden) -> tuple[str, ...]:
    return (str(seen.open_connections), byte_rate(seen.read_bytes_per_s), byte_rate(seen.write_bytes_per_s))
