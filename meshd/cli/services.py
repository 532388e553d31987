"""`meshd services`: the services that are known on this host, by whom, and how old that is."""

import os
import time
from pathlib import Path

import click
import uvloop
from msgspec.structs import replace

from meshd.api.control import GetServices, Services
from meshd.cli.options import socket_option
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.client import sockets
from meshd.client.connection import ask
from meshd.view.services import as_data, as_text, notes


@click.command()
@click.option("-n", "--namespace", help="Those of one namespace. Default: all.")
@output_option(
    "table", "wide", "json", "yaml", text="wide adds when something changed last, and for how long it has been stale."
)
@socket_option
def command(namespace: str | None, output: str, socket: Path | None) -> None:
    """List the services that this host knows: those in documents and of its own workloads, and of registries those that
    somebody here asks for.

    \b
      meshd services
      meshd services -n shop -o wide
      meshd services -o json

    MESHED is how many of its endpoints have an identity, of how many. STATE is ok; stale, where its source cannot be
    read or says that nothing is left; unknown, where it is asked for and not there; or cannot-say. AGE is how long ago
    its source was read. WATCHERS are the proxies that follow it, each of their workers. A service that two sources know
    has a line for each; the first that is believed comes first.

    Exit status: 0 when an agent answered, 1 when none did.
    """
    said = uvloop.run(ask(sockets.find(socket, os.environ), GetServices(), Services))
    if namespace is not None:
        said = replace(said, services=tuple(each for each in said.services if each.namespace == namespace))
    if output in DOCUMENTS:
        click.echo(as_document(as_data(said), output), nl=False)
    else:
        click.echo(as_text(said.services, time.time(), wide=output == "wide"), nl=False)
        if not said.services:
            click.echo("No services found.", err=True)
        for note in notes(said):
            click.echo(note, err=True)
