"""The verbs of the command line: where each is, and what it is listed with.

What a verb is listed with stands here besides in its own help, so that none is imported to list them all: together
they need nearly everything that there is. A test holds the two together.
"""

from importlib import import_module
from typing import Final, NamedTuple

import click
from click.shell_completion import CompletionItem


class Verb(NamedTuple):
    """The module whose `command` it is, and the first sentence of that command's help."""

    module: str
    summary: str


VERBS: Final = {
    "agent": Verb("meshd.cli.agent", "Run the agent of this host."),
    "ca": Verb("meshd.cli.ca", "The certificate authority of a trust domain."),
    "capture": Verb(
        "meshd.cli.capture",
        "Show, apply or remove what leads connections of meshed processes to this host's proxy.",
    ),
    "check": Verb(
        "meshd.cli.check",
        "Check this host: configuration, agent, system, clock, ports, discovery, names, certificates, CA, capture, "
        "proxy.",
    ),
    "completion": Verb("meshd.cli.completion", "Print the completion script of SHELL."),
    "controller": Verb("k8s.cli.controller", "Serve the sidecars of a cluster."),
    "demo": Verb(
        "meshd.cli.demo",
        "Run a small mesh and show it working: a CA, an agent, and three workloads that call each other.",
    ),
    "diagnostics": Verb("meshd.cli.diagnostics", "Look into the agent: what it goes by, and why."),
    "endpoints": Verb(
        "meshd.cli.endpoints",
        "Show where each SERVICE is: its endpoints, who says so, how old that is, and how callers on this host fare.",
    ),
    "identity": Verb(
        "meshd.cli.identity",
        "Print the certificates of this host's workloads, or of WORKLOAD (NAME or NAMESPACE/NAME) alone.",
    ),
    "inject": Verb(
        "meshd.cli.inject",
        "Put UNIT, a service of systemd, into the mesh; or the workloads of Kubernetes manifests, on standard output.",
    ),
    "install": Verb(
        "k8s.cli.install",
        "Print what a control plane in a cluster consists of: `meshd install | kubectl apply -f -`.",
    ),
    "join": Verb("meshd.cli.join", "Make this host a node of the mesh whose CA is at URL."),
    "names": Verb(
        "meshd.cli.names",
        "Have this host's resolver ask the agent for the mesh's names, and show which addresses services have.",
    ),
    "run": Verb(
        "meshd.cli.run",
        "Run CMD as a meshed process: with an identity, mutual TLS to and from other workloads, and metrics.",
    ),
    "services": Verb(
        "meshd.cli.services",
        "List the services that this host knows: those in documents and of its own workloads, and of registries "
        "those that somebody here asks for.",
    ),
    "status": Verb(
        "meshd.cli.status",
        "Show this host's mesh: the CA's and discovery's health, and each workload's identity and golden metrics.",
    ),
    "uninject": Verb(
        "meshd.cli.uninject",
        "Take UNIT out of the mesh: remove what `meshd inject UNIT` wrote, and the directories that it made.",
    ),
    "uninstall": Verb(
        "k8s.cli.uninstall",
        "Print all that an installation consists of: `meshd uninstall | kubectl delete -f -`.",
    ),
    "upgrade": Verb(
        "k8s.cli.upgrade",
        "Print this version's manifests for the installation in the cluster: `meshd upgrade | kubectl apply -f -`.",
    ),
    "version": Verb("meshd.cli.version", "Print the version."),
}

_LISTED: Final = click.Group(commands=[click.Command(name, help=verb.summary) for name, verb in VERBS.items()])
"""What stands for the verbs in a list."""


class Verbs(click.Group):
    """A group whose commands are imported on use: to be run, explained or completed, and not to be listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _LISTED.list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        verb = VERBS.get(cmd_name)
        return None if verb is None else import_module(verb.module).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _LISTED.format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin so; or options, which are this group's own."""
        verbs = [each for each in _LISTED.shell_complete(ctx, incomplete) if each.value in VERBS]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]
