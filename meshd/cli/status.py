"""`meshd status`: this host, what it depends on, and its workloads.

The exit status says only whether an agent answered, so that a script can tell "no agent" (1) from what an agent has to
say; health is in the answer, and `-o json` is there to ask it.
"""

import os
import time
from pathlib import Path

import click
import uvloop

from meshd.api.control import GetStatus, Status
from meshd.cli.durations import Duration
from meshd.cli.options import socket_option
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.client import sockets
from meshd.client.connection import ask
from meshd.view.status import as_data, as_text


@click.command()
@output_option("table", "wide", "json", "yaml", text="wide adds listeners, bytes and the edges between workloads.")
@click.option(
    "-t",
    "--time-window",
    type=Duration(least_s=1, most_s=60),
    default="1m",
    show_default=True,
    help="What rates and latencies are taken over: 1s to 1m.",
)
@socket_option
def command(output: str, time_window: float, socket: Path | None) -> None:
    """Show this host's mesh: the CA's and discovery's health, and each workload's identity and golden metrics.

    Exit status: 0 when an agent answered, 1 when none did.
    """
    status = uvloop.run(ask(sockets.find(socket, os.environ), GetStatus(time_window), Status))
    click.echo(render(status, output, time.time()), nl=False)


def render(status: Status, output: str, now: float) -> str:
    """The status as `-o` asked for it."""
    if output in DOCUMENTS:
        return as_document(as_data(status), output)
    return as_text(status, now, wide=output == "wide")
