"""What the proxy counts, and how it is told: as Prometheus' page under Linkerd's names, and as rows to the agent."""

import ssl
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.control import LATENCY_BOUNDS_MS
from proxy.mesh.identity import renewal_at
from proxy.metrics import LINKERD_BOUNDS_MS, Metrics, State
from proxy.report import rows
from proxy.stats import MAX_SERIES, Labels, Stats, errno_name

API = "spiffe://mesh.example/ns/default/sa/api"
WEB = "spiffe://mesh.example/ns/default/sa/web"
OUT = Labels("outbound", "default/web", "api.default:80", "192.0.2.5:8080", API, True)
IN = Labels("inbound", "default/api", "8080", "127.0.0.1:8080", WEB, True)


def page(stats: Stats) -> list[str]:
    metrics = Metrics(stats, lambda: State((), (), True, 3, 2, ca_healthy=False))
    return metrics.page().decode().splitlines()


def test_a_page() -> None:
    stats = Stats()
    stats.http(IN).requests = 3
    for status, seconds in ((200, 0.0004), (200, 0.0045), (503, 60.0)):
        stats.http(IN).record(status, seconds)
    stats.http(OUT)  # nothing was ever sent there: nothing to tell
    tcp = stats.tcp(OUT, "dst")
    tcp.opened, tcp.read_bytes, tcp.written_bytes = 2, 10, 20
    tcp.close(ConnectionResetError(104, "reset"))
    stats.count_error("outbound", "http", "failfast")
    retries = stats.retries(Labels("outbound", "default/web", "api.default:80"))
    retries.requests, retries.successes, retries.limit_exceeded, retries.overflow = 4, 3, 2, 1
    found = page(stats)
    assert (
        'request_total{authority="",client_id="spiffe://mesh.example/ns/default/sa/web",direction="inbound",'
        'dst_namespace="",dst_service="",no_tls_reason="",server_id="",target_addr="127.0.0.1:8080",'
        'target_ip="127.0.0.1",target_port="8080",tls="true",workload="default/api"} 3.0'
    ) in found
    assert 'outbound_http_errors_total{error="failfast"} 1.0' in found
    service = 'authority="api.default:80",dst_namespace="default",dst_service="api",workload="default/web"'
    for what, count in (("requests", 4), ("successes", 3), ("limit_exceeded", 2), ("overflow", 1)):
        assert f"outbound_http_route_retry_{what}_total{{{service}}} {count}.0" in found
    for line in (
        "meshd_inbound_accepted_total 3.0",
        "meshd_inbound_established_total 2.0",
        "meshd_proxy_ready 1.0",
        "meshd_ca_healthy 0.0",
    ):
        assert line in found
    assert [line.rpartition(" ")[2] for line in found if line.startswith("response_total{")] == ["2.0", "1.0"]
    assert [line.rpartition(" ")[2] for line in found if line.startswith("request_total{")] == ["3.0"]
    opened = next(line for line in found if line.startswith("tcp_open_connections{"))
    assert opened.endswith(" 1.0")
    for label in ('peer="dst"', 'authority="api.default:80"', 'dst_service="api"', 'dst_namespace="default"'):
        assert label in opened
    assert any(line.startswith("tcp_close_total{") and 'errno="ECONNRESET"' in line for line in found)


@given(st.lists(st.floats(0.0, 100.0), max_size=30))
def test_linkerd_s_buckets_are_sums_of_ours(seconds: list[float]) -> None:
    assert set(LINKERD_BOUNDS_MS) <= set(LATENCY_BOUNDS_MS)
    stats = Stats()
    stats.http(IN).requests = len(seconds)
    for each in seconds:
        stats.http(IN).record(200, each)
    buckets = {}
    for line in page(stats):
        if line.startswith("response_latency_ms_bucket{"):
            upper = line.partition('le="')[2].partition('"')[0]
            buckets[float(upper)] = float(line.rpartition(" ")[2])
    if not seconds:
        assert buckets == {}
        return
    for bound in LINKERD_BOUNDS_MS:
        assert buckets[bound] == sum(each * 1000.0 <= bound for each in seconds)
    assert buckets[float("inf")] == len(seconds)


def test_rows_are_edges_seen_at_their_far_side() -> None:
    stats = Stats()
    for target in ("192.0.2.5:8080", "192.0.2.6:8080"):
        http = stats.http(OUT._replace(target=target))
        http.requests = 2
        http.record(200, 0.001)
        http.record(500, 0.002)
        stats.tcp(OUT._replace(target=target), "dst").opened = 1
    stats.tcp(OUT, "src").opened = 9  # the application's own connections are no edge
    relayed = stats.tcp(IN, "src", relays=True)
    relayed.opened, relayed.read_bytes = 3, 7
    relayed.close(None)
    relayed.close(ConnectionResetError(104, "reset"))
    by_protocol = {row.protocol: row for row in rows(stats)}
    assert set(by_protocol) == {"http", "tcp"}
    http_row, tcp_row = by_protocol["http"], by_protocol["tcp"]
    assert (http_row.requests, http_row.successes, http_row.failures, http_row.open_connections) == (4, 2, 2, 2)
    assert (http_row.peer, http_row.tls, http_row.service) == (API, True, "api.default:80")
    assert sum(http_row.latency_buckets) == 4
    assert http_row.latency_sum_ms == pytest.approx(6.0)
    assert (tcp_row.requests, tcp_row.successes, tcp_row.failures, tcp_row.open_connections) == (3, 1, 1, 1)
    assert (tcp_row.read_bytes, tcp_row.peer) == (7, WEB)


def test_series_are_bounded() -> None:
    stats = Stats()
    for number in range(MAX_SERIES + 50):
        stats.http(OUT._replace(service=str(number))).requests += 1
        stats.tcp(OUT._replace(service=str(number)), "dst").opened += 1
        stats.retries(OUT._replace(service=str(number))).requests += 1
    assert len(stats.retry_series) <= MAX_SERIES + 2
    assert len(stats.http_series) <= MAX_SERIES + 2
    assert len(stats.tcp_series) <= MAX_SERIES + 2
    assert sum(series.requests for series in stats.http_series) == MAX_SERIES + 50


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ConnectionResetError(104, "reset"), "ECONNRESET"),
        (ConnectionAbortedError("no number"), "ConnectionAbortedError"),
        (ssl.SSLError(1, "bad certificate"), "SSLError"),
        (OSError(99999, "of a later kernel"), "OSError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_is_never_counted_as_an_orderly_end(error: BaseException, name: str) -> None:
    assert errno_name(error) == name


@given(st.floats(0.0, 1.0, exclude_max=True), st.floats(60.0, 1e7))
def test_a_certificate_is_renewed_when_about_two_thirds_of_its_life_are_over(chance: float, life_s: float) -> None:
    now = time.time()
    assert 0.61 < (renewal_at(now, now + life_s, chance) - now) / life_s < 0.72
