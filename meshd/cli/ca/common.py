"""What the verbs of `meshd ca` have in common: where the CA is, and how lists are shown."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

import click

from meshd.ca.registrar import Registrar
from meshd.ca.settings import SETTINGS_FILE, load
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.view.figures import span
from meshd.view.tables import table

F = TypeVar("F", bound=Callable[..., object])

STATE_DIR: Final = "/var/lib/meshd-ca"


def state_dir_option(function: F) -> F:
    """--state-dir DIR, as `state_dir`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        default=STATE_DIR,
        show_default=True,
        help="Where the CA's keys and its database are.",
    )(function)


class Place(NamedTuple):
    """Which CA a command is for: its directory, and the settings that say where its store is."""

    state_dir: Path
    config: Path

    def registrar(self) -> AbstractContextManager[Registrar]:
        """Acts on that CA's store, for who runs this."""
        return Registrar.at(self.state_dir, store=load(self.config).store)


def store_options(function: F) -> F:
    """--state-dir DIR and --config FILE, together as `at`."""

    @config_option(SETTINGS_FILE)
    @state_dir_option
    @wraps(function)
    def wrapped(*args: Any, state_dir: Path, config: Path, **others: Any) -> object:
        return function(*args, at=Place(state_dir.absolute(), config.absolute()), **others)

    return cast(F, wrapped)


def config_option(default: str) -> Callable[[F], F]:
    """--config FILE, as `config`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        help="The CA's settings; there need be none at the usual place.",
    )


def passphrase_option(function: F) -> F:
    """--passphrase-file FILE, as `passphrase_file`."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        help="What the CA's keys are encrypted with. Default: systemd's credential meshd-ca-passphrase, if any.",
    )(function)


list_option = output_option("table", "wide", "json", "yaml", text="wide is table with every column there is.")
"""-o FORM for lists, as `output`."""


def show(output: str, records: Sequence[dict[str, Any]], heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a list as `-o` asked for it: its records as data, or its rows as a table."""
    if output in DOCUMENTS:
        click.echo(as_document(list(records), output), nl=False)
    else:
        click.echo("\n".join(table(heading, rows)))


def ago(then: float) -> str:
    """How long since: `3d4h`."""
    return span(time.time() - then)
