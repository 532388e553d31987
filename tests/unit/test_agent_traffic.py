"""Counters into rates: windows, restarts of proxies, rows that come and go, bounds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meshd.agent.golden import golden
from meshd.agent.traffic import BUCKETS, MAX_ROWS, Account, Span
from meshd.api.control import Golden, ReportStats, Traffic


def traffic(
    requests: int, *, failures: int = 0, service: str = "8080", bucket: int = 0, open_connections: int = 0
) -> Traffic:
    """`requests` answered over mutual TLS, each with 100 bytes in and 10 out, all their latencies in one bucket."""
    return Traffic(
        direction="inbound",
        workload="default/web",
        peer="spiffe://mesh.local/ns/default/sa/api",
        service=service,
        protocol="http",
        tls=True,
        requests=requests,
        successes=requests - failures,
        failures=failures,
        latency_buckets=tuple(requests if place == bucket else 0 for place in range(BUCKETS)),
        latency_sum_ms=0.0,
        open_connections=open_connections,
        read_bytes=100 * requests,
        write_bytes=10 * requests,
    )


class Conversation:
    """Reports of a proxy to an account, at times of the test's choosing."""

    def __init__(self) -> None:
        self.account = Account()

    def reports(self, at: float, *rows: Traffic, proxy: str = "a") -> None:
        self.account.take(ReportStats(proxy, rows), at)

    def over(self, window_s: float, now: float) -> Golden:
        return golden(self.spans(window_s, now))

    def spans(self, window_s: float, now: float) -> list[Span]:
        return list(self.account.over(window_s, now))


@pytest.fixture
def proxy() -> Conversation:
    return Conversation()


def test_nothing_was_reported(proxy: Conversation) -> None:
    assert proxy.over(60, 0) == Golden()


def test_the_first_report_counts_in_all_but_is_no_rate(proxy: Conversation) -> None:
    proxy.reports(0, traffic(100))
    assert proxy.over(60, 0.5) == Golden(requests=100, successes=100, mtls_requests=100)


def test_rates_are_differences(proxy: Conversation) -> None:
    proxy.reports(0)
    for second in range(1, 11):
        proxy.reports(second, traffic(20 * second, failures=5 * second, open_connections=3))
    found = proxy.over(60, 10)
    assert (found.rps, found.success_rate) == (20, 0.75)
    assert (found.read_bytes_per_s, found.write_bytes_per_s) == (2000, 200)
    assert (found.requests, found.successes, found.mtls_requests, found.open_connections) == (200, 150, 200, 3)
    assert found.p50_ms == pytest.approx(0.05)


def test_workers_of_one_proxy_are_one(proxy: Conversation) -> None:
    for worker in "ab":
        proxy.reports(0, proxy=worker)
    for second in range(1, 11):
        proxy.reports(second, traffic(20 * second, open_connections=3), proxy="a")
        proxy.reports(second + 0.3, traffic(10 * second, open_connections=1), proxy="b")
    found = proxy.over(60, 10.3)
    assert (found.requests, found.open_connections) == (300, 4)
    assert found.rps == pytest.approx(30, rel=0.05)


def test_a_worker_that_died_leaves_what_it_counted_and_nothing_open(proxy: Conversation) -> None:
    proxy.reports(0, traffic(100, open_connections=3), proxy="a")
    proxy.reports(0, traffic(10, open_connections=1), proxy="b")
    proxy.account.leave("a")
    proxy.reports(1, traffic(5, open_connections=2), proxy="c")
    found = proxy.over(60, 1)
    assert (found.requests, found.open_connections) == (115, 3)
    proxy.reports(2, traffic(101, open_connections=4), proxy="a")
    found = proxy.over(60, 2)
    assert (found.requests, found.open_connections) == (116, 7), "one that was only away is not counted twice"


def test_a_request_under_way_is_not_answered(proxy: Conversation) -> None:
    proxy.reports(0)
    proxy.reports(1, replace(traffic(10), successes=6))
    assert proxy.over(60, 1).rps == 6
    assert proxy.over(60, 1).success_rate == 1.0


def test_the_window_leaves_out_what_was_before(proxy: Conversation) -> None:
    proxy.reports(0)
    for second in range(1, 31):
        proxy.reports(
            second, traffic(1000 if second <= 20 else 1000 + 10 * (second - 20), bucket=1 if second > 20 else 0)
        )
    assert proxy.over(5, 30).rps == 10
    assert proxy.over(10, 30).rps == 10
    assert proxy.over(60, 30).rps == pytest.approx(1100 / 30)


def test_a_minute_is_kept_however_often_a_proxy_reports(proxy: Conversation) -> None:
    for tenth in range(3000):
        proxy.reports(tenth / 10, traffic(tenth))
    (span,) = proxy.spans(60, 299.9)
    assert span.seconds == pytest.approx(60, abs=2)
    assert span.counted.requests == pytest.approx(600, abs=20)
    (span,) = proxy.spans(2, 299.9)
    assert span.seconds == pytest.approx(2, abs=1.1)


