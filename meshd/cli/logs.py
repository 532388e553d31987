"""How agent and CA log: on standard error, from the level that `--log-level` says."""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from meshd.api.logs import Lines

F = TypeVar("F", bound=Callable[..., object])

LEVELS = ("debug", "info", "warning", "error")


def log_to_stderr(level: str) -> None:
    """Send what is logged from `level` (one of LEVELS) upward to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_level_option(function: F) -> F:
    """--log-level LEVEL, as `log_level`."""
    return click.option(
        "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What is logged, and above."
    )(function)
