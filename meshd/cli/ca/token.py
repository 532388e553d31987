"""`meshd ca token`: what new hosts join with."""

import time

import click

from meshd.ca.records import JoinToken
from meshd.ca.registrar import LONGEST_TTL_S
from meshd.cli.ca.common import Place, ago, list_option, show, store_options
from meshd.cli.durations import Duration
from meshd.view.figures import span


@click.group()
def token() -> None:
    """What new hosts join the mesh with (`meshd join`)."""


@token.command("create")
@click.option(
    "--node",
    default="*",
    show_default=True,
    metavar="NAME|PATTERN",
    help="The node that may join, or a pattern. With a pattern, only nodes that have not joined before.",
)
@click.option("--uses", type=int, default=1, show_default=True, help="How many nodes may join with it.")
@click.option(
    "--ttl", type=Duration(least_s=1, most_s=LONGEST_TTL_S), default="1h", show_default=True, help="For how long."
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NS/NAME|PATTERN",
    help="What such a node may have certificates for; repeatable, and never left out: '*/*' is everything.",
)
@store_options
def create(node: str, uses: int, ttl: float, workloads: tuple[str, ...], at: Place) -> None:
    """Make a join token, and print it: it is kept nowhere else.

    Who has it can join a host to the mesh. What it is good for goes to standard error.
    """
    with at.registrar() as registrar:
        text, made = registrar.create_token(node, workloads, uses, ttl)
    click.echo(text)
    click.echo(_said(made, ttl), err=True)


@token.command("list")
@list_option
@store_options
def list_command(output: str, at: Place) -> None:
    """List the join tokens, without their secrets; those that expired are listed for 30 days."""
    now = time.time()
    with at.registrar() as registrar:
        tokens = registrar.store.join_tokens()
    heading = ("ID", "STATE", "NODE", "USED", "EXPIRES", "WORKLOADS")
    rows = [
        (each.id, each.state(now).replace(" ", "-"), each.node, f"{each.used}/{each.uses}", _expires(each, now),
         ",".join(each.workloads), ago(each.made_at))
        for each in tokens
    ]  # fmt: skip
    if output == "wide":
        heading = (*heading, "AGE")  # type: ignore[assignment]
    show(output, [_data(each, now) for each in tokens], heading, [row[: len(heading)] for row in rows])


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@store_options
def revoke(token_id: str, at: Place) -> None:
    """Let no node join with the token any more. Those that did stay: see `meshd ca issued revoke --node`."""
    with at.registrar() as registrar:
        registrar.revoke_token(token_id)


def _said(made: JoinToken, ttl_s: float) -> str:
    often = "once" if made.uses == 1 else f"{made.uses} times"
    return (
        f"join token {made.id}: good {often} within {span(ttl_s)}, for the node {made.node}, which may then have "
        f"certificates for {', '.join(made.workloads)}. On that host:\n"
        "  meshd join https://THIS-CA:4180 --token TOKEN"
    )


def _expires(each: JoinToken, now: float) -> str:
    return span(each.expires_at - now) if each.expires_at > now else f"{ago(each.expires_at)}-ago"


def _data(each: JoinToken, now: float) -> dict[str, object]:
    data = {**each._asdict(), "workloads": list(each.workloads), "state": each.state(now)}
    del data["secret_hash"]
    return data
