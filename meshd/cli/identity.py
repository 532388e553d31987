"""`meshd identity`: the certificates that the proxies of this host present for its workloads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from meshd.api.control import GetStatus, Status, WorkloadStatus
from meshd.api.names import Address, Identity, InvalidName, WorkloadName
from meshd.api.problems import Misuse, Problem
from meshd.cli.options import socket_option
from meshd.cli.output import as_document, output_option
from meshd.client import sockets
from meshd.client.connection import ask

if TYPE_CHECKING:
    from cryptography import x509


@click.command()
@click.argument("workload", required=False)
@output_option("text", "json", text="How to print them.")
@socket_option
def command(workload: str | None, output: str, socket: Path | None) -> None:
    """Print the certificates of this host's workloads, or of WORKLOAD (NAME or NAMESPACE/NAME) alone.

    Each is what the workload's proxy presents at this moment to those who connect.

    Exit status: 0 when each workload asked for presents one, 1 when one does not or none is here.
    """
    from meshd.view.certificate import as_data, as_text  # noqa: PLC0415 - other verbs need no X.509

    found = _chosen(uvloop.run(ask(sockets.find(socket, os.environ), GetStatus(), Status)), workload)
    certificates = [(each, _presented(each)) for each in found]
    if output == "json":
        rows = [
            {"workload": f"{each.namespace}/{each.name}", "identity": each.identity, "pid": each.pid}
            | ({"error": str(shown)} if isinstance(shown, Problem) else as_data(shown))
            for each, shown in certificates
        ]
        click.echo(as_document(rows, output), nl=False)
    else:
        for number, (each, shown) in enumerate(certificates, 1):
            click.echo(f"WORKLOAD {each.namespace}/{each.name} ({number} of {len(found)})\n")
            click.echo(f"{shown}\n" if isinstance(shown, Problem) else as_text(shown))
    if any(isinstance(shown, Problem) for _, shown in certificates):
        raise SystemExit(Problem.exit_status)


def _chosen(status: Status, workload: str | None) -> list[WorkloadStatus]:
    if workload is None:
        if not status.workloads:
            raise Problem("this host has no workload: see `meshd status`")
        return list(status.workloads)
    try:
        wanted = WorkloadName.parse(workload)
    except InvalidName as error:
        raise Misuse(str(error)) from error
    found = [each for each in status.workloads if (each.namespace, each.name) == wanted]
    if not found:
        raise Problem(f"{wanted} is not a workload of this host: see `meshd status`")
    return found


def _presented(workload: WorkloadStatus) -> "x509.Certificate | Problem":
    from meshd.client.presented import presented  # noqa: PLC0415

    listener = Address.parse(workload.inbound)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104 - of a listener
    try:
        return presented(listener._replace(host=host), Identity.parse(workload.identity).server_name)
    except Problem as problem:
        return problem
