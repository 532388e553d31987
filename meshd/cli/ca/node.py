"""`meshd ca node`: which hosts have joined."""

import time

import click

from meshd.cli.ca.common import Place, ago, list_option, show, store_options
from meshd.view.figures import span


@click.group()
def node() -> None:
    """Which hosts have joined."""


@node.command("list")
@list_option
@store_options
def list_command(output: str, at: Place) -> None:
    """List the nodes: when each joined, with what, and until when its certificate is good.

    What else a node may have is said by the entries; `meshd ca issued revoke --node` ends it.
    """
    now = time.time()
    with at.registrar() as registrar:
        nodes = registrar.store.nodes()
        denied = {each.value for each in registrar.store.denied().records if each.kind == "node"}
    states = ["denied" if each.name in denied else "good" if now < each.not_after else "expired" for each in nodes]
    rows = [
        (each.name, state, ago(each.joined_at), ago(each.renewed_at), span(each.not_after - now),
         each.origin.replace(" ", ":"))
        for each, state in zip(nodes, states, strict=True)
    ]  # fmt: skip
    data = [{**each._asdict(), "state": state} for each, state in zip(nodes, states, strict=True)]
    show(output, data, ("NODE", "STATE", "JOINED", "RENEWED", "EXPIRES", "ORIGIN"), rows)
