"""`meshd check`: whether this host can take part in its mesh, and what is going to be wrong soon."""

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE, Settings
from meshd.agent.settings_file import load_settings
from meshd.api.control import GetStatus, Status
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Problem
from meshd.client import sockets
from meshd.client.connection import ControlConnection

if TYPE_CHECKING:
    from meshd.agent.checks import Check


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The agent's settings file. Default: {SETTINGS_FILE}")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print it."
)
@click.option("--pre", is_flag=True, help="Look at the host alone, as before anything is installed.")
def command(config: Path | None, output: str, pre: bool) -> None:
    """Check this host: its configuration, the agent, discovery, roots, issuer and certificates, the CA, and capture.

    Run it as root, or as the agent's user, which can read what only that may. Where there are no settings, the agent of
    `meshd run` is looked at, and nothing else. Nothing is changed.

    With --pre: whether meshd could run here, by systemd, control groups, what the kernel can filter, and ports.

    Exit status: 0 when nothing is wrong (warnings, ‼, are what will be), 1 when something is (×).
    """
    from meshd.view.check import as_data, as_text, is_well  # noqa: PLC0415 - other verbs need no X.509

    logging.disable()  # what is wrong is printed
    file = config or Path(SETTINGS_FILE)
    if pre:
        from meshd.agent.ground import before_install  # noqa: PLC0415

        found = [*before_install()]
    else:
        found = uvloop.run(_embedded() if config is None and not file.exists() else _host(file.absolute()))
    click.echo(json.dumps(as_data(found), indent=2) + "\n" if output == "json" else as_text(found), nl=False)
    if not is_well(found):
        raise SystemExit(Problem.exit_status)


async def _host(file: Path) -> "list[Check]":
    from meshd.agent import checks  # noqa: PLC0415
    from meshd.agent.names import checking  # noqa: PLC0415

    found = [*checks.configuration(file)]
    try:
        settings = load_settings(file)
        status = await _status(Path(settings.socket))
        found += _agent(status)
        trust = checks.trust_in_force(settings, file)
    except ConfigurationError:  # the first check has said so
        return found
    except Problem as problem:
        what = "meshd-identity", "what the CA said last of its roots can be read"
        return [*found, checks.Check(*what, "error", str(problem))]
    found += await asyncio.to_thread(lambda: [*checking.checks(settings)])
    found += checks.identity(settings, trust.bundle_pem, time.time())
    workloads = () if isinstance(status, Problem) else status.workloads
    found += checks.denials(settings, trust.denied, (each.identity for each in workloads))
    found += await checks.authority(settings, trust.bundle_pem)
    found += _capture(file, settings)
    return found


def _capture(file: Path, settings: Settings) -> "list[Check]":
    """What leads connections to the proxy, and the units that are meshed."""
    from meshd.agent import ground, injecting  # noqa: PLC0415

    documents = injecting.documents_of(file, settings)
    return [*ground.capture(settings, documents.captured(), injecting.Places.of(file, settings), injecting.Systemctl())]


async def _embedded() -> "list[Check]":
    return _agent(await _status(None))


def _agent(status: Status | Problem) -> "list[Check]":
    """What the agent says of itself and of discovery."""
    from meshd.agent import checks  # noqa: PLC0415

    now = time.time()
    found = [*checks.agent(status, now)]
    return found if isinstance(status, Problem) else [*found, *checks.discovery(status, now)]


async def _status(socket: Path | None) -> Status | Problem:
    try:
        connection = await ControlConnection.connect(sockets.find(socket, os.environ))
    except Problem as problem:
        return problem
    try:
        return await connection.call(GetStatus(), Status)
    except Problem as problem:
        return problem
    finally:
        await connection.close()
