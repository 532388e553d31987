"""How long agents stay away from a CA that has no place for them to wait."""

import heapq
import random

import pytest

from meshd.api.backoff import Backoff
from meshd.ca.following import LONGEST_WAIT_S, POLLS_PER_S, SOONEST_S, Pace


def kept_to(pace: Pace, agents: int) -> float:
    """What so many agents are told, when all have kept to what they were told for a minute."""
    again_s = pace.turn_away()
    for _ in range(60):
        for _ in range(round(agents / again_s)):
            again_s = pace.turn_away()
        pace.reckon(1.0)
    return pace.turn_away()


@pytest.mark.parametrize(
    ("agents", "again_s"), [(1, SOONEST_S), (150, SOONEST_S), (600, 3.0), (2000, 10.0), (10_000, LONGEST_WAIT_S)]
)
def test_all_of_them_together_come_200_times_a_second_and_each_at_least_every_20_seconds(
    agents: int, again_s: float
) -> None:
    pace = Pace()
    assert kept_to(pace, agents) == pytest.approx(again_s, rel=0.05)
    assert kept_to(pace, 0) == SOONEST_S


def test_agents_that_all_come_at_once_do_not_come_in_waves_afterwards() -> None:
    """As agents do it: each stays away for half of what it was told, at least. They are 2,000 of a CA that restarts."""
    pace, drawn = Pace(), random.Random(1)
    comes_s = [drawn.uniform(0.0, 5.0) for _ in range(2000)]
    heapq.heapify(comes_s)
    told_s, came = [], [0] * 121
    for second in range(121):
        while comes_s[0] < second:
            again_s = pace.turn_away()
            heapq.heappush(comes_s, heapq.heappop(comes_s) + Backoff(again_s, again_s, drawn.uniform).next_s())
            told_s.append(again_s)
            came[second] += 1
        pace.reckon(1.0)
    assert 12.0 < max(told_s[-4000:]) < 15.0
    assert max(came[-60:]) < 1.5 * POLLS_PER_S
