"""`meshd capture`: what of this host's traffic is led to its proxy, and that by hand which the agent does by itself."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE, Settings
from meshd.agent.settings_file import load_settings, usable_settings
from meshd.api.problems import Misuse, Problem
from meshd.cli.durations import Duration
from meshd.cli.output import as_document, output_option

if TYPE_CHECKING:
    from meshd.agent.capturing import Planned

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The agent's settings file.",
)


@click.group()
def command() -> None:
    """Show, apply or remove what leads connections of meshed processes to this host's proxy.

    The agent keeps it in force; `apply` is for while it does not run. All of it needs root.
    """
    logging.disable()  # what is wrong is printed


@command.command()
@config_option
@output_option("table", "json")
@click.option("--rules", is_flag=True, help="Print the table of nftables that settings and documents come to.")
def show(config: Path, output: str, rules: bool) -> None:
    """Show what is captured, for whom, whether that is in force, and how many connections there were.

    Documents in files are looked at; what others say is the agent's to know.

    Exit status: 0 when what is configured is in force, 1 when it is not.
    """
    from meshd.capture import nft, table  # noqa: PLC0415 - other verbs need none of it
    from meshd.view.capture import Shown, as_data, as_text  # noqa: PLC0415

    settings = load_settings(config)
    planned = _planned(config, settings)
    if rules:
        click.echo(table.declared(planned.plan), nl=False)
        return
    found = nft.in_force()
    shown = Shown(settings.capture, planned.plan, planned.troubles, found, nft.counted() if found else {})
    click.echo(as_document(as_data(shown), output) if output == "json" else as_text(shown), nl=False)
    if not shown.is_as_configured:
        raise SystemExit(Problem.exit_status)


@command.command()
@config_option
def apply(config: Path) -> None:
    """Put in force what settings and the documents in files say, in one transaction.

    Where it is in force already nothing is changed. The agent does this when it starts, and after every change.
    """
    from meshd.capture import nft, table  # noqa: PLC0415

    planned = _planned(config, load_settings(config))
    for trouble in planned.troubles:
        click.echo(f"meshd: {trouble}", err=True)
    found = nft.in_force()
    if planned.plan.is_empty:
        click.echo("there is nobody to capture" + (": the table is removed" if nft.remove() else ""))
    elif found is not None and found.digest == table.digest(planned.plan):
        click.echo(f"{table.TABLE} is in force already")
    else:
        nft.apply(table.render(planned.plan))
        click.echo(f"{table.TABLE} is in force")


@command.command()
@config_option
def remove(config: Path) -> None:
    """Remove the table of nftables: nothing is led to the proxy any more. Open connections go on through it.

    An agent that runs would put it back: set `capture: {enabled: false}` and restart it, or stop it first. Settings
    that are not good are no reason to leave it there.
    """
    from meshd.agent.listening import answers  # noqa: PLC0415
    from meshd.capture import nft, table  # noqa: PLC0415

    settings = usable_settings(config)
    if settings.capture.enabled and answers(Path(settings.socket)):
        raise Problem(
            f"the agent at {settings.socket} would put it back: stop it first, or restart it with "
            f"`capture: {{enabled: false}}` in {config}"
        )
    click.echo(f"{table.TABLE} is removed" if nft.remove() else f"there is no {table.TABLE}")


@command.command()
@click.argument("workload")
@config_option
@click.option(
    "--timeout",
    type=Duration(),
    help="How long to wait at most. Default: `capture.startTimeout` in the settings.",
)
def wait(workload: str, config: Path, timeout: float | None) -> None:
    """Wait until WORKLOAD (NAMESPACE/NAME) is captured, and the proxy has its certificate.

    Units that `meshd inject` has put into the mesh run this before they start. It tells on standard error what it waits
    for.

    Exit status: 0 when nothing is missing; when the time is over 1, or 0 with `capture.failOpen`.
    """
    from meshd.agent import awaiting  # noqa: PLC0415
    from meshd.api.durations import parse_duration  # noqa: PLC0415
    from meshd.api.names import InvalidName, WorkloadName  # noqa: PLC0415

    try:
        name = WorkloadName.parse(workload)
    except InvalidName as error:
        raise Misuse(str(error)) from error
    settings = load_settings(config)
    within_s = parse_duration(settings.capture.start_timeout) if timeout is None else timeout

    def say(text: str) -> None:
        click.echo(f"meshd: {name}: {text}", err=True)

    missing = uvloop.run(awaiting.wait(settings, name, within_s, say))
    if not missing:
        return
    if not settings.capture.fail_open:
        raise Problem(f"{name}: not started: the mesh is not ready after {within_s:g} s: {missing}")
    say(f"the mesh is not ready after {within_s:g} s, and it starts all the same (capture.failOpen): {missing}")


def _planned(config: Path, settings: Settings) -> "Planned":
    """What settings, and documents in files, come to."""
    from meshd.agent.capturing import plan_of  # noqa: PLC0415
    from meshd.agent.injecting import documents_of  # noqa: PLC0415

    virtual = settings.names.ranges(settings.trust_domain).networks
    return plan_of(settings.capture, settings.proxy, documents_of(config, settings).captured(), virtual=virtual)
