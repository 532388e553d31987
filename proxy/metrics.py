"""`/metrics`: the counters of `proxy.stats` under Linkerd's names and labels, for Prometheus.

They are read when the page is asked for (`proxy.exposition` is its format); nothing is kept for it.

What Linkerd has no word for: the label `workload` (one proxy may serve several processes), and `meshd_*`.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from meshd import __version__
from meshd.api.control import LATENCY_BOUNDS_MS
from proxy.capture.diag import SocketDiag
from proxy.edge import EdgeTls
from proxy.exposition import Family, counter, gauge, page, process
from proxy.mesh.identity import WorkloadIdentity
from proxy.stats import Labels, Responses, Stats, TcpTraffic, is_success

LINKERD_BOUNDS_MS: Final = (
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10000, 20000, 30000,
    40000, 50000,
)  # fmt: skip

_ENDS: Final = tuple(bisect_left(LATENCY_BOUNDS_MS, bound) + 1 for bound in LINKERD_BOUNDS_MS)
"""For each of Linkerd's bounds, how many of our buckets lie below it."""

_HTTP: Final = (
    "direction", "workload", "authority", "target_addr", "target_ip", "target_port", "tls", "no_tls_reason",
    "client_id", "server_id", "dst_service", "dst_namespace",
)  # fmt: skip
_TCP: Final = (*_HTTP, "sni", "peer")
_SERVICE: Final = ("workload", "authority", "dst_service", "dst_namespace")
"""Where a request was to go, whichever endpoint it went to."""


class State(NamedTuple):
    """How the proxy is: its identities, what it waits for, whether the agent is connected; how many connections to its
    inbound listener were accepted and how many proved themselves a peer of the mesh; whether the CA answers the agent;
    the certificates that are shown outside the mesh; how it finds out who calls, where connections are captured.
    """

    identities: tuple[WorkloadIdentity, ...]
    waiting_for: tuple[str, ...]
    connected: bool
    accepted: int
    established: int
    ca_healthy: bool = True
    edges: tuple[EdgeTls, ...] = ()
    lookups: SocketDiag | None = None


class Metrics:
    """The page."""

    def __init__(self, stats: Stats, state: Callable[[], State]) -> None:
        self._stats = stats
        self._state = state
        self._started = time.time()

    def page(self) -> bytes:
        """The metrics now, in Prometheus' text format."""
        state = self._state()
        own = (*_proxy(state), *_edges(state.edges), *_lookups(state.lookups), *process(self._started))
        return page((*_traffic(self._stats), *own))


def _values(labels: Labels, peer: str = "") -> list[str]:
    """The values of `_HTTP` for these labels. On the inbound side the peer is the caller, unless `peer` is `dst`: the
    application, which is reached over loopback. TLS that is not the mesh's is `opaque`, as Linkerd calls it."""
    outbound = labels.direction == "outbound"
    host, _, port = labels.target.rpartition(":")
    tls, reason = "true", ""
    if not labels.tls:
        tls = "no_identity" if labels.sni is None else "opaque"
    if tls == "no_identity":
        if outbound:
            reason = "loopback" if peer == "src" else "not_provided_by_service_discovery"
        else:
            reason = "loopback" if peer == "dst" else "no_tls_from_remote"
    name, rest = _dst(labels)
    return [
        labels.direction,
        labels.workload,
        labels.service if outbound else "",
        labels.target,
        host,
        port,
        tls,
        reason,
        "" if outbound else labels.peer,
        labels.peer if outbound else "",
        name if outbound else "",
        rest if outbound else "",
    ]


def _dst(labels: Labels) -> tuple[str, str]:
    """`dst_service` and `dst_namespace`."""
    name, _, namespace = labels.service.partition(":")[0].partition(".")
    return name, namespace


def _traffic(stats: Stats) -> Iterator[Family]:
    yield from _http(stats)
    yield from _retries(stats)
    yield from _tcp(stats)
    yield from _errors(stats)


def _http(stats: Stats) -> Iterator[Family]:
    requests = Family("counter", "request_total", "Requests.", _HTTP)
    classified = Family(
        "counter", "response_total", "Responses that have ended.",
        (*_HTTP, "status_code", "classification", "grpc_status"),
    )  # fmt: skip
    latency = Family(
        "histogram", "response_latency_ms", "From a request's head to its answer's end, in ms.", (*_HTTP, "status_code")
    )
    for traffic in stats.http_series:
        if not traffic.requests:
            continue
        values = _values(traffic.labels)
        requests.add(values, traffic.requests)
        by_status: dict[int, list[Responses]] = {}
        for (status, grpc), responses in traffic.responses.items():
            by_status.setdefault(status, []).append(responses)
            outcome = "success" if is_success(status, grpc) else "failure"
            classified.add([*values, str(status), outcome, grpc], sum(responses.buckets))
        for status, several in by_status.items():
            counts = [sum(column) for column in zip(*(one.buckets for one in several), strict=True)]
            total_ms = sum(one.sum_ms for one in several)
            latency.add_histogram([*values, str(status)], _buckets(counts), total_ms)
    yield from (requests, classified, latency)


