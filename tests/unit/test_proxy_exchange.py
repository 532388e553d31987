"""An exchange's decisions: when it tries again, waits and gives up, what it counts; cancelling it at every step."""

from collections.abc import Callable
from time import monotonic

import pytest

from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from proxy.accrual import State
from proxy.balance import DEFAULT_RTT_S
from proxy.destination import LOCAL_BENCH_MAX_S
from proxy.endpoint import LiveEndpoint
from proxy.errors import Failure
from proxy.exchange import MAX_TRIES, Exchange, Route
from proxy.http1.heads import RequestHead, ResponseHead, parse_request, parse_response
from proxy.http2.heads import response
from proxy.rules import MAX_KEPT_BYTES
from proxy.seams import End
from proxy.stats import Stats
from tests.support.aio import run
from tests.support.exchanges import OUTBOUND, PLAIN, Rig
from tests.support.waiting import eventually
from tests.support.wire import Wire

GET = b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OTHER = Endpoint("192.0.2.2", 80)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def warm(rig: Rig) -> tuple[Wire, Wire]:
    """A caller, and an endpoint whose connection has served a request and is idle."""
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.says(OK)
    caller.heard()
    endpoint.heard()
    return caller, endpoint


# --- trying again


def test_a_connection_that_cannot_be_made_is_tried_elsewhere() -> None:
    rig = Rig(PLAIN, OTHER)
    caller = rig.call()
    caller.says(POST + b"hello")
    first = rig.asked[0][1]
    rig.refuse()
    assert rig.asked[0][1] is not first
    endpoint = rig.open()
    assert endpoint.heard() == POST + b"hello"
    endpoint.says(OK)
    assert caller.heard() == OK
    assert rig.counted() == (1, {200: 1})
    assert rig.pending == 0


def test_a_body_that_is_still_coming_is_kept_until_there_is_a_connection() -> None:
    rig = Rig(PLAIN, OTHER)
    caller = rig.call()
    caller.says(POST + b"he")
    rig.refuse()
    caller.says(b"llo")
    endpoint = rig.open()
    caller.settle()
    assert endpoint.heard() == POST + b"hello"


@pytest.mark.parametrize(
    ("request_", "again"),
    [
        (GET, True),
        (b"PUT" + POST[4:] + b"hello", True),
        (b"DELETE" + GET[3:], True),
        (POST + b"hello", False),
        (b"PATCH" + POST[4:] + b"hello", False),
    ],
)
def test_on_a_stale_connection_only_what_is_idempotent_is_asked_again(request_: bytes, again: bool) -> None:
    rig = Rig()
    caller, stale = warm(rig)
    caller.says(request_)
    stale.breaks()
    assert bool(rig.asked) is again
    if again:
        fresh = rig.open()
        assert fresh.heard() == request_
        fresh.says(OK)
        assert caller.heard() == OK
    else:
        heard = caller.heard()
        assert status(heard) == 502
        assert b"unsent" not in heard, "it may have been carried out"
    assert rig.pending == 0


def test_a_fresh_connection_that_dies_is_not_asked_again() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    rig.open().breaks()
    assert status(caller.heard()) == 502
    assert rig.counted() == (1, {502: 1})


def test_an_answer_that_has_begun_is_never_begun_anew() -> None:
    rig = Rig()
    caller, stale = warm(rig)
    caller.says(GET)
    stale.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    stale.breaks()
    caller.settle()
    assert rig.asked == []
    assert caller.aborted


def test_stale_connections_are_not_tried_for_ever() -> None:
    rig = Rig(patience_s=60.0)
    callers = [rig.call() for _ in range(MAX_TRIES + 2)]
    for caller in callers:
        caller.says(GET)
    wires = [rig.open() for _ in callers]
    for wire in wires:
        wire.says(OK)
        wire.heard()
    assert rig.idle == MAX_TRIES + 2
    caller = callers[0]
    caller.heard()
    caller.says(GET)
    tries = 0
    while busy := [wire for wire in wires if not wire.lost and wire.heard()]:
        tries += 1
        busy[0].breaks()
    assert tries == MAX_TRIES
    assert status(caller.heard()) == 502


