"""Durations on the command line, as a type for click; how they are written is in `meshd.api.durations`."""

from typing import Any

import click

from meshd.api.durations import parse_duration


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
