"""`meshd ca`: make a certificate authority, run it, and say who may join and what for."""

import os
import time
from contextlib import closing
from pathlib import Path

import click
import uvloop

from meshd.api.logs import log_to_stderr
from meshd.api.names import Address, InvalidName
from meshd.api.problems import Misuse
from meshd.ca import passphrase
from meshd.ca.authority import Authority
from meshd.ca.external import IssuerFiles
from meshd.ca.settings import SETTINGS_FILE, load
from meshd.cli.ca.common import config_option, passphrase_option, state_dir_option
from meshd.cli.ca.entry import entry
from meshd.cli.ca.issued import issued
from meshd.cli.ca.making import init, sign_intermediate
from meshd.cli.ca.node import node
from meshd.cli.ca.rotate import rotate
from meshd.cli.ca.status import bundle, status
from meshd.cli.ca.token import token
from meshd.cli.logs import log_level_option


@click.group()
def command() -> None:
    """The certificate authority of a trust domain."""


for each in (bundle, entry, init, issued, node, rotate, sign_intermediate, status, token):
    command.add_command(each)


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
@config_option(SETTINGS_FILE)
@passphrase_option
@log_level_option
def serve_command(
    state_dir: Path, listen: str, names: tuple[str, ...], config: Path, passphrase_file: Path | None, log_level: str
) -> None:
    """Sign for the hosts that joined, over HTTPS. Ends in order on SIGTERM."""
    from meshd.admin.ca import CaMetrics  # noqa: PLC0415 - other verbs need no HTTP server
    from meshd.admin.page import Page  # noqa: PLC0415
    from meshd.admin.server import AdminServer  # noqa: PLC0415
    from meshd.ca.server import CaServer, serve  # noqa: PLC0415

    log_to_stderr(log_level, "meshd-ca")
    try:
        address = Address.parse(listen)
    except InvalidName as error:
        raise Misuse(f"--listen {error}") from error
    settings = load(config.absolute())
    elsewhere = IssuerFiles(Path(settings.issuer.key), Path(settings.issuer.chain)) if settings.issuer.key else None
    secret = passphrase.read(passphrase_file, os.environ)
    authority = Authority.open(
        state_dir.absolute(), time.time(), passphrase=secret, external=elsewhere, store=settings.store
    )
    with closing(authority):
        server, admin = CaServer(authority, address, names, settings=settings), settings.admin_address
        page = Page(CaMetrics(authority, server))
        beside = [] if admin is None else [AdminServer(admin, page, server.waiting_for, blocks=True)]
        uvloop.run(serve(server, authority.trust_domain, beside))
