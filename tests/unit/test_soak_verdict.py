"""What the soak excuses, and what it takes for growth."""

import pytest

from tests.soak.verdict import MAX_GROWTH_BYTES, SLACK_S, Damage, Trouble, excuse, held_up, memory

KILLED = Damage("one", "application", "killed", 100.0, 100.1, 103.0)
DRAINED = Damage("two", "proxy", "ended", 100.0, 100.1, 103.0)
BEFORE, WHILE, AFTER = (90.0, 99.9), (99.0, 100.2), (100.2 + SLACK_S, 101.0)
LONG = 70_000


def trouble(
    reason: str, when: tuple[float, float], *, idempotent: bool = False, sent_bytes: int = 0, relayed: bool = False
) -> Trouble:
    return Trouble("any", reason, *when, idempotent, sent_bytes, relayed)


@pytest.mark.parametrize("damage", [KILLED, DRAINED])
@pytest.mark.parametrize("reason", ["cut", "502"])
def test_what_was_under_way_when_something_was_killed_may_fail(reason: str, damage: Damage) -> None:
    assert excuse(trouble(reason, WHILE), [damage])
    assert not excuse(trouble(reason, BEFORE), [damage])
    assert not excuse(trouble(reason, AFTER), [damage])
    assert not excuse(trouble(reason, WHILE), [])


def test_what_is_idempotent_is_asked_again_when_a_proxy_goes() -> None:
    assert not excuse(trouble("502", WHILE, idempotent=True), [DRAINED])
    assert excuse(trouble("502", WHILE, idempotent=True), [KILLED])


def test_a_server_of_grpc_may_cancel_calls_as_it_ends() -> None:
    ended = Damage("one", "application", "ended", 100.0, 100.1, 103.0)
    assert excuse(trouble("cancelled", WHILE), [ended])
    assert not excuse(trouble("cancelled", AFTER), [ended])
    assert not excuse(trouble("cancelled", WHILE), [KILLED, DRAINED])


def test_without_an_application_only_what_cannot_be_kept_or_looked_into_may_fail() -> None:
    assert excuse(trouble("503", AFTER, sent_bytes=LONG), [KILLED])
    assert not excuse(trouble("503", AFTER, sent_bytes=1000), [KILLED])
    assert not excuse(trouble("503", AFTER, sent_bytes=LONG), [DRAINED])
    assert excuse(trouble("cut", AFTER, relayed=True), [KILLED])
    assert not excuse(trouble("cut", AFTER), [KILLED])


def test_what_was_under_way_when_the_machine_did_something_else_may_fail_but_bytes_are_right() -> None:
    held = [(50.0, 52.0), (100.0, 101.0)]
    for reason in ("503", "504", "cut", "cancelled"):
        assert held_up(trouble(reason, WHILE), held)
        assert not held_up(trouble(reason, BEFORE), held)
        assert not held_up(trouble(reason, WHILE), [])
    for reason in ("other bytes came back", "closed"):
        assert not held_up(trouble(reason, WHILE), held)


@pytest.mark.parametrize("reason", ["504", "other bytes came back", "no whole answer in time", "closed"])
def test_nothing_else_is_excused(reason: str) -> None:
    assert not excuse(trouble(reason, WHILE, sent_bytes=LONG, relayed=True), [KILLED, DRAINED])


def test_memory_is_judged_from_the_end_of_the_warm_up_by_its_trend() -> None:
    warm = [(float(at), 1000 * at if at < 300 else 300_000) for at in range(0, 1800, 10)]
    assert memory(warm, 300.0).flat
    assert not memory(warm, 0.0).growth_bytes < 100_000
    growing = [(at, size + round(at * 2 * MAX_GROWTH_BYTES / 1500)) for at, size in warm]
    assert memory(growing, 300.0).growth_bytes == pytest.approx(2 * MAX_GROWTH_BYTES, rel=0.02)
    assert not memory(growing, 300.0).flat
    spike = [(at, size + (4 * MAX_GROWTH_BYTES if at == 1790 else 0)) for at, size in warm]
    assert memory(spike, 300.0).flat, "one sample is no trend"
