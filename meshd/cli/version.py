"""`meshd version`."""

import click

from meshd import __version__


@click.command()
@click.option("--short", is_flag=True, help="Print the number alone.")
def command(short: bool) -> None:
    """Print the version."""
    click.echo(__version__ if short else f"meshd {__version__}")
