"""`meshd diagnostics`: what an agent has inside, for when something is not as it should be."""

import os
import time
from pathlib import Path

import click
import uvloop

from meshd.api.control import Configuration, GetConfiguration
from meshd.cli.options import socket_option
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.client import sockets
from meshd.client.connection import ask
from meshd.view.configuration import as_data, as_text


@click.group()
def command() -> None:
    """Look into the agent: what it goes by, and why."""


@command.command("config")
@output_option("table", "json", "yaml")
@click.option("--whole", is_flag=True, help="With json or yaml: what the documents say, too, defaults included.")
@socket_option
def config(output: str, whole: bool, socket: Path | None) -> None:
    """Show the mesh's documents: what is in force, where each came from, and what is not in force and why.

    \b
      meshd diagnostics config
      meshd diagnostics config -o yaml --whole

    Documents are read from files, from Consul and from Kubernetes, as `discovery` in the settings says; what is read
    first in that order is believed. STATE is in-force; shadowed, where a document that goes first claims the same (BY
    says which one); or stale, where its place cannot be read now, and what was last good of it is in force. AGE is how
    long this agent has known the document to say what it says. What is refused is listed below, with the reason.

    Every user may see where documents are. What they say is for those who may declare workloads (`control.users`).

    Exit status: 0 when an agent answered, 1 when none did.
    """
    if whole and output == "table":
        raise click.UsageError("--whole is for -o json and -o yaml")
    found = uvloop.run(ask(sockets.find(socket, os.environ), GetConfiguration(whole), Configuration))
    click.echo(render(found, output, time.time()), nl=False)


def render(found: Configuration, output: str, now: float) -> str:
    """The configuration as `-o` asked for it."""
    if output in DOCUMENTS:
        return as_document(as_data(found), output)
    return as_text(found, now)