# --- what another proxy says


class Proxied:
    """A client to a proxy of the mesh, as far as an exchange sees one."""

    reused = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.cancelled = False

    def send(self, exchange: Exchange, extra: bytes, payload: bytes, ended: bool, trailers: bytes) -> None:
        self.sent.append(exchange.head.forward + extra + payload)

    def send_more(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        self.sent.append(payload)

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None: ...


class Asking:
    """A caller that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def interim(self, head: ResponseHead) -> None:
        self.told.append(head.status)

    def switch(self, head: ResponseHead) -> End:
        raise AssertionError(f"nothing here asks for an upgrade, and {head.status} came")

    def respond(self, head: ResponseHead, length: int, payload: bytes, done: bool, whole: bytes | None) -> None:
        self.told.append(head.status)

    def respond_more(self, payload: bytes, done: bool, trailers: bytes) -> None:
        self.told.append(payload)

    def fail(self, failure: Failure, unsent: bool) -> None:
        self.told.append((failure, unsent))

    def abort(self) -> None:
        self.told.append("aborted")

    def hold(self) -> None:
        self.told.append("held")

    def release(self) -> None:
        self.told.append("released")


UNSENT = response([(b":status", b"503"), (b"l5d-proxy-unsent", b"true"), (b"content-length", b"3")], from_proxy=True)
FINE = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0")


def head(data: bytes) -> RequestHead:
    return parse_request(data[:-4])


def begun(rig: Rig, request_: bytes = GET, body: bytes = b"", ended: bool = True) -> tuple[Exchange, Asking]:
    caller = Asking()
    route = rig.route(head(request_))
    assert isinstance(route, Route)
    exchange = Exchange(caller, head(request_), route, monotonic())
    exchange.start(body, ended, b"")
    return exchange, caller


def joined(rig: Rig, exchange: Exchange) -> Proxied:
    rig.asked.clear()
    client = Proxied()
    assert exchange.connected(client)
    return client


def test_what_a_proxy_did_not_send_is_asked_again_whatever_the_method() -> None:
    rig = Rig(PLAIN, OTHER, patience_s=60.0)
    exchange, caller = begun(rig, POST, b"hello")
    asked = exchange.live
    first = joined(rig, exchange)
    exchange.respond(UNSENT, 3, b"", False, None)
    assert rig.asked == [], "its answer is let pass to its end first"
    exchange.respond_more(503, b"why", True, b"")
    assert [live for _, live in rig.asked] == [live for live in rig.destination.endpoints if live is not asked]
    second = joined(rig, exchange)
    assert first.sent == second.sent == [POST[:-2] + b"hello"]
    exchange.respond(FINE, 0, b"", True, None)
    assert caller.told == [200]
    assert rig.counted() == (1, {200: 1})
    assert rig.pending == 0


def test_what_a_proxy_did_not_send_is_passed_on_where_the_body_is_gone() -> None:
    rig = Rig(patience_s=60.0)
    exchange, caller = begun(rig, POST, b"he", ended=False)
    joined(rig, exchange)
    exchange.request_more(bytes(MAX_KEPT_BYTES), True, b"")
    exchange.respond(UNSENT, 0, b"", True, None)
    assert caller.told[-1] == 503
    assert rig.asked == []
    assert rig.pending == 0


def test_a_proxy_that_never_sends_is_not_asked_for_ever() -> None:
    rig = Rig(*(PLAIN.__replace__(port=port) for port in range(MAX_TRIES + 1)), patience_s=60.0)
    exchange, caller = begun(rig)
    for _ in range(MAX_TRIES):
        joined(rig, exchange)
        exchange.respond(UNSENT, 0, b"", True, None)
    assert caller.told == [503]
    assert rig.asked == []


def test_a_proxy_that_sent_nothing_is_left_alone_for_a_moment() -> None:
    """It answers at once while its application is gone: by its latency it would be the best of all."""
    rig = Rig(PLAIN, OTHER, patience_s=60.0)
    exchange, _ = begun(rig)
    gone = exchange.live
    assert gone is not None
    joined(rig, exchange)
    exchange.respond(UNSENT, 0, b"", True, None)
    for _ in range(20):
        assert begun(rig)[0].live is not gone
    assert gone.ewma.estimate(0.0) == DEFAULT_RTT_S, "it has shown no latency"
    for _ in range(9):  # it may be the only one that comes back: it is not left alone for ever longer
        gone.accrual.probe(monotonic() + LOCAL_BENCH_MAX_S * 1.1)
        assert gone.accrual.state is State.PROBING
        rig.destination.missed(gone)


def test_room_is_made_before_the_body_is_sent_so_that_sending_may_hold_again() -> None:
    class Full(Proxied):
        def send(self, exchange: Exchange, extra: bytes, payload: bytes, ended: bool, trailers: bytes) -> None:
            exchange.caller.hold()

    rig = Rig()
    exchange, caller = begun(rig, POST, b"h", ended=False)
    exchange.request_more(b"e", False, b"")
    exchange.connected(Full())
    assert caller.told == ["held", "released", "held"]


# --- latencies


def test_an_endpoint_answers_for_its_own_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was spent on another endpoint first must not make this one look slow."""
    now = [100.0]
    monkeypatch.setattr("proxy.exchange.monotonic", lambda: now[0])
    rig = Rig(PLAIN, OTHER, patience_s=60.0)
    caller = Asking()
    route = rig.route(head(GET))
    assert isinstance(route, Route)
    exchange = Exchange(caller, head(GET), route, now[0])
    exchange.start(b"", True, b"")
    now[0] += 20.0
    rig.refuse()
    live = rig.asked[0][1]
    joined(rig, exchange)
    now[0] += 0.5
    exchange.respond(FINE, 0, b"", True, None)
    assert live.ewma.estimate(now[0]) == pytest.approx(0.5)
    (series,) = [series for series in rig.stats.http_series if series.requests]
    assert series.responses[200, ""].sum_ms == pytest.approx(20_500.0), "the caller waited for all of it"


def test_an_endpoint_that_callers_give_up_on_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("proxy.exchange.monotonic", lambda: now[0])
    rig = Rig()
    route = rig.route(head(GET))
    assert isinstance(route, Route)
    exchange = Exchange(Asking(), head(GET), route, now[0])
    exchange.start(b"", True, b"")
    live: LiveEndpoint = rig.asked[0][1]
    joined(rig, exchange)
    now[0] += 5.0
    exchange.cancel()
    assert live.ewma.estimate(now[0]) == pytest.approx(5.0)


# --- waiting


def test_a_request_waits_for_discovery_and_goes_on() -> None:
    async def conversation() -> None:
        rig = Rig(known=False, patience_s=5.0)
        caller = rig.call()
        caller.says(GET)
        assert rig.asked == []
        rig.destination.update(EndpointSet(ServiceName("api", "default", 80), (PLAIN,)))
        rig.open().says(OK)
        assert caller.heard() == OK

    run(conversation())


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda rig: None, 504),
        (lambda rig: rig.destination.update(EndpointSet(ServiceName("api", "default", 80))), 503),
    ],
)
def test_patience_ends(prepare: Callable[[Rig], None], code: int) -> None:
    async def conversation() -> None:
        rig = Rig(known=False, patience_s=0.02)
        prepare(rig)
        caller = rig.call()
        caller.says(POST + b"hello")
        heard = await eventually(caller.heard, "an answer")
        assert status(heard) == code
        assert b"l5d-proxy-unsent: true" in heard
        assert rig.counted() == (1, {code: 1})
        assert rig.stats.errors == {("outbound", "http", "failfast"): 1}
        assert not rig.destination.idle(0.0, 1.0)
        assert rig.destination.idle(1e9, 1.0), "nobody waits any more"

    run(conversation())


