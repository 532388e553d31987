"""`meshd ca`: make a certificate authority, run it, and say who may join and what for."""

import os
import secrets
import time
from contextlib import closing
from pathlib import Path

import click
import uvloop

from meshd.api.names import Address, InvalidName
from meshd.api.problems import Misuse
from meshd.ca.authority import Authority
from meshd.ca.files import CaFiles
from meshd.ca.passphrase import read
from meshd.ca.settings import SETTINGS_FILE, load
from meshd.cli.ca.common import passphrase_option, state_dir_option
from meshd.cli.ca.entry import entry
from meshd.cli.ca.issued import issued
from meshd.cli.ca.token import token
from meshd.cli.logs import log_level_option, log_to_stderr


@click.group()
def command() -> None:
    """The certificate authority of a trust domain."""


command.add_command(entry)
command.add_command(issued)
command.add_command(token)


@command.command("init")
@click.option("--trust-domain", required=True, help="What the CA is for, as in prod.example.")
@click.option(
    "--shared-token",
    is_flag=True,
    help="Also make a token that all agents share: who has it may have any workload's identity.",
)
@passphrase_option
@state_dir_option
def init(trust_domain: str, shared_token: bool, passphrase_file: Path | None, state_dir: Path) -> None:
    """Make a CA: root, issuer, database. Hosts then join with tokens (`meshd ca token create`).

    What is there already is never overwritten.
    """
    state_dir = state_dir.absolute()
    shared = "meshd-agent-" + secrets.token_urlsafe(32) if shared_token else ""
    passphrase = read(passphrase_file, os.environ)
    Authority.create(state_dir, trust_domain, time.time(), shared, passphrase=passphrase).close()
    click.echo(_made(CaFiles(state_dir), trust_domain, shared_token))


@command.command("serve")
@state_dir_option
@click.option(
    "--listen", default="0.0.0.0:4180", show_default=True, metavar="HOST:PORT", help="Where agents reach the CA."
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A DNS name or address that agents reach it by, besides this host's own name and localhost; repeatable.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The CA's settings; there need be none at the usual place.",
)
@passphrase_option
@log_level_option
def serve_command(
    state_dir: Path, listen: str, names: tuple[str, ...], config: Path, passphrase_file: Path | None, log_level: str
) -> None:
    """Sign for the hosts that joined, over HTTPS. Ends in order on SIGTERM."""
    from meshd.ca.server import CaServer, serve  # noqa: PLC0415 - other verbs need no HTTP server

    log_to_stderr(log_level)
    try:
        address = Address.parse(listen)
    except InvalidName as error:
        raise Misuse(f"--listen {error}") from error
    settings = load(config.absolute())
    passphrase = read(passphrase_file, os.environ)
    with closing(Authority.open(state_dir.absolute(), time.time(), passphrase=passphrase)) as authority:
        uvloop.run(serve(CaServer(authority, address, names, settings=settings), authority.trust_domain))


def _made(files: CaFiles, trust_domain: str, shared_token: bool) -> str:
    shared = """
  agent.token   a token that all agents share, for hosts that do not join: copied there as /var/lib/meshd/ca.token,
                mode 0600, beside bundle.pem as /etc/meshd/bundle.pem; secret"""
    return f"""\
A CA for the trust domain {trust_domain} is in {files.directory}:

  bundle.pem    the trust bundle: its root, for 10 years; not secret
  root.key      the root's key; secret: keep a copy where this host's loss does not reach
  issuer.key    the issuer's key and certificate; renewed by the CA itself
  ca.db         what was issued, who may join, and who may have what{shared if shared_token else ""}

Next:

  1. Run it:          meshd ca serve --state-dir {files.directory}
                      with --name NAME for each name that hosts reach this one by
  2. For each host:   meshd ca token create --state-dir {files.directory} --node HOST --workload NAMESPACE/NAME
  3. On that host:    meshd join https://NAME:4180 --token TOKEN
"""
