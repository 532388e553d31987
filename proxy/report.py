"""What the agent is told of the proxy's traffic: the counters of `proxy.stats`, summed to one row an edge.

Pure. An edge is seen at its far side: outbound rows are of connections to endpoints, inbound rows of those from
callers.
"""

from typing import Literal, NamedTuple

from meshd.api.control import LATENCY_BOUNDS_MS, Traffic
from proxy.stats import HttpTraffic, Labels, Stats, TcpTraffic, is_success


class _Edge(NamedTuple):
    labels: Labels
    protocol: Literal["http", "tcp"]


class _Row:
    """The sums of one edge."""

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.failures = 0
        self.buckets = [0] * (len(LATENCY_BOUNDS_MS) + 1)
        self.sum_ms = 0.0
        self.open = 0
        self.read_bytes = 0
        self.written_bytes = 0

    def add_http(self, traffic: HttpTraffic) -> None:
        self.requests += traffic.requests
        for (status, grpc_status), responses in traffic.responses.items():
            count = sum(responses.buckets)
            if is_success(status, grpc_status):
                self.successes += count
            else:
                self.failures += count
            self.sum_ms += responses.sum_ms
            self.buckets = [mine + its for mine, its in zip(self.buckets, responses.buckets, strict=True)]

    def add_tcp(self, traffic: TcpTraffic) -> None:
        self.open += traffic.open
        self.read_bytes += traffic.read_bytes
        self.written_bytes += traffic.written_bytes
        if traffic.relays:
            self.requests += traffic.opened + traffic.undecided
            well = traffic.closed.get("", 0)
            self.successes += well
            self.failures += sum(traffic.closed.values()) - well


def rows(stats: Stats) -> tuple[Traffic, ...]:
    """A row for each edge that has seen anything."""
    found: dict[_Edge, _Row] = {}
    for http in stats.http_series:
        if http.requests:
            found.setdefault(_edge(http.labels, "http"), _Row()).add_http(http)
    for tcp in stats.tcp_series:
        if (tcp.opened or tcp.undecided) and tcp.peer == ("dst" if tcp.labels.direction == "outbound" else "src"):
            found.setdefault(_edge(tcp.labels, "tcp" if tcp.relays else "http"), _Row()).add_tcp(tcp)
    return tuple(_traffic(edge, row) for edge, row in found.items())


def _edge(labels: Labels, protocol: Literal["http", "tcp"]) -> _Edge:
    return _Edge(labels._replace(target="", sni=None), protocol)


def _traffic(edge: _Edge, row: _Row) -> Traffic:
    labels = edge.labels
    return Traffic(
        direction=labels.direction,
        workload=labels.workload,
        peer=labels.peer,
        service=labels.service,
        protocol=edge.protocol,
        tls=labels.tls,
        requests=row.requests,
        successes=row.successes,
        failures=row.failures,
        latency_buckets=tuple(row.buckets),
        latency_sum_ms=row.sum_ms,
        open_connections=row.open,
        read_bytes=row.read_bytes,
        write_bytes=row.written_bytes,
    )