def test_what_is_no_service_is_answered_at_once() -> None:
    rig = Rig(known=False)
    rig.destination.update(None)
    caller = rig.call()
    caller.says(GET)
    assert status(caller.heard()) == 503


def test_a_service_that_goes_while_a_request_waits_answers_it() -> None:
    async def conversation() -> None:
        rig = Rig(known=False, patience_s=5.0)
        caller = rig.call()
        caller.says(GET)
        rig.destination.update(None)
        assert status(caller.heard()) == 503

    run(conversation())


def test_an_endpoint_that_refuses_until_patience_ends_is_unavailable() -> None:
    """Whether patience ends in a connect or between two of them, the caller is told the same."""

    async def conversation() -> None:
        rig = Rig(patience_s=0.02)
        caller = rig.call()
        caller.says(GET)
        rig.refuse()
        heard = await eventually(caller.heard, "an answer")
        assert status(heard) == 503
        rig = Rig(PLAIN, OTHER, patience_s=0.0)
        caller = rig.call()
        caller.says(GET)
        rig.refuse()
        heard = caller.heard()
        assert status(heard) == 503
        assert b"l5d-proxy-unsent: true" in heard

    run(conversation())


def test_a_request_whose_body_is_still_coming_is_held_while_it_waits() -> None:
    async def conversation() -> None:
        rig = Rig(known=False, patience_s=5.0)
        caller = rig.call()
        caller.says(POST + b"he")
        assert caller.held()
        caller.says(b"llo")
        rig.destination.update(EndpointSet(ServiceName("api", "default", 80), (PLAIN,)))
        endpoint = rig.open()
        caller.settle()
        assert endpoint.heard() == POST + b"hello"

    run(conversation())


