"""Figures in tables."""

import pytest

from meshd.view import figures
from meshd.view.tables import table


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, "-"), (1.0, "100.00%"), (0.99999, "99.99%"), (0.57, "57.00%"), (0.0, "0.00%"), (0.123456, "12.34%")],
)
def test_a_success_rate_is_all_only_when_it_is_all(rate: float | None, text: str) -> None:
    assert figures.success_rate(rate) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "-"),
        (0.04, "0.0ms"),
        (0.55, "0.6ms"),
        (9.94, "9.9ms"),
        (9.96, "10ms"),
        (12.6, "13ms"),
        (5000.0, "5000ms"),
    ],
)
def test_a_latency_keeps_a_decimal_where_it_tells(ms: float | None, text: str) -> None:
    assert figures.latency(ms) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.9, "0s"), (12, "12s"), (90, "1m30s"), (3600, "1h0m"), (86399, "23h59m"), (273600, "3d4h")],
)
def test_a_span_has_two_units(seconds: float, text: str) -> None:
    assert figures.span(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.0, "0.0B/s"), (999.9, "999.9B/s"), (1000.0, "1.0kB/s"), (2_500_000.0, "2.5MB/s"), (7e12, "7000.0GB/s")],
)
def test_a_byte_rate_has_a_unit(per_second: float, text: str) -> None:
    assert figures.byte_rate(per_second) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("NAME", "RPS"), [("web", "1.0rps"), ("storage", "-")]) == [
        "NAME     RPS",
        "web      1.0rps",
        "storage  -",
    ]
