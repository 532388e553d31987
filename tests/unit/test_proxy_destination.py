"""A destination: endpoints come and go, are benched and tried again, and whoever waits for one is told."""

import asyncio
import random
from collections.abc import Callable

import pytest

from meshd.api.detection import Detection
from meshd.api.documents import Protocol
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.tasks import Tasks
from proxy.destination import BENCH_MAX_S, BENCH_MIN_S, Destination
from proxy.endpoint import LiveEndpoint
from proxy.errors import Failure
from proxy.stats import HttpTraffic, Labels, TcpTraffic
from tests.support import aio
from tests.support.waiting import DEADLINE_S

LABELS = Labels("outbound")


class Time:
    """A clock that stands still, and timers that ring when it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> object:
        self._timers.append((self.now + delay, call))
        return call

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self._timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = end


class Waiter:
    def __init__(self) -> None:
        self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1


class Pooled:
    """An idle connection."""

    reused = True
    closed = False

    def close(self) -> None:
        self.closed = True


def made(time: Time, *endpoints: Endpoint, bench_max_s: float = BENCH_MAX_S, zone: str = "") -> Destination:
    def make(endpoint: Endpoint) -> LiveEndpoint:
        traffic = HttpTraffic(LABELS), TcpTraffic(LABELS, "dst", False), TcpTraffic(LABELS, "dst", True)
        return LiveEndpoint(endpoint, time.now, *traffic)

    destination = Destination("api", make, time.call_later, time.clock, bench_max_s, zone)
    if endpoints:
        destination.update(found(*endpoints))
    return destination


def found(*endpoints: Endpoint) -> EndpointSet:
    return EndpointSet(ServiceName("api", "default", 80), endpoints)


A, B = Endpoint("192.0.2.1", 80), Endpoint("192.0.2.2", 80)


def test_known_says_what_discovery_said() -> None:
    destination = made(Time())
    known = [destination.known]
    for answer in (None, found()):
        destination.update(answer)
        known.append(destination.known)
    assert known == [None, False, True]
    assert destination.pick(100.0) is None
    assert destination.pick_least() is None


@pytest.mark.parametrize(
    ("protocol", "port", "opaque", "speaks"),
    [
        ("auto", 80, None, "auto"),
        ("auto", 3306, None, "tcp"),
        ("auto", 3306, False, "auto"),
        ("auto", 80, True, "tcp"),
        ("http", 3306, None, "http"),
        ("http", 3306, True, "http"),
    ],
)
def test_what_it_speaks_is_its_protocol_s_then_its_document_s_then_the_list_s_to_say(
    protocol: Protocol, port: int, opaque: bool | None, speaks: Protocol
) -> None:
    destination = made(Time())
    destination.update(EndpointSet(ServiceName("db", "default", port), (), protocol, opaque=opaque))
    assert destination.speaks(Detection()) == speaks
    destination.update(None)
    assert destination.speaks(Detection()) == "auto"


def test_a_failed_endpoint_is_benched_twice_as_long_each_time_up_to_a_limit() -> None:
    time = Time()
    destination = made(time, A)
    pause = BENCH_MIN_S
    for _ in range(14):
        live = destination.pick(time.now)
        assert live is not None
        destination.failed(live)
        assert destination.pick(time.now) is None
        time.advance(pause * 0.89)
        assert destination.pick(time.now) is None, "jitter is a tenth at most"
        time.advance(pause * 0.22)
        pause = min(pause * 2, BENCH_MAX_S)
    assert pause == BENCH_MAX_S


def test_many_failures_at_once_are_one() -> None:
    """Requests that were all under way to an application that restarts must not bench it for a minute."""
    time = Time()
    destination = made(time, A)
    live = destination.pick(time.now)
    assert live is not None
    for _ in range(32):
        destination.failed(live)
    time.advance(BENCH_MIN_S * 1.2)
    assert destination.pick(time.now) is live


def test_the_longest_bench_is_the_destination_s_own() -> None:
    time = Time()
    destination = made(time, A, bench_max_s=0.5)
    for _ in range(10):
        live = destination.pick(time.now)
        assert live is not None
        destination.failed(live)
        time.advance(0.6)


def test_a_success_ends_the_bench_and_wakes() -> None:
    time = Time()
    destination = made(time, A)
    live = destination.pick(time.now)
    assert live is not None
    destination.failed(live)
    waiter = Waiter()
    assert destination.wait(waiter) is None
    destination.succeeded(live)
    assert waiter.resumed == 1
    assert destination.pick(time.now) is live
    destination.failed(live)
    time.advance(BENCH_MIN_S * 1.2)
    assert destination.pick(time.now) is live, "the pause begins anew"


def test_those_who_wait_are_woken_by_an_endpoint_or_by_there_being_no_such_service() -> None:
    time = Time()
    destination = made(time)
    first, second, gone = Waiter(), Waiter(), Waiter()
    for waiter in (first, gone):
        assert destination.wait(waiter) is None
    destination.leave(gone)
    destination.leave(gone)
    destination.update(found())
    assert first.resumed == 0
    destination.update(found(A))
    assert (first.resumed, gone.resumed) == (1, 0)
    destination.update(found())
    assert destination.wait(second) is None
    destination.update(None)
    assert second.resumed == 1


def test_a_bench_that_ends_wakes() -> None:
    time = Time()
    destination = made(time, A)
    live = destination.pick(time.now)
    assert live is not None
    destination.failed(live)
    waiter = Waiter()
    destination.wait(waiter)
    time.advance(BENCH_MIN_S * 1.2)
    assert waiter.resumed == 1


def test_only_so_many_may_wait() -> None:
    destination = made(Time())
    assert all(destination.wait(Waiter()) is None for _ in range(destination.rules.max_waiting))
    assert destination.wait(Waiter()) is Failure.SHED


def test_a_swap_keeps_what_was_learnt_and_retires_what_left() -> None:
    time = Time()
    destination = made(time, A, B)
    one, other = destination.endpoints
    one.ewma.observe(1.0, time.now)
    kept, left = Pooled(), Pooled()
    one.idle.append(kept)  # type: ignore[arg-type]
    other.idle.append(left)  # type: ignore[arg-type]
    heavier = Endpoint("192.0.2.1", 80, weight=3)
    destination.update(found(heavier))
    assert destination.endpoints == (one,)
    assert one.weight == 3
    assert one.ewma.estimate(time.now) == 1.0
    assert (kept.closed, left.closed) == (False, True)
    assert other.retired
    assert not one.retired


def test_another_identity_at_the_same_address_is_another_endpoint() -> None:
    destination = made(Time(), A)
    (before,) = destination.endpoints
    destination.update(found(Endpoint("192.0.2.1", 80, identity="spiffe://a/ns/b/sa/c", inbound_port=4143)))
    assert before.retired
    assert destination.endpoints != (before,)


def test_another_protocol_at_the_same_address_is_another_endpoint() -> None:
    destination = made(Time(), A)
    (before,) = destination.endpoints
    destination.update(found(Endpoint(A.address, A.port, protocol="http2")))
    (after,) = destination.endpoints
    assert before.retired  # its connections speak what it spoke
    assert (before.speaks_h2, after.speaks_h2) == (None, True)


def test_an_endpoint_that_is_listed_twice_is_one() -> None:
    destination = made(Time(), A, A)
    (one,) = destination.endpoints
    destination.update(found(A, A))
    assert destination.endpoints == (one,)
    assert not one.retired


def test_a_benched_endpoint_stays_benched_across_a_swap() -> None:
    time = Time()
    destination = made(time, A)
    (live,) = destination.endpoints
    destination.failed(live)
    destination.update(found(A, B))
    assert all(destination.pick(time.now) is destination.endpoints[1] for _ in range(20))


def test_weights_divide_the_load() -> None:
    destination = made(Time(), Endpoint("192.0.2.1", 80, weight=4), B)
    heavy, light = destination.endpoints
    heavy.ewma.pending, light.ewma.pending = 2, 0
    assert heavy.load(100.0) == pytest.approx(light.load(100.0) * 3 / 4)
    heavy.open, light.open = 2, 0
    assert destination.pick_least() is heavy


def test_one_that_joins_gets_a_tenth_at_first_and_its_share_in_the_end_however_fast_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(11)
    monkeypatch.setattr("proxy.destination.random.random", chance.random)
    monkeypatch.setattr("proxy.endpoint.random", chance.random)
    time = Time()
    destination = made(time, A)
    (old,) = destination.endpoints
    for _ in range(100):
        time.advance(1.0)
        old.ewma.observe(0.0004, time.now)
    destination.update(found(A, B))

    def share() -> float:
        """How much of a thousand requests, one at a time and all alike, the one that joined has."""
        joined = 0
        for _ in range(1000):
            live = destination.pick(time.now)
            assert live is not None
            live.ewma.observe(0.0004, time.now)
            joined += live.endpoint == B
        return joined / 1000

    shares = []
    for seconds in (0.0, 5.0, 5.0):
        time.advance(seconds)
        shares.append(share())
    assert 0.02 < shares[0] < 0.15
    assert shares[0] < shares[1] < 0.6
    assert destination.endpoints[1].load(time.now) < 1.0, "it is as any other now"


def test_it_is_idle_when_nothing_is_open_pending_or_waiting() -> None:
    time = Time()
    destination = made(time, A)
    (live,) = destination.endpoints
    assert not destination.idle(time.now + 59, 60)
    assert destination.idle(time.now + 60, 60)
    live.ewma.pending = 1
    assert not destination.idle(time.now + 60, 60)
    live.ewma.pending, live.open = 0, 1
    assert not destination.idle(time.now + 60, 60)
    live.open = 0
    destination.wait(Waiter())
    assert not destination.idle(time.now + 60, 60)


def test_a_closed_destination_lets_go_of_everything() -> None:
    destination = made(Time(), A)
    (live,) = destination.endpoints
    pooled = Pooled()
    live.idle.append(pooled)  # type: ignore[arg-type]
    destination.close()
    assert pooled.closed
    assert live.retired
    assert destination.pick(100.0) is None


def test_the_proxys_own_zone_is_preferred_while_something_there_can_be_asked() -> None:
    time = Time()
    near, far = Endpoint("192.0.2.1", 80, zone="a"), Endpoint("192.0.2.2", 80, zone="b")
    destination = made(time, near, far, zone="a")
    here, there = destination.endpoints
    assert all(destination.pick(time.now) is here for _ in range(50))
    destination.failed(here)
    assert destination.pick(time.now) is there


def test_without_a_zone_of_its_own_a_proxy_prefers_none() -> None:
    time = Time()
    destination = made(time, Endpoint("192.0.2.1", 80), Endpoint("192.0.2.2", 80, zone="b"))
    assert len({destination.pick(time.now) for _ in range(50)}) == 2


def test_one_can_wait_for_what_discovery_says() -> None:
    async def main() -> None:
        destination = Destination("api", lambda _: pytest.fail("there is none"), lambda _, __: None)
        assert not await destination.learned(0.001)
        tasks = Tasks("waiting")
        waits = tasks.start(destination.learned(DEADLINE_S), "waits")
        await asyncio.sleep(0)
        assert not waits.done()
        destination.update(None)
        assert await waits
        assert await destination.learned(0.0)
        assert not destination.meshed

    aio.run(main())
