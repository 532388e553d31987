"""`meshd ca entry`: which nodes may have certificates for which workloads."""

from pathlib import Path

import click

from meshd.ca.registrar import Registrar
from meshd.cli.ca.common import ago, output_option, show, state_dir_option


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
@state_dir_option
def add(node: str, workloads: tuple[str, ...], state_dir: Path) -> None:
    """Let a node have certificates for workloads. It need not have joined yet."""
    with Registrar.at(state_dir.absolute()) as registrar:
        for made in registrar.add_entries(node, workloads):
            click.echo(f"{made.id}: {made.node} may have {made.workload}")


@entry.command("list")
@output_option
@state_dir_option
def list_command(output: str, state_dir: Path) -> None:
    """List the entries, those that came with join tokens too."""
    with Registrar.at(state_dir.absolute()) as registrar:
        entries = registrar.store.entries()
    rows = [(each.id, each.node, each.workload, each.origin.replace(" ", ":"), ago(each.made_at)) for each in entries]
    show(output, [each._asdict() for each in entries], ("ID", "NODE", "WORKLOAD", "ORIGIN", "AGE"), rows)


@entry.command("remove")
@click.argument("entry_id", metavar="ID")
@state_dir_option
def remove(entry_id: str, state_dir: Path) -> None:
    """Give no more certificates because of the entry. Those that are out stay good until they expire."""
    with Registrar.at(state_dir.absolute()) as registrar:
        registrar.remove_entry(entry_id)
