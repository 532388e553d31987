"""Workers without processes: their pages made one, when one that ended is started again, whose socket is whose."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from meshd.api.frames import frame
from meshd.api.names import Identity, WorkloadName
from meshd.api.problems import Problem
from proxy.mesh.identity import WorkloadIdentity
from proxy.metrics import Metrics, State
from proxy.orders import Condition, Orders
from proxy.sockets import bound
from proxy.stats import Labels, Stats
from proxy.workers.link import (
    MAX_LINE_BYTES,
    MAX_PAGE_BYTES,
    Ask,
    Drain,
    Ends,
    FromMaster,
    FromWorker,
    Page,
    Reload,
    Told,
)
from proxy.workers.metrics import Metrics as MastersMetrics
from proxy.workers.metrics import Seen
from proxy.workers.pages import ADDED, HIGHEST, LOWEST, keep, merged, parse, rendered
from proxy.workers.places import Places
from proxy.workers.restarts import FIRST_S, MOST_S, SETTLED_AFTER_S, TRIES, Restarts
from proxy.workers.worker import MastersSockets, Worker
from tests.support import aio
from tests.support.waiting import eventually

ONE = """\
# HELP request_total Requests.
# TYPE request_total counter
request_total{workload="a b"} 3.0
request_total{workload="c"} 1.0
# HELP meshd_proxy_ready Whether the proxy is ready.
# TYPE meshd_proxy_ready gauge
meshd_proxy_ready 1.0
# TYPE lat histogram
lat_bucket{le="1"} 1.0
lat_bucket{le="+Inf"} 2.0
lat_count 2.0
lat_sum 4.5
# TYPE process_uptime_seconds_total counter
process_uptime_seconds_total 10.0
# TYPE tcp_open_connections gauge
tcp_open_connections 4.0
"""

TWO = """\
# TYPE request_total counter
request_total{workload="c"} 1e+06
request_total{workload="d \\"} 5\\n"} 1.0
# TYPE meshd_proxy_ready gauge
meshd_proxy_ready 0.0
# TYPE lat histogram
lat_bucket{le="1"} 0.0
lat_bucket{le="+Inf"} 7.0
lat_count 7.0
lat_sum 0.5
# TYPE process_uptime_seconds_total counter
process_uptime_seconds_total 4.0
# TYPE tcp_open_connections gauge
tcp_open_connections 2.0
"""


def samples(text: str) -> dict[str, float]:
    return {key: value for family in parse(text).values() for key, value in family.samples.items()}


# --- pages


def test_what_is_counted_is_added_and_states_are_made_one_as_is_right_for_each() -> None:
    assert samples(rendered(merged((parse(ONE), parse(TWO))))) == {
        'request_total{workload="a b"}': 3.0,
        'request_total{workload="c"}': 1e6 + 1.0,
        'request_total{workload="d \\"} 5\\n"}': 1.0,
        "meshd_proxy_ready": 0.0,
        'lat_bucket{le="1"}': 1.0,
        'lat_bucket{le="+Inf"}': 9.0,
        "lat_count": 9.0,
        "lat_sum": 5.0,
        "process_uptime_seconds_total": 10.0,
        "tcp_open_connections": 6.0,
    }


def test_what_describes_a_family_stays() -> None:
    text = rendered(merged((parse(ONE), parse(TWO))))
    assert "# HELP request_total Requests.\n# TYPE request_total counter\n" in text
    assert "# TYPE lat histogram\n" in text


def test_of_a_worker_that_ended_what_it_counted_stays_and_its_state_goes() -> None:
    past = parse("")
    for _ in range(2):
        keep(past, parse(ONE), 10)
    assert samples(rendered(past)) == {
        'request_total{workload="a b"}': 6.0,
        'request_total{workload="c"}': 2.0,
        'lat_bucket{le="1"}': 2.0,
        'lat_bucket{le="+Inf"}': 4.0,
        "lat_count": 4.0,
        "lat_sum": 9.0,
    }


def test_what_is_kept_of_the_past_is_bounded() -> None:
    past = parse("")
    for number in range(9):
        keep(past, parse(ONE.replace('"c"', f'"c{number}"')), 8)
    assert len(samples(rendered(past))) == 8
    assert samples(rendered(past))['request_total{workload="a b"}'] == 27.0, "what is known goes on"


def test_no_counter_goes_back_when_a_worker_is_followed_by_another() -> None:
    metrics = MastersMetrics()
    before = samples(metrics.page([Seen(1, ONE, True, True, 0), Seen(2, TWO, True, True, 0)]).decode())
    metrics.keep(TWO)
    for page in ("", ONE):
        after = samples(metrics.page([Seen(1, ONE, True, True, 0), Seen(2, page, True, bool(page), 1)]).decode())
        assert [key for key in before if "request" in key or "lat" in key if after[key] < before[key]] == []
    assert after['request_total{workload="c"}'] == before['request_total{workload="c"}'] + 1.0
    assert after["tcp_open_connections"] == 8.0
    assert after['meshd_proxy_worker_deaths_total{worker="2"}'] == 1.0


def page() -> str:
    """A page of the proxy's with every family in it."""
    stats = Stats()
    labels = Labels("outbound", "default/web", "api.default:80", "127.0.0.1:1", "", True)
    http = stats.http(labels)
    http.requests = 2
    http.record(200, 0.0015)
    tcp = stats.tcp(labels, "dst")
    tcp.opened = 1
    tcp.close(None)
    stats.retries(labels).requests = 1
    stats.count_error("inbound", "http", "unexpected")
    identity = WorkloadIdentity(Identity.of("mesh.example", WorkloadName("default", "web")), {}, lambda: None)
    state = State((identity,), (), True, 4, 3)
    return Metrics(stats, lambda: state).page().decode()


