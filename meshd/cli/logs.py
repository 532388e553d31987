"""`--log-level`, which the daemons have."""

from collections.abc import Callable
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

LEVELS = ("debug", "info", "warning", "error")


def log_level_option(function: F) -> F:
    """--log-level LEVEL, as `log_level`."""
    return click.option(
        "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What is logged, and above."
    )(function)
