"""`meshd check`: whether this host can take part in its mesh, and what is going to be wrong soon."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE
from meshd.api.problems import Problem
from meshd.cli.durations import Duration
from meshd.cli.output import as_document, output_option
from meshd.client.sockets import answers, candidates

if TYPE_CHECKING:
    from meshd.agent.check.kinds import Check

AGAIN_S = 1.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The agent's settings file. Default: {SETTINGS_FILE}")
@output_option("table", "json")
@click.option("--pre", is_flag=True, help="Look at the host, or the cluster, as before anything is installed.")
@click.option(
    "--wait",
    "wait_s",
    type=Duration(most_s=86400.0),
    default="0s",
    show_default=True,
    help="Look again for as long as something is wrong, this long at most; then say how it is.",
)
@click.option("--host", "what", flag_value="host", help="This host alone.")
@click.option("--kubernetes", "what", flag_value="kubernetes", help="The cluster of the kubeconfig alone.")
@click.option("--proxy", is_flag=True, help="In a cluster, also the pods that have sidecars.")
@click.option("--namespace", "-n", "pods_in", default="", help="Of these, those in one namespace. Default: all.")
@click.option(
    "--control-plane-namespace", "control_plane", default="meshd", show_default=True, help="Where the installation is."
)
@click.option("--kubeconfig", default="", help="Where the cluster is. Default: $KUBECONFIG, ~/.kube/config.")
@click.option("--context", default="", help="Which context of the kubeconfig. Default: its current one.")
def command(
    config: Path | None,
    output: str,
    pre: bool,
    wait_s: float,
    what: str | None,
    proxy: bool,
    pods_in: str,
    control_plane: str,
    kubeconfig: str,
    context: str,
) -> None:
    """Check this host: configuration, agent, system, clock, ports, discovery, names, certificates, CA, capture, proxy.

    Each workload here is asked for something by mutual TLS, through the proxy, of which its application hears nothing.
    Run it as root, or as the agent's user, which can read what only that may. Where there are no settings, the agent of
    `meshd run` is looked at, and nothing else. Nothing is changed.

    With --pre: whether meshd could run here, by systemd, control groups, what the kernel can filter, ports, resolver,
    clock and room.

    Where there is no agent but a kubeconfig, the cluster is checked in place of the host: its API server, the control
    plane's pods, certificates and webhooks, and with --proxy the pods with sidecars. Where both are, the cluster's
    checks follow if the mesh is installed there.

    Exit status: 0 when nothing is wrong (warnings, ‼, are what will be), 1 when something is (×).
    """
    from meshd.view.check import as_data, as_text, is_well  # noqa: PLC0415 - other verbs need no X.509

    logging.disable()  # what is wrong is printed
    until = time.monotonic() + wait_s
    cluster = partial(
        _cluster, kubeconfig, context, control_plane, pre=pre, pods_in=pods_in if proxy or pods_in else None
    )
    look = chosen(what, config, kubeconfig, partial(_found, config, pre), cluster, pre=pre)
    found = look()
    while not is_well(found) and time.monotonic() < until:
        time.sleep(AGAIN_S)
        found = look()
    click.echo(as_document(as_data(found), output) if output == "json" else as_text(found), nl=False)
    if not is_well(found):
        raise SystemExit(Problem.exit_status)


def chosen(
    what: str | None,
    config: Path | None,
    kubeconfig: str,
    host: "Callable[[], list[Check]]",
    cluster: "Callable[..., list[Check]]",
    *,
    pre: bool,
) -> "Callable[[], list[Check]]":
    """What is to be looked at: what is asked for, else what is here."""
    from k8s.cluster import is_configured  # noqa: PLC0415 - the arrow is from there to here

    is_host = config is not None or Path(SETTINGS_FILE).exists() or any(map(answers, candidates(None, os.environ)))
    is_cluster = is_configured(kubeconfig)
    if what == "kubernetes" or (what is None and is_cluster and not is_host):
        return cluster
    if what == "host" or not is_cluster or pre:
        return host
    return lambda: [*host(), *cluster(only_if_installed=True)]


def _cluster(kubeconfig: str, context: str, control_plane: str, **how: Any) -> "list[Check]":
    from k8s.checks import whole  # noqa: PLC0415 - for those who have a cluster

    return whole(kubeconfig, context, control_plane, **how)


def _found(config: Path | None, pre: bool) -> "list[Check]":
    from meshd.agent.check import host, whole  # noqa: PLC0415

    if pre:
        return [*host.before_install()]
    file = config or Path(SETTINGS_FILE)
    return uvloop.run(whole.embedded() if config is None and not file.exists() else whole.whole(file.absolute()))
