"""`meshd ca`: make a certificate authority, run it, and say who may join and what for."""

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
from meshd.cli.ca.common import state_dir_option
from meshd.cli.ca.entry import entry
from meshd.cli.ca.token import token
from meshd.cli.logs import log_level_option, log_to_stderr


@click.group()
def command() -> None:
    """The certificate authority of a trust domain."""


command.add_command(entry)
command.add_command(token)


@command.command("init")
@click.option("--trust-domain", required=True, help="What the CA is for, as in prod.example.")
@state_dir_option
def init(trust_domain: str, state_dir: Path) -> None:
    """Make a CA: root, issuer, database, and the token that agents prove themselves with.

    What is there already is never overwritten.
    """
    state_dir = state_dir.absolute()
    Authority.create(state_dir, trust_domain, time.time(), "meshd-agent-" + secrets.token_urlsafe(32)).close()
    click.echo(_made(CaFiles(state_dir), trust_domain))


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
@log_level_option
def serve_command(state_dir: Path, listen: str, names: tuple[str, ...], log_level: str) -> None:
    """Sign for the agents that have the token, over HTTPS. Ends in order on SIGTERM."""
    from meshd.ca.server import CaServer, serve  # noqa: PLC0415 - other verbs need no HTTP server

    log_to_stderr(log_level)
    try:
        address = Address.parse(listen)
    except InvalidName as error:
        raise Misuse(f"--listen {error}") from error
    with closing(Authority.open(state_dir.absolute(), time.time())) as authority:
        uvloop.run(serve(CaServer(authority, address, names), authority.trust_domain))


def _made(files: CaFiles, trust_domain: str) -> str:
    return f"""\
A CA for the trust domain {trust_domain} is in {files.directory}:

  bundle.pem    the trust bundle: its root, for 10 years; not secret
  agent.token   what agents prove themselves with; secret
  root.key      the root's key; secret: keep a copy where this host's loss does not reach
  issuer.key    the issuer's key and certificate; renewed by the CA itself
  ca.db         what was issued

Next:

  1. Run it:          meshd ca serve --state-dir {files.directory}
                      with --name NAME for each name that hosts reach this one by
  2. To every host:   {files.bundle} as /etc/meshd/bundle.pem
                      {files.agent_token} as /var/lib/meshd/ca.token, mode 0600
  3. In its /etc/meshd/meshd.yaml:

       trustDomain: {trust_domain}
       ca: {{url: "https://NAME:4180", bundle: /etc/meshd/bundle.pem}}
"""