def test_every_gauge_of_the_proxy_has_a_rule() -> None:
    """A new one is to be thought about: is it what all workers have together, or how the worst of them is?"""
    gauges = {name for name, family in parse(page()).items() if family.kind == "gauge"}
    assert "tcp_open_connections" in gauges
    assert gauges - ADDED - LOWEST - HIGHEST == set()


def test_a_page_comes_out_of_the_merge_as_it_went_in() -> None:
    once = page()
    assert samples(rendered(merged((parse(once),)))) == samples(once)
    twice = samples(rendered(merged((parse(once), parse(once)))))
    counted = {key: value for key, value in samples(once).items() if key.startswith(("request", "response", "tcp"))}
    assert counted
    assert {key: twice[key] / 2 for key in counted} == counted


# --- the link


def orders(page: Callable[[], bytes], said: list[str]) -> Orders:
    async def reload() -> None:
        said.append("reload")

    def endpoints(service: str) -> bytes:
        return service.encode()

    return Orders(page, endpoints, reload, lambda: said.append("drain"), lambda: said.append("end"))


@asynccontextmanager
async def linked(given: Orders) -> AsyncIterator[tuple[Worker, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A worker, and its master's end of the link."""
    link, its_link = socket.socketpair()
    requests, its_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with requests:
        worker = Worker(Ends(1, 1, its_link.detach(), its_requests.detach()))
        reader, writer = await asyncio.open_unix_connection(sock=link, limit=2 * MAX_LINE_BYTES)
        await worker.begin(given)
        yield worker, reader, writer
        writer.close()
        await worker.end()


def test_a_worker_obeys_and_drains_when_its_master_is_gone() -> None:
    async def converse() -> None:
        said: list[str] = []
        async with linked(orders(lambda: b"page", said)) as (worker, reader, writer):
            worker.changed(Condition(("configuration",), ("127.0.0.1:1",)), ())
            worker.changed(Condition(("configuration",), ("127.0.0.1:1",)), ())
            writer.write(frame(FromMaster(Reload())) + frame(FromMaster(Ask())) + frame(FromMaster(Drain())))
            assert await reader.readline() == frame(FromWorker(Told(("configuration",), ("127.0.0.1:1",))))
            assert await reader.readline() == frame(FromWorker(Page("page"))), "what has not changed is told once"
            await eventually(lambda: said == ["drain", "reload"], "it obeys")
            writer.close()
            await eventually(lambda: said == ["drain", "reload", "drain"], "it drains of itself")

    aio.run(converse())


def test_a_page_that_is_too_large_is_not_sent() -> None:
    async def converse() -> None:
        pages = [b"a", b"x" * (MAX_PAGE_BYTES + 1), b"b", b""]
        async with linked(orders(lambda: pages.pop(0), [])) as (_, reader, writer):
            for expected in ("a", "", "b"):
                writer.write(frame(FromMaster(Ask())))
                assert await reader.readline() == frame(FromWorker(Page(expected)))

    aio.run(converse())


def test_a_late_answer_is_not_taken_for_another(free: str) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sockets = MastersSockets(its)
    with ours, bound(free) as wanted, bound("127.0.0.1:0") as another:
        socket.send_fds(ours, [f"{address(another)}\n".encode()], [another.fileno()])
        ours.send(b"127.0.0.1:1\ncannot listen at 127.0.0.1:1: Permission denied")
        socket.send_fds(ours, [f"{free}\n".encode()], [wanted.fileno()])
        with sockets.listen(free) as given:
            assert address(given) == free
        ours.send(f"{free}\ncannot listen at {free}: Permission denied".encode())
        with pytest.raises(Problem, match=f"^cannot listen at {free}: Permission denied$"):
            sockets.listen(free)
    with pytest.raises(Problem, match="the master does not answer"):
        sockets.listen(free)
    sockets.close()


# --- restarts


def most(low: float, high: float) -> float:
    return high


def test_deaths_are_answered_later_and_later_until_a_worker_has_settled() -> None:
    restarts = Restarts(most)
    delays = []
    for at in range(9):
        restarts.ready(float(at))
        delays.append(restarts.ended(float(at)))
    assert delays == [FIRST_S * 2**n for n in range(7)] + [MOST_S] * 2
    restarts.ready(20.0)
    assert restarts.ended(20.0 + SETTLED_AFTER_S + 1.0) == FIRST_S
    assert restarts.deaths == 10


def test_starts_that_fail_in_a_row_are_given_up() -> None:
    restarts = Restarts(most)
    assert None not in [restarts.ended(0.0) for _ in range(TRIES - 1)]
    restarts.ready(0.0)
    assert restarts.ended(0.0) is not None, "one that was ready breaks the row"
    assert None not in [restarts.ended(0.0) for _ in range(TRIES - 1)]
    assert restarts.ended(0.0) is None


# --- places


def address(listener: socket.socket) -> str:
    return "{}:{}".format(*listener.getsockname())


@pytest.fixture
def free() -> str:
    with bound("127.0.0.1:0") as listener:
        return address(listener)


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places()
    yield made
    made.close()


def reached(text: str, listeners: list[socket.socket], connections: int = 64) -> list[int]:
    """How many of so many connections come to each listener."""
    host, _, port = text.rpartition(":")
    callers = [socket.create_connection((host, int(port))) for _ in range(connections)]
    counts = []
    for listener in listeners:
        count = 0
        try:
            while True:
                listener.accept()[0].close()
                count += 1
        except BlockingIOError:
            counts.append(count)
    for caller in callers:
        caller.close()
    return counts


def test_each_place_has_a_socket_of_its_own_that_stays_for_its_next_worker(places: Places, free: str) -> None:
    first, second = places.listen(1, free), places.listen(2, free)
    counts = reached(free, [first, second])
    assert sum(counts) == 64
    assert min(counts) > 0
    places.begun(1)
    assert places.listen(1, free) is first
    assert len(places.own[free]) == 2


def test_what_is_given_back_or_not_asked_for_again_is_closed(places: Places, free: str) -> None:
    first, second = places.listen(1, free), places.listen(2, free)
    places.release(1, free)
    assert first.fileno() == -1
    assert reached(free, [second]) == [64]
    places.begun(2)
    places.settle(2)
    assert places.own == {}
    bound(free).close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_of_another_is_not_shared(places: Places, shared: bool) -> None:
    with bound("127.0.0.1:0", shared=shared) as other, pytest.raises(Problem, match="Address already in use"):
        places.listen(1, address(other))
    assert places.own == {}


def test_two_masters_do_not_share(places: Places, free: str) -> None:
    places.listen(1, free)
    with pytest.raises(Problem, match="Address already in use"):
        Places().listen(1, free)


def test_what_was_inherited_is_for_all() -> None:
    with bound("127.0.0.1:0") as inherited:
        places = Places([inherited])
        assert places.listen(1, address(inherited)) is places.listen(2, address(inherited)) is inherited
        places.release(1, address(inherited))
        places.close()
        assert inherited.fileno() != -1


def test_what_was_handed_over_is_taken_before_anything_is_bound(free: str) -> None:
    before = Places()
    old = [before.listen(number, free) for number in (1, 2, 3)]
    places = Places((), before.own)
    taken = [places.listen(number, free) for number in (1, 2)]
    assert set(taken) < set(old)
    places.settle_all()
    (left,) = set(old) - set(taken)
    assert left.fileno() == -1, "nobody would accept what comes there"
    fourth = places.listen(4, free)
    assert min(reached(free, [*taken, fourth])) > 0
    places.close()


def test_what_one_process_bound_alone_is_shared(free: str) -> None:
    places = Places((), {free: [bound(free)]})
    first, second = places.listen(1, free), places.listen(2, free)
    assert first is not second
    assert reached(free, [second]) == [64]
    places.close()