def _retries(stats: Stats) -> Iterator[Family]:
    """What policy had asked again; gRPC is not told apart here, though Linkerd has names of its own for it."""
    name = "outbound_http_route_retry"
    requests = Family("counter", f"{name}_requests_total", "Requests asked again for what was answered.", _SERVICE)
    successes = Family("counter", f"{name}_successes_total", "Those of them that were answered well.", _SERVICE)
    limited = Family(
        "counter", f"{name}_limit_exceeded_total", "Not asked again: as often as policy allows already.", _SERVICE
    )
    overflow = Family("counter", f"{name}_overflow_total", "Not asked again: the retry budget was used up.", _SERVICE)
    for traffic in stats.retry_series:
        labels = traffic.labels
        values = (labels.workload, labels.service, *_dst(labels))
        requests.add(values, traffic.requests)
        successes.add(values, traffic.successes)
        limited.add(values, traffic.limit_exceeded)
        overflow.add(values, traffic.overflow)
    yield from (requests, successes, limited, overflow)


def _tcp(stats: Stats) -> Iterator[Family]:
    opened = Family("counter", "tcp_open_total", "Connections opened.", _TCP)
    now_open = Family("gauge", "tcp_open_connections", "Connections open now.", _TCP)
    closed = Family("counter", "tcp_close_total", "Connections closed.", (*_TCP, "errno"))
    read = Family("counter", "tcp_read_bytes_total", "Bytes read from the peer.", _TCP)
    written = Family("counter", "tcp_write_bytes_total", "Bytes written to the peer.", _TCP)
    for values, both in _merged(stats.tcp_series).items():
        opened.add(values, sum(one.opened for one in both))
        now_open.add(values, sum(one.open for one in both))
        read.add(values, sum(one.read_bytes for one in both))
        written.add(values, sum(one.written_bytes for one in both))
        for errno in {errno for one in both for errno in one.closed}:
            closed.add([*values, errno], sum(one.closed.get(errno, 0) for one in both))
    yield from (opened, now_open, closed, read, written)


def _errors(stats: Stats) -> Iterator[Family]:
    for direction in ("inbound", "outbound"):
        for kind in ("http", "tcp"):
            name = f"{direction}_{kind}_errors_total"
            family = Family("counter", name, "What this proxy could not pass on.", ("error",))
            for (its_direction, its_kind, error), count in stats.errors.items():
                if (its_direction, its_kind) == (direction, kind):
                    family.add([error], count)
            yield family


def _merged(series: Iterable[TcpTraffic]) -> dict[tuple[str, ...], list[TcpTraffic]]:
    """Series by their labels: one set of labels may carry requests and opaque bytes."""
    found: dict[tuple[str, ...], list[TcpTraffic]] = {}
    for traffic in series:
        if traffic.opened or traffic.undecided:
            values = (*_values(traffic.labels, traffic.peer), traffic.labels.sni or "", traffic.peer)
            found.setdefault(values, []).append(traffic)
    return found


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    """Our buckets as Linkerd's, cumulative."""
    cumulative = [0]
    for count in counts:
        cumulative.append(cumulative[-1] + count)
    buckets = [(str(bound), float(cumulative[end])) for bound, end in zip(LINKERD_BOUNDS_MS, _ENDS, strict=True)]
    return [*buckets, ("+Inf", float(cumulative[-1]))]


def _proxy(state: State) -> Iterator[Family]:
    """The proxy itself: its certificates, its readiness, its build."""
    names = ("workload",)
    expires = Family(
        "gauge", "control_identity_cert_expiration_timestamp_seconds", "When the certificate expires.", names
    )
    refreshed = Family("gauge", "control_identity_cert_refresh_timestamp_seconds", "When it was last renewed.", names)
    refreshes = Family(
        "counter", "control_identity_cert_refreshes_total", "Renewals, and those that failed.", (*names, "result")
    )
    for identity in state.identities:
        workload = str(identity.identity.workload)
        expires.add([workload], identity.state().not_after)
        refreshed.add([workload], identity.refreshed_at)
        for result, count in identity.refreshes.items():
            refreshes.add([workload, result], count)
    yield from (expires, refreshed, refreshes)
    yield gauge("meshd_proxy_ready", "Whether the proxy is ready.", not state.waiting_for)
    yield gauge("meshd_ca_healthy", "Whether the CA answered the agent, when it last said.", state.ca_healthy)
    yield gauge("meshd_control_connected", "Whether the agent answers.", state.connected)
    yield counter("meshd_inbound_accepted_total", "Connections to the inbound listener.", state.accepted)
    yield counter(
        "meshd_inbound_established_total", "Those that completed mutual TLS as a peer of the mesh.", state.established
    )
    build = Family("gauge", "proxy_build_info", "The program.", ("version", "vendor"))
    build.add((__version__, "meshd"), 1.0)
    yield build


def _lookups(lookups: SocketDiag | None) -> Iterator[Family]:
    """Who calls on captured connections, as the kernel says."""
    if lookups is None:
        return
    family = Family(
        "counter",
        "meshd_caller_lookups_total",
        "Questions whose the other end of a captured connection is.",
        ("result",),
    )
    for result in ("found", "unknown", "failed"):
        family.add([result], getattr(lookups, result))
    yield family
    yield counter("meshd_caller_lookup_seconds_total", "Time that the answers to them took.", lookups.spent_s)


def _edges(edges: tuple[EdgeTls, ...]) -> Iterator[Family]:
    """The certificates that callers outside the mesh are shown."""
    expires = Family(
        "gauge", "meshd_listener_cert_expiration_timestamp_seconds", "When a listener's certificate expires.",
        ("listen",),
    )  # fmt: skip
    refreshes = Family(
        "counter", "meshd_listener_cert_refreshes_total", "How often its files were read, and were bad.",
        ("listen", "result"),
    )  # fmt: skip
    for edge in edges:
        expires.add([edge.listen], edge.not_after)
        for result, count in edge.refreshes.items():
            refreshes.add([edge.listen, result], count)
    yield from (expires, refreshes)
