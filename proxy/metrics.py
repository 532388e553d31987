"""`/metrics`: the counters of `proxy.stats` under Linkerd's names and labels, for Prometheus.

prometheus-client renders them; it reads them here, when it is asked, through a collector of our own.

What Linkerd has no word for: the label `workload` (one proxy may serve several processes), and `meshd_*`.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from meshd import __version__
from meshd.api.control import LATENCY_BOUNDS_MS
from proxy.edge import EdgeTls
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


class State(NamedTuple):
    """How the proxy is: its identities, what it waits for, whether the agent is connected; how many connections to its
    inbound listener were accepted and how many proved themselves a peer of the mesh; whether the CA answers the agent;
    the certificates that are shown outside the mesh.
    """

    identities: tuple[WorkloadIdentity, ...]
    waiting_for: tuple[str, ...]
    connected: bool
    accepted: int
    established: int
    ca_healthy: bool = True
    edges: tuple[EdgeTls, ...] = ()


class Metrics:
    """The page."""

    def __init__(self, stats: Stats, state: Callable[[], State]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Traffic(stats))
        self._registry.register(_Proxy(state))
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """The metrics now, in Prometheus' text format."""
        return generate_latest(self._registry)


def _values(labels: Labels, peer: str = "") -> list[str]:
    """The values of `_HTTP` for these labels. On the inbound side the peer is the caller, unless `peer` is `dst`: the
    application, which is reached over loopback. TLS that is not the mesh's is `opaque`, as Linkerd calls it."""
    outbound = labels.direction == "outbound"
    host, _, port = labels.target.rpartition(":")
    tls, reason = "true", ""
    if not labels.tls:
        tls = "no_identity" if labels.sni is None else "opaque"
    if tls == "no_identity":
        reason = "not_provided_by_service_discovery" if outbound and peer != "src" else "loopback"
    name, _, rest = labels.service.partition(":")[0].partition(".")
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


class _Traffic:
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        yield from self._http()
        yield from self._tcp()
        yield from self._errors()

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("request", "Requests.", labels=_HTTP)
        classified = CounterMetricFamily(
            "response", "Responses that have ended.", labels=(*_HTTP, "status_code", "classification", "grpc_status")
        )
        latency = HistogramMetricFamily(
            "response_latency_ms", "From a request's head to its answer's end, in ms.", labels=(*_HTTP, "status_code")
        )
        for traffic in self._stats.http_series:
            if not traffic.requests:
                continue
            values = _values(traffic.labels)
            requests.add_metric(values, traffic.requests)
            by_status: dict[int, list[Responses]] = {}
            for (status, grpc), responses in traffic.responses.items():
                by_status.setdefault(status, []).append(responses)
                outcome = "success" if is_success(status, grpc) else "failure"
                classified.add_metric([*values, str(status), outcome, grpc], sum(responses.buckets))
            for status, several in by_status.items():
                counts = [sum(column) for column in zip(*(one.buckets for one in several), strict=True)]
                latency.add_metric([*values, str(status)], _buckets(counts), sum(one.sum_ms for one in several))
        yield from (requests, classified, latency)

    def _tcp(self) -> Iterator[Metric]:
        labels = _TCP
        opened = CounterMetricFamily("tcp_open", "Connections opened.", labels=labels)
        now_open = GaugeMetricFamily("tcp_open_connections", "Connections open now.", labels=labels)
        closed = CounterMetricFamily("tcp_close", "Connections closed.", labels=(*labels, "errno"))
        read = CounterMetricFamily("tcp_read_bytes", "Bytes read from the peer.", labels=labels)
        written = CounterMetricFamily("tcp_write_bytes", "Bytes written to the peer.", labels=labels)
        for values, both in _merged(self._stats.tcp_series).items():
            opened.add_metric(values, sum(one.opened for one in both))
            now_open.add_metric(values, sum(one.open for one in both))
            read.add_metric(values, sum(one.read_bytes for one in both))
            written.add_metric(values, sum(one.written_bytes for one in both))
            for errno in {errno for one in both for errno in one.closed}:
                closed.add_metric([*values, errno], sum(one.closed.get(errno, 0) for one in both))
        yield from (opened, now_open, closed, read, written)

    def _errors(self) -> Iterator[Metric]:
        for direction in ("inbound", "outbound"):
            for kind in ("http", "tcp"):
                family = CounterMetricFamily(
                    f"{direction}_{kind}_errors", "What this proxy could not pass on.", labels=("error",)
                )
                for (its_direction, its_kind, error), count in self._stats.errors.items():
                    if (its_direction, its_kind) == (direction, kind):
                        family.add_metric([error], count)
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


class _Proxy:
    """The proxy itself: its certificates, its readiness, its build."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state
        self._started = time.time()

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        names = ("workload",)
        expires = GaugeMetricFamily(
            "control_identity_cert_expiration_timestamp_seconds", "When the certificate expires.", labels=names
        )
        refreshed = GaugeMetricFamily(
            "control_identity_cert_refresh_timestamp_seconds", "When it was last renewed.", labels=names
        )
        refreshes = CounterMetricFamily(
            "control_identity_cert_refreshes", "Renewals, and those that failed.", labels=(*names, "result")
        )
        for identity in state.identities:
            workload = str(identity.identity.workload)
            expires.add_metric([workload], identity.state().not_after)
            refreshed.add_metric([workload], identity.refreshed_at)
            for result, count in identity.refreshes.items():
                refreshes.add_metric([workload, result], count)
        yield from (expires, refreshed, refreshes)
        yield from _edges(state.edges)
        yield GaugeMetricFamily("meshd_proxy_ready", "Whether the proxy is ready.", value=float(not state.waiting_for))
        yield GaugeMetricFamily(
            "meshd_ca_healthy", "Whether the CA answered the agent, when it last said.", value=float(state.ca_healthy)
        )
        yield GaugeMetricFamily("meshd_control_connected", "Whether the agent answers.", value=float(state.connected))
        yield CounterMetricFamily(
            "meshd_inbound_accepted", "Connections to the inbound listener.", value=state.accepted
        )
        yield CounterMetricFamily(
            "meshd_inbound_established",
            "Those that completed mutual TLS as a peer of the mesh.",
            value=state.established,
        )
        build = GaugeMetricFamily("proxy_build_info", "The program.", labels=("version", "vendor"))
        build.add_metric([__version__, "meshd"], 1.0)
        yield build
        yield CounterMetricFamily("process_uptime_seconds", "Since the start.", value=time.time() - self._started)
        yield GaugeMetricFamily("process_clock_time_seconds", "The clock.", value=time.time())


def _edges(edges: tuple[EdgeTls, ...]) -> Iterator[Metric]:
    """The certificates that callers outside the mesh are shown."""
    expires = GaugeMetricFamily(
        "meshd_listener_cert_expiration_timestamp_seconds", "When a listener's certificate expires.", labels=("listen",)
    )
    refreshes = CounterMetricFamily(
        "meshd_listener_cert_refreshes", "How often its files were read, and were bad.", labels=("listen", "result")
    )
    for edge in edges:
        expires.add_metric([edge.listen], edge.not_after)
        for result, count in edge.refreshes.items():
            refreshes.add_metric([edge.listen, result], count)
    yield from (expires, refreshes)
