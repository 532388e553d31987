"""How the daemons log: lines on standard error, one form for all, for the journal or a file to keep.

2026-03-01T10:00:00+0000 warning agent.session: refused Attach to pid 4711 of uid 1000: …
"""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

LEVELS = ("debug", "info", "warning", "error")


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        record.name = record.name.removeprefix("meshd.")
        return super().format(record)


def log_to_stderr(level: str) -> None:
    """Send what is logged from `level` (one of LEVELS) upward to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_level_option(function: F) -> F:
    """--log-level LEVEL, as `log_level`."""
    return click.option(
        "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What is logged, and above."
    )(function)
