"""`meshd check`: whether this host can take part in its mesh, and what is going to be wrong soon."""

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE
from meshd.api.problems import Problem
from meshd.cli.durations import Duration

if TYPE_CHECKING:
    from meshd.agent.check.kinds import Check

AGAIN_S = 1.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The agent's settings file. Default: {SETTINGS_FILE}")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print it."
)
@click.option("--pre", is_flag=True, help="Look at the host alone, as before anything is installed.")
@click.option(
    "--wait",
    "wait_s",
    type=Duration(most_s=86400.0),
    default="0s",
    show_default=True,
    help="Look again for as long as something is wrong, this long at most; then say how it is.",
)
def command(config: Path | None, output: str, pre: bool, wait_s: float) -> None:
    """Check this host: configuration, agent, system, clock, ports, discovery, names, certificates, CA, capture, proxy.

    Each workload here is asked for something by mutual TLS, through the proxy, of which its application hears nothing.
    Run it as root, or as the agent's user, which can read what only that may. Where there are no settings, the agent of
    `meshd run` is looked at, and nothing else. Nothing is changed.

    With --pre: whether meshd could run here, by systemd, control groups, what the kernel can filter, ports, resolver,
    clock and room.

    Exit status: 0 when nothing is wrong (warnings, ‼, are what will be), 1 when something is (×).
    """
    from meshd.view.check import as_data, as_text, is_well  # noqa: PLC0415 - other verbs need no X.509

    logging.disable()  # what is wrong is printed
    until = time.monotonic() + wait_s
    found = _found(config, pre)
    while not is_well(found) and time.monotonic() < until:
        time.sleep(AGAIN_S)
        found = _found(config, pre)
    click.echo(json.dumps(as_data(found), indent=2) + "\n" if output == "json" else as_text(found), nl=False)
    if not is_well(found):
        raise SystemExit(Problem.exit_status)


def _found(config: Path | None, pre: bool) -> "list[Check]":
    from meshd.agent.check import host, whole  # noqa: PLC0415

    if pre:
        return [*host.before_install()]
    file = config or Path(SETTINGS_FILE)
    return uvloop.run(whole.embedded() if config is None and not file.exists() else whole.whole(file.absolute()))