def test_a_proxy_that_fell_silent_has_no_rate(proxy: Conversation) -> None:
    proxy.reports(0)
    proxy.reports(1, traffic(100))
    found = proxy.over(10, 100)
    assert (found.rps, found.success_rate, found.requests) == (0, None, 100)


def test_a_burst_after_a_silence_is_a_rate_over_the_window(proxy: Conversation) -> None:
    proxy.reports(0)
    proxy.reports(3600, traffic(60))
    assert proxy.over(60, 3600).rps == 1


def test_a_rate_falls_while_a_proxy_is_silent(proxy: Conversation) -> None:
    proxy.reports(0)
    proxy.reports(10, traffic(60))
    assert [proxy.over(60, now).rps for now in (10, 20, 60)] == [6, 3, 1]


def test_a_restart_of_the_proxy_loses_and_invents_nothing(proxy: Conversation) -> None:
    proxy.reports(0)
    proxy.reports(1, traffic(100), traffic(5, service="9090"))
    proxy.reports(2, traffic(7), proxy="b")
    proxy.reports(3, traffic(10), traffic(1, service="9090"), proxy="b")
    proxy.reports(4, traffic(1), proxy="c")
    assert {span.key.service: span.total.requests for span in proxy.spans(60, 4)} == {"8080": 111, "9090": 6}
    assert {span.key.service: span.counted.requests for span in proxy.spans(1, 4)} == {"8080": 1, "9090": 0}


def test_two_proxies_that_take_turns_are_each_counted_once(proxy: Conversation) -> None:
    proxy.reports(0)
    for second in range(1, 10):
        proxy.reports(second, traffic(10 * second), proxy="old")
        proxy.reports(second + 0.5, traffic(second), proxy="new")
    assert [span.total.requests for span in proxy.spans(60, 10)] == [99]


def test_a_row_that_the_proxy_began_anew_goes_on_adding(proxy: Conversation) -> None:
    proxy.reports(0, traffic(50))
    proxy.reports(1)
    proxy.reports(2, traffic(3))
    assert [span.total.requests for span in proxy.spans(60, 2)] == [53]


def test_connections_are_open_only_while_they_are_reported(proxy: Conversation) -> None:
    proxy.reports(0, traffic(1, open_connections=4))
    proxy.reports(1)
    assert proxy.over(60, 1).open_connections == 0


def test_rows_are_bounded_and_those_no_longer_reported_make_room(proxy: Conversation) -> None:
    many = [traffic(1, service=str(number)) for number in range(MAX_ROWS + 10)]
    proxy.reports(0, *many)
    assert len(proxy.spans(60, 0)) == MAX_ROWS
    proxy.reports(1, traffic(1, service="new"))
    services = [span.key.service for span in proxy.spans(60, 1)]
    assert len(services) == MAX_ROWS
    assert "new" in services
    assert "0" not in services


def test_a_row_with_other_buckets_is_refused(proxy: Conversation) -> None:
    with pytest.raises(ValueError, match="41 latency buckets"):
        proxy.reports(0, replace(traffic(1), latency_buckets=(1, 2)))


def test_a_row_with_endless_texts_is_refused(proxy: Conversation) -> None:
    with pytest.raises(ValueError, match="at most 512 characters"):
        proxy.reports(0, traffic(1, service="x" * 513))


def test_spans_of_several_proxies_add_up() -> None:
    first, second = Conversation(), Conversation()
    first.reports(0)
    first.reports(10, traffic(100))
    second.reports(8)
    second.reports(10, traffic(50, failures=25))
    found = golden([*first.spans(60, 10), *second.spans(60, 10)])
    assert found.rps == pytest.approx(10 + 25)
    assert found.success_rate == pytest.approx(125 / 150)


STEPS = st.lists(
    st.tuples(
        st.booleans(),  # the proxy restarts first
        st.dictionaries(st.sampled_from(("8080", "9090", "7070")), st.integers(0, 50), max_size=3),
        st.floats(0.1, 30),
    ),
    max_size=40,
)


@given(STEPS, st.floats(1, 60))
def test_whatever_restarts_every_request_is_counted_once(
    steps: list[tuple[bool, dict[str, int], float]], window_s: float
) -> None:
    """Rows of a service appear in a report once the proxy has seen it, as they do in a real one's."""
    proxy, now, life = Conversation(), 0.0, 0
    since_start: Counter[str] = Counter()
    true: Counter[str] = Counter()
    before: dict[str, int] = {}
    proxy.reports(now, proxy="0")
    for restarts, seen, passed_s in steps:
        if restarts:
            life, since_start = life + 1, Counter()
        since_start.update(seen)
        true.update(seen)
        now += passed_s
        proxy.reports(now, *(traffic(count, service=name) for name, count in since_start.items()), proxy=str(life))
        spans = {span.key.service: span for span in proxy.spans(window_s, now)}
        assert {name: span.total.requests for name, span in spans.items()} == {name: true[name] for name in spans}
        assert all(0 <= span.counted.requests <= span.total.requests for span in spans.values())
        assert all(spans[name].total.requests >= count for name, count in before.items())
        before = {name: span.total.requests for name, span in spans.items()}
    assert before.keys() == true.keys()
