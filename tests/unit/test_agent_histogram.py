"""Quantiles out of buckets."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.agent.histogram import quantile

BOUNDS = (1.0, 2.0, 5.0, 10.0)
COUNTS = st.lists(st.integers(0, 1000), min_size=5, max_size=5)


@pytest.mark.parametrize(
    ("q", "counts", "value"),
    [
        (0.5, (0, 0, 0, 0, 0), None),
        (0.5, (10, 0, 0, 0, 0), 0.5),
        (1.0, (10, 0, 0, 0, 0), 1.0),
        (0.5, (5, 5, 0, 0, 0), 1.0),
        (0.75, (5, 5, 0, 0, 0), 1.5),
        (0.99, (0, 0, 100, 0, 0), 4.97),
        (0.5, (0, 0, 0, 0, 1), 10.0),
        (0.99, (98, 0, 0, 0, 2), 10.0),
        (0.0, (0, 4, 0, 0, 0), 1.0),
    ],
)
def test_interpolates_as_prometheus_does(q: float, counts: tuple[int, ...], value: float | None) -> None:
    assert quantile(q, counts, BOUNDS) == (None if value is None else pytest.approx(value))


@given(COUNTS, st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_grows_with_q_and_stays_within_the_bounds(counts: list[int], qs: list[float]) -> None:
    values = [quantile(q, counts, BOUNDS) for q in sorted(qs)]
    if not sum(counts):
        assert set(values) == {None}
        return
    known = [value for value in values if value is not None]
    assert len(known) == len(values)
    assert all(low <= high for low, high in pairwise(known))
    assert 0 <= known[0] <= known[-1] <= BOUNDS[-1]


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=200), st.sampled_from((0.5, 0.95, 0.99)))
def test_is_in_the_bucket_of_the_true_quantile(values: list[float], q: float) -> None:
    edges = (0.0, *BOUNDS)
    counts = [sum(low < value <= high for value in values) for low, high in pairwise(edges)] + [0]
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    low, high = next((low, high) for low, high in pairwise(edges) if low < true <= high)
    estimate = quantile(q, counts, BOUNDS)
    assert estimate is not None
    assert low <= estimate <= high
