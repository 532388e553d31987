"""`meshd endpoints`: where services are, as discovery knows it and as the proxies of this host fare with it."""

import asyncio
import os
import time
from pathlib import Path

import click
import uvloop

from meshd.agent.registry import reachable_at
from meshd.api.control import Endpoints, GetEndpoints, GetServices, GetStatus, Services, ServiceStatus, Status
from meshd.api.names import DEFAULT_NAMESPACE, Address
from meshd.api.problems import Problem
from meshd.cli.durations import Duration
from meshd.cli.options import socket_option
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.client import sockets
from meshd.client.connection import ControlConnection, ask
from meshd.client.measured import measured
from meshd.view.endpoints import Asked, as_data, as_text, notes

MAX_AT_ONCE = 4
"""What the agent looks for at a time over one connection."""


COMPLETE_WITHIN_S = 1.0
"""How long somebody waits who has pressed the tabulator."""


def _completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's
    """The services that are known here; none where nobody says."""
    try:
        known = uvloop.run(_known(sockets.find(ctx.params.get("socket"), os.environ)))
    except (Problem, TimeoutError):
        return []
    names = dict.fromkeys(f"{each.name}.{each.namespace}:{each.port}" for each in known if each.namespace)
    return [name for name in names if name.startswith(incomplete)]


async def _known(socket: Path) -> tuple[ServiceStatus, ...]:
    async with asyncio.timeout(COMPLETE_WITHIN_S):
        return (await ask(socket, GetServices(), Services)).services


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=_completed)
@click.option(
    "-n",
    "--namespace",
    default=DEFAULT_NAMESPACE,
    show_default=True,
    help="The caller's: where a SERVICE is that names no namespace.",
)
@output_option(
    "table",
    "wide",
    "json",
    "yaml",
    text="wide adds what proxies measured, and labels; json and yaml what each source says.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(most_s=5),
    default="3s",
    show_default=True,
    help="How long a registry may take to answer; what is known by then is shown.",
)
@socket_option
def command(services: tuple[str, ...], namespace: str, output: str, wait_s: float, socket: Path | None) -> None:
    """Show where each SERVICE is: its endpoints, who says so, how old that is, and how callers on this host fare.

    A SERVICE is what an application would ask for: NAME, NAME.NAMESPACE, NAME:PORT, ADDRESS:PORT, or a name of a
    registry's own, as in web.service.consul.

    \b
      meshd endpoints web
      meshd endpoints web.shop:8080 192.0.2.5:80 -o wide
      meshd endpoints web -n shop -o json

    HEALTH is ready; stale, where its source cannot be read or no longer has it; ejected, where a proxy on this host has
    taken it out; or probing, where one tries it again. LOAD is what callers on this host balance by, the highest of
    them: the peak EWMA of its latency times what is pending; - where none of them calls it. AGE is how long ago its
    source was read.

    Nothing is followed because of this that was not before. What is wrong with sources is on standard error.

    Exit status: 0 when each SERVICE has an endpoint, 1 when one has none, is not known, or cannot be looked up.
    """
    every = uvloop.run(_ask(sockets.find(socket, os.environ), services, namespace, wait_s))
    now = time.time()
    if output in DOCUMENTS:
        click.echo(as_document(as_data(every, now), output), nl=False)
    else:
        click.echo(as_text(every, now, wide=output == "wide"), nl=False)
        if not any(each.said.found is not None and each.said.found.endpoints for each in every):
            click.echo("No endpoints found.", err=True)
        for note in dict.fromkeys(note for each in every for note in notes(each, now)):
            click.echo(note, err=True)
    if not all(each.said.found is not None and each.said.found.endpoints for each in every):
        raise SystemExit(Problem.exit_status)


async def _ask(socket: Path, services: tuple[str, ...], namespace: str, wait_s: float) -> list[Asked]:
    turns = asyncio.Semaphore(MAX_AT_ONCE)
    connection = await ControlConnection.connect(socket)
    try:
        status = await connection.call(GetStatus(1.0), Status)

        async def look(service: str) -> Endpoints:
            async with turns:
                return await connection.call(GetEndpoints(service, namespace, wait_s), Endpoints)

        every = await asyncio.gather(*map(look, services))
    finally:
        await connection.close()
    admins = {reachable_at(each.admin) for each in status.workloads if each.admin}
    return [await _measured(each, namespace, said, admins) for each, said in zip(services, every, strict=True)]


async def _measured(service: str, namespace: str, said: Endpoints, admins: set[Address]) -> Asked:
    if said.found is None or not said.found.endpoints:
        return Asked(service, namespace, said, {})
    return Asked(service, namespace, said, await measured(sorted(admins), str(said.found.service)))
