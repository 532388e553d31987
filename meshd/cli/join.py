"""`meshd join`: make this host a member of a mesh."""

import sys
from pathlib import Path

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE
from meshd.api.problems import Misuse, Problem

MAX_TOKEN_BYTES = 4096


@click.command()
@click.argument("url")
@click.option("--token", help="The join token, as `meshd ca token create` printed it. Others may see it in `ps`.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file that holds it instead; `-` for standard input.",
)
@click.option("--node", default="", help="This host's name in the mesh. Default: as set, else its host name.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The agent's settings file, which is written, or added to.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where the agent keeps this host's key.")
@click.option("--force", is_flag=True, help="Override settings, and a trust bundle, that say otherwise.")
def command(
    url: str, token: str | None, token_file: Path | None, node: str, config: Path, state_dir: Path | None, force: bool
) -> None:
    """Make this host a node of the mesh whose CA is at URL.

    It gets a key and a certificate of its own, the mesh's trust bundle, and settings. Running it again changes nothing.
    """
    from meshd.agent.join import Places, join  # noqa: PLC0415 - other verbs need no HTTP client
    from meshd.ca.material import when  # noqa: PLC0415

    places = Places(config.absolute(), None if state_dir is None else state_dir.absolute())
    member = uvloop.run(join(url, _token(token, token_file), node, places, force=force))
    for file in member.written:
        click.echo(f"wrote {file}")
    if member.is_new:
        click.echo(f"joined as {member.identity}, until {when(member.not_after)} and renewed by the agent\n")
        click.echo("Next: start the agent (`meshd agent`), or make one that runs read its settings again (SIGHUP).")
    else:
        click.echo(f"this host is {member.identity} already, until {when(member.not_after)}: nothing was asked for")


def _token(token: str | None, file: Path | None) -> str:
    if (token is None) == (file is None):
        raise Misuse("give the join token, with --token TOKEN or --token-file FILE")
    if token is not None or file is None:
        return token or ""
    if str(file) == "-":
        return sys.stdin.read(MAX_TOKEN_BYTES).strip()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{file}: the join token cannot be read: {error}") from error
