"""How long agents stay away from a CA that has no place for them to wait."""

import pytest

from meshd.ca.following import LONGEST_WAIT_S, SOONEST_S, Pace


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
