"""Times on the command line, written with their unit: `500ms`, `10s`, `1m30s`, `2h`.

    duration = 1*( number unit ), each unit at most once and the larger before the smaller
    unit     = "h" / "m" / "s" / "ms"

`10`, `1s1m`, `-1s` and `1 s` are refused: a bare number has no unit, and the others are slips.
"""

import re
from typing import Any

import click

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?", re.ASCII)

_UNITS_S = (3600.0, 60.0, 1.0, 0.001)


def parse_duration(text: str) -> float:
    """The duration in seconds; ValueError when text is not one."""
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        raise ValueError(f"{text!r} is not a duration, as in 500ms, 10s, 1m30s or 2h")
    return sum(float(part) * unit_s for part, unit_s in zip(found.groups(), _UNITS_S, strict=True) if part)


class Duration(click.ParamType[float]):
    """A duration in seconds from `least_s` to `most_s`."""

    name = "duration"

    def __init__(self, least_s: float = 0.0, most_s: float = 365 * 86400.0) -> None:
        self._least_s = least_s
        self._most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = parse_duration(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self._least_s <= seconds <= self._most_s:
            self.fail(f"{value} is not from {self._least_s:g}s to {self._most_s:g}s", param, ctx)
        return seconds
