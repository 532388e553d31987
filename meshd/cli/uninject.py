"""`meshd uninject`: a systemd unit out of the mesh, or manifests of Kubernetes (`k8s.cli.injecting`)."""

import logging
import os
from pathlib import Path

import click

from meshd.agent.settings import SETTINGS_FILE
from meshd.api.problems import Misuse, Problem
from meshd.cli.inject import is_manifest


@click.command()
@click.argument("unit", metavar="[UNIT|FILE|DIRECTORY|-]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every unit that `meshd inject` put there.")
@click.option("--force", is_flag=True, help="Remove files, too, that were changed since they were written.")
@click.option("--restart", is_flag=True, help="Restart the unit, which it is meshed until.")
@click.option(
    "--config", type=click.Path(path_type=Path), default=SETTINGS_FILE, show_default=True, help="The agent's settings."
)
def command(unit: str | None, everything: bool, force: bool, restart: bool, config: Path) -> None:
    """Take UNIT out of the mesh: remove what `meshd inject UNIT` wrote, and the directories that it made.

    Until the unit is restarted its processes are still in the slice, and captured as those of no workload. What is to
    be removed is recorded beside the settings, which need not be good. With --all one that cannot be taken out, since
    its files were changed, does not keep the others in; the exit status is 1 then.

    Of Kubernetes manifests, what `meshd inject` put in is taken out, and they are printed as they were.
    """
    if unit is not None and is_manifest(unit):
        if everything or force or restart:
            raise Misuse("--all, --force and --restart are for units of systemd, and this is a manifest")
        from k8s.cli.injecting import uninject_manifests  # noqa: PLC0415 - for manifests alone

        uninject_manifests(unit)
        return
    from meshd.agent import injecting  # noqa: PLC0415
    from meshd.capture import units  # noqa: PLC0415

    logging.disable()  # what is wrong is printed
    if (unit is None) != everything:
        raise Misuse("name a unit, or give --all")
    places = injecting.Places.recorded(config.absolute())
    manager = injecting.Systemctl()
    chosen = injecting.injected(places) if unit is None else [units.full_name(unit)]
    left: list[str] = []
    for each in chosen:
        try:
            if reason := units.misnamed(each):
                raise injecting.Refused(each, [reason])
            for path in injecting.uninject(each, places, manager, force=force):
                click.echo(f"removed {path}")
            if restart:
                manager.do("try-restart", each)
        except Problem as problem:  # the others are taken out all the same
            left.append(str(problem))
        except OSError as error:
            hint = "" if os.geteuid() == 0 else ": run it as root"
            left.append(f"{each}: {error.filename}: {error.strerror}{hint}")
        else:
            click.echo(f"{each} is out of the mesh" if restart else f"restart {each}: then it is out of the mesh")
    if left:
        raise Problem("\n".join(left))
    if not chosen:
        click.echo("no unit is in the mesh by `meshd inject`")
