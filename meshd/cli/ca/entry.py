"""`meshd ca entry`: which nodes may have certificates for which workloads."""

import click

from meshd.cli.ca.common import Place, ago, list_option, show, store_options


@click.group()
def entry() -> None:
    """Which nodes may have certificates for which workloads."""


@entry.command("add")
@click.option("--node", required=True, metavar="NAME|PATTERN", help="The node, or a pattern of nodes.")
@click.option(
    "--workload",
    "workloads",
    required=True,
    multiple=True,
    metavar="NS/NAME|PATTERN",
    help="What it may have certificates for; repeatable.",
)
@store_options
def add(node: str, workloads: tuple[str, ...], at: Place) -> None:
    """Let a node have certificates for workloads. It need not have joined yet."""
    with at.registrar() as registrar:
        for made in registrar.add_entries(node, workloads):
            click.echo(f"{made.id}: {made.node} may have {made.workload}")


@entry.command("list")
@list_option
@store_options
def list_command(output: str, at: Place) -> None:
    """List the entries, those that came with join tokens too."""
    with at.registrar() as registrar:
        entries = registrar.store.entries()
    rows = [(each.id, each.node, each.workload, each.origin.replace(" ", ":"), ago(each.made_at)) for each in entries]
    show(output, [each._asdict() for each in entries], ("ID", "NODE", "WORKLOAD", "ORIGIN", "AGE"), rows)


@entry.command("remove")
@click.argument("entry_id", metavar="ID")
@store_options
def remove(entry_id: str, at: Place) -> None:
    """Give no more certificates because of the entry. Those that are out stay good until they expire."""
    with at.registrar() as registrar:
        registrar.remove_entry(entry_id)
