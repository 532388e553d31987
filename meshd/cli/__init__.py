"""The command line: `meshd VERB`. A verb is a module (`meshd.cli.verbs`), imported when it is asked for, so that
`meshd` starts fast."""

import atexit
import gc
import sys

import click

from meshd import __version__
from meshd.api.first import heed_as_first
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Misuse, Problem
from meshd.cli.verbs import Verbs


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="meshd")
def cli() -> None:
    """A service mesh whose unit is a process: mutual TLS, metrics and balancing on any Linux machine."""


def main() -> None:
    """The console script: runs the verb, and turns what goes wrong into one line and an exit status."""
    heed_as_first()
    atexit.register(gc.freeze)  # as it ends, Python looks for cycles in all that is left: up to 0.1 s for nothing
    try:
        cli(prog_name="meshd")
    except ConfigurationError as error:
        _fail(error, Misuse.exit_status)
    except Problem as problem:
        _fail(problem, problem.exit_status)


def _fail(error: Exception, status: int) -> None:
    for line in str(error).splitlines():
        print(f"meshd: {line}", file=sys.stderr)
    sys.exit(status)
