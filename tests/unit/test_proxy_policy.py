"""How a service is treated: policy in numbers, retry budgets, failure accrual, and what exchanges make of them."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.endpoints import Endpoint
from meshd.api.policy import FailureAccrual, Limits, Policy, Retries, RetryBudget, Timeouts
from proxy import budget as budgets
from proxy.accrual import SLOTS, Accrual, Reason, State, Window
from proxy.endpoint import LiveEndpoint
from proxy.rules import MAX_KEPT_BYTES, Rules
from tests.support.aio import run, run_in_made_up_time
from tests.support.exchanges import OUTBOUND, PLAIN, Rig
from tests.support.waiting import eventually

GET = b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
OTHER = Endpoint("192.0.2.2", 80)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def state(of: LiveEndpoint | Accrual) -> State:
    return (of if isinstance(of, Accrual) else of.accrual).state


def askable(accrual: Accrual) -> bool:
    return accrual.askable


# --- what is written


@pytest.mark.parametrize(
    ("kind", "written", "says"),
    [
        (Timeouts, {"request": "10"}, "is not a duration"),
        (Timeouts, {"connect": ""}, "is not a duration"),
        (Timeouts, {"connect": "61s"}, "connect 61s is not from 1ms to 60s"),
        (Timeouts, {"connect": "0s"}, "connect 0s is not from 1ms to 60s"),
        (Retries, {"on": ["6xx"]}, "retries on '6xx'"),
        (Retries, {"on": ["200"]}, "retries on '200'"),
        (Retries, {"limit": 11}, "Expected `int` <= 10"),
        (Retries, {"methods": "some"}, "Invalid enum value 'some'"),
        (RetryBudget, {"ttl": "2m"}, "is not from 1s to 60s"),
        (FailureAccrual, {"minPenalty": "2m"}, "is not from 1ms to maxPenalty 60s"),
        (FailureAccrual, {"maxEjected": 1.5}, "Expected `float` <= 1.0"),
        (FailureAccrual, {"successRateWindow": "10ms"}, "is not from 1s to 10m"),
        (Limits, {"requests": -1}, "Expected `int` >= 0"),
        (Policy, {"timeout": {}}, "unknown field"),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: type[Any], written: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(written, kind)


def test_words_for_answers_become_statuses() -> None:
    rules = Rules(Policy(retries=Retries(on=("gateway-error", "429", "unavailable"))))
    assert rules.retry_statuses == {502, 503, 504, 429}
    assert rules.retry_grpc == {"14"}
    assert rules.retries
    assert not Rules(Policy()).retries
    assert not Rules(Policy(retries=Retries(on=("5xx",), limit=0))).retries


# --- the budget


def test_a_budget_is_a_share_of_the_requests_and_some_a_second() -> None:
    budget = budgets.RetryBudget(0.2, 1.0, 10.0, now=0.0)
    for _ in range(100):
        budget.deposit(1.0)
    assert sum(budget.withdraw(1.0) for _ in range(100)) == 20 + 10


def test_a_budget_forgets_after_its_window() -> None:
    budget = budgets.RetryBudget(0.2, 0.0, 10.0, now=0.0)
    for _ in range(10):
        budget.deposit(1.0)
    assert budget.withdraw(10.5)
    assert not budget.withdraw(12.0), "the requests are too long ago"


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=200))
def test_retries_never_exceed_the_budget(calls: list[tuple[float, bool]]) -> None:
    budget = budgets.RetryBudget(0.5, 1.0, 10.0, now=0.0)
    made: list[tuple[float, bool]] = []
    for now, is_retry in sorted(calls):
        if not is_retry:
            budget.deposit(now)
            made.append((now, False))
        elif budget.withdraw(now):
            made.append((now, True))
            since = int(now) - SLOTS + 1  # slots of a second here
            recent = [retry for at, retry in made if int(at) >= since]
            assert sum(recent) <= (len(recent) - sum(recent)) * 0.5 + 10


# --- accrual


def test_a_penalty_doubles_to_its_bound_and_is_forgotten_when_well() -> None:
    accrual = Accrual()
    pauses = []
    for _ in range(8):
        pauses.append(accrual.take_out(Reason.ANSWERS, 0.0, 1.0, 60.0, 0.0, lambda: 0.5))
        accrual.probe(accrual.out_until)
        assert state(accrual) is State.PROBING
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    accrual.bring_in()
    assert accrual.take_out(Reason.ANSWERS, 0.0, 1.0, 60.0, 0.0, lambda: 0.5) == 1


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_jitter_is_a_share_either_way(chance: float, pause: float) -> None:
    assert Accrual().take_out(Reason.ANSWERS, 0.0, 1.0, 60.0, 0.5, lambda: chance) == pause


def test_it_is_not_probed_before_its_time() -> None:
    accrual = Accrual()
    accrual.take_out(Reason.CONNECTION, 10.0, 1.0, 60.0, 0.0, lambda: 0.5)
    accrual.probe(10.9)
    assert not askable(accrual)
    accrual.probe(11.0)
    assert askable(accrual)
    accrual.probing_now = True
    assert not askable(accrual), "one at a time"


def test_a_window_forgets() -> None:
    window = Window(10.0)
    for second in range(10):
        window.count(second % 2 == 0, float(second))
    assert window.success_rate() == (0.5, 10)
    window.count(True, 14.5)
    rate, answers = window.success_rate()
    assert answers == 6
    assert rate == pytest.approx(3 / 6)
    window.count(False, 100.0)
    assert window.success_rate() == (0.0, 1)


# --- endpoints that fail


def fail(rig: Rig, times: int) -> None:
    """Answer `times` requests with 503, on whichever endpoint they come to."""
    for _ in range(times):
        caller = rig.call()
        caller.says(GET)
        if rig.asked:
            rig.open()
        for wire in rig.opened:
            if wire.heard():
                wire.says(BAD)
        assert status(caller.heard()) == 503


def test_an_endpoint_that_fails_in_a_row_is_taken_out_and_probed() -> None:
    policy = Policy(failure_accrual=FailureAccrual(consecutive_failures=3, max_ejected=1.0))
    rig = Rig(policy=policy)
    (live,) = rig.destination.endpoints
    fail(rig, 3)
    assert state(live) is State.OUT
    assert rig.destination.pick(0.0) is None
    live.accrual.out_until = 0.0
    rig.ring()
    assert rig.destination.pick(0.0) is live
    assert rig.destination.pick(0.0) is None, "one probe at a time"
    rig.destination.answered(live, True, 0.0)
    assert state(live) is State.IN


def test_a_probe_that_fails_makes_the_penalty_longer_and_one_given_up_lets_another_go() -> None:
    policy = Policy(failure_accrual=FailureAccrual(consecutive_failures=1, max_ejected=1.0, jitter_ratio=0.0))
    rig = Rig(policy=policy)
    (live,) = rig.destination.endpoints
    fail(rig, 1)
    first = live.accrual.out_until
    live.accrual.out_until = 0.0
    rig.ring()
    assert rig.destination.pick(0.0) is live
    rig.destination.inconclusive(live)
    assert rig.destination.pick(0.0) is live
    rig.destination.answered(live, False, 0.0)
    assert state(live) is State.OUT
    assert live.accrual.out_until > first


def test_never_more_than_a_share_are_out_for_their_answers() -> None:
    rig = Rig(PLAIN, OTHER, policy=Policy(failure_accrual=FailureAccrual(consecutive_failures=1)))
    fail(rig, 10)
    assert sorted(live.accrual.state.value for live in rig.destination.endpoints) == ["in", "out"]


def test_the_only_endpoint_is_never_taken_out_for_its_answers() -> None:
    rig = Rig()
    fail(rig, 20)
    assert state(rig.destination.endpoints[0]) is State.IN


def test_a_success_rate_that_is_too_low_takes_out() -> None:
    accrual = FailureAccrual(consecutive_failures=0, success_rate_threshold=0.8, max_ejected=1.0)
    rig = Rig(policy=Policy(failure_accrual=accrual))
    (live,) = rig.destination.endpoints
    for well in (True, True, True, False):
        rig.destination.answered(live, well, 1.0)
    assert state(live) is State.IN, "too few answers to judge by"
    rig.destination.answered(live, False, 1.0)
    assert state(live) is State.OUT


def test_when_one_has_waited_in_vain_others_fail_at_once_until_an_endpoint_is_well() -> None:
    async def play() -> None:
        rig = Rig(patience_s=0.05)
        first = rig.call()
        first.says(GET)
        rig.refuse()
        await eventually(lambda: rig.counted()[1], "the first gives up")
        assert status(first.heard()) == 503
        second = rig.call()
        second.says(GET)
        assert status(second.heard()) == 503
        (live,) = rig.destination.endpoints
        live.accrual.out_until = 0.0
        rig.ring()
        third = rig.call()
        third.says(GET)
        rig.open().says(OK)
        assert third.heard() == OK

    run(play())


# --- retries


RETRIES = Policy(retries=Retries(on=("5xx",), limit=2))


def retried(rig: Rig) -> tuple[int, int, int, int]:
    """(asked again, of those answered well, limit reached, budget used up), all of one service."""
    series = rig.stats.retry_series
    assert [each.labels for each in series] in ([], [OUTBOUND._replace(service="api")])
    totals = [(each.requests, each.successes, each.limit_exceeded, each.overflow) for each in series]
    return totals[0] if totals else (0, 0, 0, 0)


def test_an_answer_that_policy_names_is_asked_for_again() -> None:
    rig = Rig(policy=RETRIES)
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.heard()
    endpoint.says(BAD)
    assert endpoint.heard() == GET, "on the connection that is idle again"
    endpoint.says(OK)
    assert caller.heard() == OK
    assert retried(rig) == (1, 1, 0, 0)
    assert rig.pending == 0


def test_a_retry_is_given_up_after_its_limit() -> None:
    rig = Rig(policy=RETRIES)
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    for _ in range(3):
        assert endpoint.heard() == GET
        endpoint.says(BAD)
    assert status(caller.heard()) == 503
    assert endpoint.heard() == b""
    assert retried(rig) == (2, 0, 1, 0)


def test_an_answer_that_policy_does_not_name_is_no_retry_and_may_be_no_success() -> None:
    rig = Rig(policy=Policy(retries=Retries(on=("503",), limit=2)))
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.says(OK)
    assert caller.heard() == OK
    assert retried(rig) == (0, 0, 0, 0)
    caller.says(GET)
    endpoint.says(BAD)
    endpoint.says(BAD.replace(b"503", b"500"))
    assert status(caller.heard()) == 500
    assert retried(rig) == (1, 0, 0, 0)


@pytest.mark.parametrize(("methods", "again"), [("safe", False), ("idempotent", False), ("all", True)])
def test_only_the_methods_that_policy_names(methods: Any, again: bool) -> None:
    rig = Rig(policy=Policy(retries=Retries(on=("5xx",), methods=methods)))
    caller = rig.call()
    caller.says(POST)
    endpoint = rig.open()
    assert endpoint.heard() == POST
    endpoint.says(BAD)
    assert (endpoint.heard() == POST) is again
    assert bool(caller.heard()) is not again


def test_a_body_that_is_too_long_to_keep_is_not_sent_again() -> None:
    rig = Rig(policy=Policy(retries=Retries(on=("5xx",), methods="all")))
    body = bytes(MAX_KEPT_BYTES + 1)
    caller = rig.call()
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % len(body))
    endpoint = rig.open()
    caller.says(body)
    endpoint.heard()
    endpoint.says(BAD)
    assert status(caller.heard()) == 503
    assert retried(rig) == (0, 0, 0, 0)


def test_an_answer_that_has_begun_is_never_asked_for_again() -> None:
    rig = Rig(policy=RETRIES)
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.heard()
    endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    endpoint.breaks()
    assert caller.heard().endswith(b"half")
    assert rig.asked == []


def test_without_budget_the_answer_is_passed_on() -> None:
    retries = Retries(on=("5xx",), budget=RetryBudget(ratio=0.0, min_per_second=0.0))
    rig = Rig(policy=Policy(retries=retries))
    caller = rig.call()
    caller.says(GET)
    rig.open().says(BAD)
    assert status(caller.heard()) == 503
    assert retried(rig) == (0, 0, 0, 1)
    assert rig.stats.errors == {}, "an answer is passed on: the endpoint's"


# --- time and limits


@pytest.mark.parametrize("timeouts", [Timeouts(request="30ms"), Timeouts(response="30ms")])
def test_an_answer_that_is_late_is_504(timeouts: Timeouts) -> None:
    async def play() -> None:
        rig = Rig(policy=Policy(timeouts=timeouts))
        caller = rig.call()
        caller.says(GET)
        endpoint = rig.open()
        await eventually(lambda: rig.counted()[1], "an answer")
        assert status(caller.heard()) == 504
        assert endpoint.is_closing()
        assert rig.pending == 0
        assert rig.destination.in_flight == 0

    run(play())


@pytest.mark.parametrize("timeouts", [Timeouts(request="50ms"), Timeouts(idle="30ms")])
def test_an_answer_that_stops_half_way_is_cut_off(timeouts: Timeouts) -> None:
    async def play() -> None:
        rig = Rig(policy=Policy(timeouts=timeouts))
        caller = rig.call()
        caller.says(GET)
        endpoint = rig.open()
        endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await eventually(caller.is_closing, "it is cut off")
        assert caller.heard().endswith(b"half")
        assert rig.pending == 0

    run(play())


def test_an_answer_that_keeps_coming_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr("proxy.exchange.monotonic", asyncio.get_running_loop().time)
        rig = Rig(policy=Policy(timeouts=Timeouts(idle="10s")))
        caller = rig.call()
        caller.says(GET)
        endpoint = rig.open()
        endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for _ in range(11):
            await asyncio.sleep(9.0)
            endpoint.says(b".")
        assert caller.heard().endswith(b"...........")
        assert not caller.is_closing()
        await asyncio.sleep(21.0)
        assert caller.is_closing()

    run_in_made_up_time(play())


def test_more_requests_than_the_limit_are_shed() -> None:
    rig = Rig(policy=Policy(limits=Limits(requests=1)))
    first, second = rig.call(), rig.call()
    first.says(GET)
    endpoint = rig.open()
    second.says(GET)
    assert status(second.heard()) == 503
    endpoint.heard()
    endpoint.says(OK)
    assert first.heard() == OK
    assert rig.destination.in_flight == 0
