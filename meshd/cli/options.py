"""Options that several verbs have, so that they are spelled and explained alike."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def socket_option(function: F) -> F:
    """--socket PATH: the agent to speak to, as `socket`."""
    return click.option(
        "--socket",
        type=click.Path(path_type=Path),
        help="The agent's socket. Default: $MESHD_SOCKET; the host's /run/meshd/meshd.sock; the user's own.",
    )(function)
