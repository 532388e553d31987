"""Durations on the command line."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.durations import parse_duration
from meshd.cli.durations import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1m", 60.0),
        ("2h", 7200.0),
        ("1h1m1s1ms", 3661.001),
        ("1.5s", 1.5),
        ("0s", 0.0),
        ("1m500ms", 60.5),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "+1s", "1 s", "1s1m", "1m1m", "1d", "1.5m", "1S", "٣s", "inf", "1e3s", "1s\n", ".5s"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration, as in 500ms, 10s"):
        parse_duration(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(1, 999))
def test_every_mix_of_units_is_their_sum(hours: int, minutes: int, seconds: int, ms: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{ms}ms"
    assert parse_duration(text) == pytest.approx(3600 * hours + 60 * minutes + seconds + ms / 1000)


def test_the_flag_has_bounds_and_takes_a_default_in_seconds() -> None:
    kind = Duration(least_s=1, most_s=60)
    assert kind.convert("1m", None, None) == 60.0
    assert kind.convert(30.0, None, None) == 30.0
    for beyond in ("500ms", "61s"):
        with pytest.raises(click.BadParameter, match=r"is not from 1s to 60s"):
            kind.convert(beyond, None, None)
