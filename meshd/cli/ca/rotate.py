"""`meshd ca rotate`: one issuer, one root, one key of JWT-SVIDs after another."""

import time
from typing import Literal

import click

from meshd.api.problems import Problem
from meshd.ca.files import CaFiles
from meshd.ca.rotation import described, waits_for
from meshd.cli.ca.common import Place, store_options
from meshd.cli.durations import Duration
from meshd.cli.output import as_document, output_option

DAY_S = 86400.0


@click.group()
def rotate() -> None:
    """Put a new issuer, root or key of JWT-SVIDs in the place of the one there is.

    The CA's daemon does it, step by step; `meshd ca rotate status` says how far it is.
    """


@rotate.command("issuer")
@store_options
def issuer(at: Place) -> None:
    """Sign with a new issuer from now on. What the one before signed stays good."""
    _ask(at, "issuer", 0.0, 0.0, 0.0)


@rotate.command("root")
@click.option(
    "--settle",
    type=Duration(least_s=0.1, most_s=DAY_S),
    default="10s",
    show_default=True,
    help="How long each stage lasts at least: what agents know is to reach their proxies.",
)
@click.option(
    "--renew-within",
    type=Duration(least_s=0.1, most_s=DAY_S),
    default="5m",
    show_default=True,
    help="How long hosts have to renew what the old root vouches for, each at a time of its own.",
)
@click.option(
    "--force-after",
    type=Duration(least_s=1, most_s=30 * DAY_S),
    help="Go on after so long in a stage, though nodes are missing, which may then have to join again.",
)
@store_options
def root(settle: float, renew_within: float, force_after: float | None, at: Place) -> None:
    """Put a new root in the place of the one there is, with no failed request.

    First every node believes both, then what is in use is renewed below the new one, then the old one is withdrawn.
    """
    _ask(at, "root", settle, renew_within, force_after or 0.0)


@rotate.command("jwt")
@click.option(
    "--settle",
    type=Duration(least_s=0.1, most_s=DAY_S),
    default="1m",
    show_default=True,
    help="How long the new key is in the bundle before it signs: agents are to have heard of it.",
)
@store_options
def jwt(settle: float, at: Place) -> None:
    """Sign JWT-SVIDs with a new key. What the one before signed stays good until it expires.

    Each CA does so by itself every 30 days, a day after the new key was published. `meshd ca status` lists the keys.
    """
    with at.registrar() as registrar:
        registrar.rotate_jwt(settle)
    click.echo("the CA does it as it runs: `meshd ca status` says how far it is")


@rotate.command("status")
@output_option("text", "json")
@store_options
def status(output: str, at: Place) -> None:
    """Show how far the rotation is, and which nodes it waits for."""
    with at.registrar() as registrar:
        rotation = registrar.store.rotation()
        waiting = () if rotation is None else waits_for(rotation, registrar.store, time.time())
    if output == "json":
        data = None if rotation is None else {**rotation._asdict(), "waits_for": waiting}
        click.echo(as_document(data, output), nl=False)
    else:
        click.echo("nothing was rotated yet" if rotation is None else described(rotation, waiting))


@rotate.command("abort")
@store_options
def abort(at: Place) -> None:
    """Go back to the root that there was before. Not possible once that is withdrawn."""
    with at.registrar() as registrar:
        registrar.abort_rotation()


def _ask(
    at: Place, what: Literal["issuer", "root"], settle_s: float, renew_within_s: float, force_after_s: float
) -> None:
    if CaFiles(at.state_dir).trust_domain.exists():
        raise Problem(f"{at.state_dir}: this CA's root is elsewhere: have a new issuer, or a new root, made there")
    with at.registrar() as registrar:
        registrar.rotate(what, settle_s, renew_within_s, force_after_s)
    click.echo("the CA does it as it runs: `meshd ca rotate status` says how far it is")
