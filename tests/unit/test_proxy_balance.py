"""Peak EWMA and the power of two choices: time and chance are arguments, so each case is exact."""

import random
from collections import Counter
from math import e

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.balance import DECAY_S, DEFAULT_RTT_S, MOST_COMPARED, PeakEwma, pick, pick_least


def test_before_any_answer_the_estimate_is_the_default() -> None:
    assert PeakEwma(5.0).estimate(5.0) == DEFAULT_RTT_S


def test_a_slow_answer_counts_at_once_and_a_fast_one_slowly() -> None:
    ewma = PeakEwma(0.0)
    ewma.observe(2.0, 0.0)
    assert ewma.estimate(0.0) == 2.0
    ewma.observe(0.1, DECAY_S)
    assert ewma.estimate(DECAY_S) == pytest.approx(2.0 / e + 0.1 * (1 - 1 / e))


def test_an_idle_endpoint_drifts_back_to_being_tried() -> None:
    ewma = PeakEwma(0.0)
    ewma.observe(2.0, 0.0)
    assert ewma.estimate(DECAY_S) == pytest.approx(2.0 / e)
    assert ewma.estimate(20 * DECAY_S) < 1e-8


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), max_size=20))
def test_the_estimate_is_never_above_the_slowest_answer(samples: list[tuple[float, float]]) -> None:
    ewma = PeakEwma(0.0)
    now, slowest = 0.0, DEFAULT_RTT_S
    for rtt, later in samples:
        now += later
        slowest = max(slowest, rtt)
        ewma.observe(rtt, now)
        assert 0.0 <= ewma.estimate(now) <= slowest * (1 + 1e-9)


def test_load_is_the_estimate_times_what_is_pending() -> None:
    ewma = PeakEwma(0.0)
    ewma.pending = 3
    assert ewma.load(0.0) == pytest.approx(DEFAULT_RTT_S * 4)


class At:
    """A fixed load."""

    def __init__(self, load: float, connections: float = 0.0) -> None:
        self._load, self._connections = load, connections

    def load(self, now: float) -> float:
        return self._load

    def connections(self) -> float:
        return self._connections


def test_the_less_loaded_of_the_two_drawn_is_picked() -> None:
    one, two, three = At(1.0), At(2.0), At(3.0)
    draws = iter([0.99, 0.5])
    assert pick([one, two, three], 0.0, lambda: next(draws)) is two
    draws = iter([0.0, 0.0])
    assert pick([one, two, three], 0.0, lambda: next(draws)) is one


def test_with_one_there_is_no_choice() -> None:
    only = At(9.0)
    assert pick([only], 0.0, lambda: 1 / 0) is only


def test_the_two_drawn_differ_so_the_most_loaded_of_all_is_never_picked() -> None:
    chance = random.Random(7)
    ready = [At(float(load)) for load in range(1, 5)]
    picked = Counter(ready.index(pick(ready, 0.0, chance.random)) for _ in range(6000))
    # Of the 6 pairs of four, 3 have the first as the lesser, 2 the second, 1 the third.
    assert picked[3] == 0
    assert [picked[index] / 6000 for index in range(3)] == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.03)


def test_equals_share_alike() -> None:
    chance = random.Random(7)
    ready = [At(1.0, 1.0) for _ in range(4)]
    requests = Counter(ready.index(pick(ready, 0.0, chance.random)) for _ in range(4000))
    connections = Counter(ready.index(pick_least(ready, chance.random)) for _ in range(4000))
    assert all(800 < picked[index] < 1200 for picked in (requests, connections) for index in range(4))


@pytest.mark.parametrize("chance", [0.0, 0.4, 0.99])
def test_the_endpoint_with_the_fewest_connections_is_picked(chance: float) -> None:
    ready = [At(0.0, 3.0), At(0.0, 1.0), At(0.0, 2.0)]
    assert pick_least(ready, lambda: chance) is ready[1]


class Counted(At):
    """Counts how often any of them was looked at."""

    looks = 0

    def load(self, now: float) -> float:
        Counted.looks += 1
        return super().load(now)

    def connections(self) -> float:
        Counted.looks += 1
        return super().connections()


def test_a_pick_costs_the_same_of_ten_thousand() -> None:
    ready = [Counted(1.0, number) for number in range(10_000)]
    chance = random.Random(7)
    Counted.looks = 0
    pick(ready, 0.0, chance.random)
    assert Counted.looks == 2
    Counted.looks = 0
    picked = [pick_least(ready, chance.random) for _ in range(100)]
    assert Counted.looks == 100 * MOST_COMPARED
    assert sum(each.connections() < 1000 for each in picked) > 90, "of the best tenth"
