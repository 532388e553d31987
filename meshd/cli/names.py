"""`meshd names`: the addresses of services, and the host's resolver that asks for them."""

import subprocess
from pathlib import Path

import click

from meshd.agent.settings import SETTINGS_FILE
from meshd.agent.settings_file import load_settings, usable_settings
from meshd.api.problems import Problem
from meshd.cli.output import as_document, output_option

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The agent's settings file.",
)
root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    default="/",
    show_default=True,
    help="The root of the host's files; with another, nothing is restarted.",
)

RESOLVED = "systemd-resolved.service"


@click.group()
def command() -> None:
    """Have this host's resolver ask the agent for the mesh's names, and show which addresses services have.

    The agent answers without it, at `names.listen`; but no program asks there by itself.
    """


@command.command()
@config_option
@root_option
def install(config: Path, root: Path) -> None:
    """Have the resolver ask the agent: by a drop-in of systemd-resolved, or by resolv.conf where there is none.

    Doing it again changes nothing, or what has changed in the settings. It needs root.
    """
    from meshd.agent.names import wiring  # noqa: PLC0415 - other verbs need none of it

    settings = load_settings(config)
    wanted = wiring.wanted(root, settings.names, settings.domains, settings.names.ranges(settings.trust_domain))
    if not wiring.install(root, Path(settings.state_dir), wanted):
        click.echo(f"{root / wanted.file} is as it is to be already")
        return
    click.echo(f"wrote {root / wanted.file}")
    _restart(root, wanted.kind)


@command.command()
@config_option
@root_option
def remove(config: Path, root: Path) -> None:
    """Put the resolver's configuration back exactly as it was, also where settings are not good. It needs root."""
    from meshd.agent.names import wiring  # noqa: PLC0415

    done = wiring.remove(root, Path(usable_settings(config).state_dir))
    if done is None:
        click.echo("nothing is installed")
        return
    click.echo(f"put back {root / done.file}" if done.before is not None else f"removed {root / done.file}")
    _restart(root, done.kind)


@command.command()
@config_option
@root_option
@output_option("table", "json")
def show(config: Path, root: Path, output: str) -> None:
    """Show the addresses that services have on this host, and whether its resolver asks for them.

    They are read from the agent's directory, where they are seconds after they were given.
    """
    from meshd.agent.names import store, wiring  # noqa: PLC0415
    from meshd.view.names import as_data, as_text  # noqa: PLC0415

    settings = load_settings(config)
    file = Path(settings.state_dir, store.FILE_NAME)
    try:
        given = store.read(file)
    except FileNotFoundError:
        given = ()
    except (OSError, ValueError) as error:
        raise Problem(f"{file}: cannot be read: {error}") from error
    done = wiring.installed(Path(settings.state_dir))
    asks = str(root / done.file) if done is not None and wiring.is_in_force(root, done) else ""
    listen = settings.names.listen
    if output == "json":
        click.echo(as_document(as_data(listen, settings.domains, asks, given), output), nl=False)
    else:
        click.echo(as_text(listen, settings.domains, asks, given), nl=False)


def _restart(root: Path, kind: str) -> None:
    """systemd-resolved reads its drop-ins when it starts."""
    if kind != "systemd-resolved" or root != Path("/"):
        return
    done = subprocess.run(  # noqa: S603 - words of our own
        ["systemctl", "try-restart", RESOLVED],  # noqa: S607 - root's own PATH
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise Problem(f"{RESOLVED} could not be restarted: {done.stderr.strip()}")
    click.echo(f"restarted {RESOLVED}")
