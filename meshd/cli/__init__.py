"""The command line: `meshd VERB`. A verb is a module, imported when it is asked for, so that `meshd` starts fast."""

import sys
from importlib import import_module

import click

from meshd import __version__
from meshd.api.first import heed_as_first
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Misuse, Problem

VERBS = {
    "agent": "meshd.cli.agent",
    "ca": "meshd.cli.ca",
    "capture": "meshd.cli.capture",
    "check": "meshd.cli.check",
    "completion": "meshd.cli.completion",
    "controller": "k8s.cli.controller",
    "demo": "meshd.cli.demo",
    "diagnostics": "meshd.cli.diagnostics",
    "endpoints": "meshd.cli.endpoints",
    "identity": "meshd.cli.identity",
    "inject": "meshd.cli.inject",
    "install": "k8s.cli.install",
    "join": "meshd.cli.join",
    "names": "meshd.cli.names",
    "run": "meshd.cli.run",
    "services": "meshd.cli.services",
    "status": "meshd.cli.status",
    "uninject": "meshd.cli.uninject",
    "uninstall": "k8s.cli.uninstall",
    "upgrade": "k8s.cli.upgrade",
    "version": "meshd.cli.version",
}
"""Verb → the module whose `command` it is."""


class Verbs(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = VERBS.get(cmd_name)
        return None if module is None else import_module(module).command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="meshd")
def cli() -> None:
    """A service mesh whose unit is a process: mutual TLS, metrics and balancing on any Linux machine."""


def main() -> None:
    """The console script: runs the verb, and turns what goes wrong into one line and an exit status."""
    heed_as_first()
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