# --- cancelling, at every step

STEPS: list[tuple[str, Callable[[Rig, Wire], object]]] = [
    ("asked", lambda rig, caller: None),
    ("connected", lambda rig, caller: rig.open()),
    ("interim", lambda rig, caller: rig.opened[0].says(b"HTTP/1.1 103 Hints\r\n\r\n")),
    ("more body", lambda rig, caller: caller.says(b"he")),
    ("answering", lambda rig, caller: rig.opened[0].says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")),
    ("answered", lambda rig, caller: rig.opened[0].says(b" now.")),
]


@pytest.mark.parametrize("steps", range(1, len(STEPS) + 1), ids=[name for name, _ in STEPS])
def test_a_caller_that_goes_away_leaves_nothing_behind(steps: int) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(POST)
    for _, step in STEPS[:steps]:
        step(rig, caller)
    if not caller.lost:
        caller.breaks(ConnectionResetError())
    while rig.asked:
        rig.open()
    for endpoint in rig.opened:
        endpoint.settle()
    assert rig.pending == 0
    assert rig.idle == (1 if steps == 1 else 0), "only a connection that nothing was sent on is good again"
    assert len(rig.ended) == 1


def test_a_caller_that_goes_away_while_it_waits_leaves_the_queue() -> None:
    async def conversation() -> None:
        rig = Rig(known=False, patience_s=5.0)
        caller = rig.call()
        caller.says(GET)
        caller.breaks(None)
        assert rig.destination.idle(1e9, 1.0)
        rig.destination.update(EndpointSet(ServiceName("api", "default", 80), (PLAIN,)))
        assert rig.asked == []

    run(conversation())


def test_a_connection_that_fails_after_its_caller_left_is_no_one_s() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    caller.breaks(None)
    rig.refuse()
    assert rig.asked == []
    assert rig.pending == 0


def test_a_request_that_found_no_endpoint_is_counted_under_what_was_asked_for() -> None:
    stats = Stats()
    rig = Rig(known=False)
    rig.stats = stats
    rig.destination.update(None)
    route = Route(rig.destination, rig, stats, b"", 1.0, OUTBOUND)
    exchange = Exchange(Asking(), head(GET), route, 0.0)
    exchange.start(b"", True, b"")
    (series,) = stats.http_series
    assert series.labels == OUTBOUND


def test_a_body_that_came_in_pieces_is_sent_again_whole() -> None:
    rig = Rig(PLAIN, OTHER, patience_s=60.0)
    exchange, caller = begun(rig, POST, b"he", ended=False)
    first = joined(rig, exchange)
    exchange.request_more(b"llo", True, b"")
    exchange.respond(UNSENT, 0, b"", True, None)
    second = joined(rig, exchange)
    exchange.respond(FINE, 0, b"", True, None)
    assert first.sent[0] == POST[:-2] + b"he"
    assert second.sent == [POST[:-2] + b"hello"]
    assert caller.told[-1] == 200
