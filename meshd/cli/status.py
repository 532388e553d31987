"""`meshd status`: this host, what it depends on, and its workloads.

The exit status says only whether an agent answered, so that a script can tell "no agent" (1) from what an agent has to
say; health is in the answer, and `-o json` is there to ask it.
"""

import json
import os
import time
from pathlib import Path

import click
import uvloop
import yaml

from meshd.api.control import GetStatus, Status
from meshd.cli.durations import Duration
from meshd.cli.options import socket_option
from meshd.client import sockets
from meshd.client.connection import ControlConnection
from meshd.view.status import as_data, as_text


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml"]),
    default="table",
    show_default=True,
    help="wide adds listeners, bytes and the edges between workloads.",
)
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
    status = uvloop.run(_status(sockets.find(socket, os.environ), time_window))
    click.echo(render(status, output, time.time()), nl=False)


async def _status(socket: Path, window_s: float) -> Status:
    connection = await ControlConnection.connect(socket)
    try:
        return await connection.call(GetStatus(window_s), Status)
    finally:
        await connection.close()


def render(status: Status, output: str, now: float) -> str:
    """The status as `-o` asked for it."""
    if output == "json":
        return json.dumps(as_data(status), indent=2) + "\n"
    if output == "yaml":
        return yaml.safe_dump(as_data(status), sort_keys=False, allow_unicode=True)
    return as_text(status, now, wide=output == "wide")
