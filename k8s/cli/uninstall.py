"""`meshd uninstall`: what an installation consists of in a cluster, for `kubectl delete -f -`."""

from collections.abc import Iterable

import click

from k8s import installed
from k8s.cli.options import cluster_options, namespace_option
from k8s.cluster import Body, Cluster
from k8s.manifests.text import as_yaml
from meshd.api.problems import Problem
from meshd.ca.objects.records import PLURAL

MAX_NAMED = 10


@click.command()
@namespace_option
@click.option(
    "--force", is_flag=True, help="Also while pods have sidecars, and documents of the mesh with their definitions."
)
@cluster_options
def command(namespace: str, force: bool, kubeconfig: str, context: str) -> None:
    """Print all that an installation consists of: `meshd uninstall | kubectl delete -f -`.

    The CA's keys and what it knows go with its namespace. Pods that have sidecars go on with the certificates that they
    have, for a day at most: they are to be uninjected first.
    """
    with Cluster(kubeconfig, context) as cluster:
        click.echo(as_yaml(_present(cluster, namespace, force)), nl=False)


def _present(cluster: Cluster, namespace: str, force: bool) -> list[Body]:
    """All that there is of the installation. Problem when there is none, or it is in use."""
    found = installed.cluster_wide(cluster)
    space = cluster.get(f"/api/v1/namespaces/{namespace}")
    if not found and space is None:
        raise Problem(f"{cluster.url} has no installation")
    if not force:
        _check_unused(installed.meshed(cluster, namespace))
        found = _without_used(cluster, found, namespace)
    if space is not None:
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    return found


def _check_unused(pods: Iterable[Body]) -> None:
    """Problem when there are pods with sidecars that are to stay."""
    staying = [each["metadata"] for each in pods if not each["metadata"].get("deletionTimestamp")]
    names = [f"{each['namespace']}/{each['name']}" for each in staying]
    if names:
        more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise Problem(
            f"{len(names)} pods have sidecars: {', '.join(names[:MAX_NAMED])}{more}: uninject and restart what they "
            "are of, or give --force"
        )


def _without_used(cluster: Cluster, found: list[Body], namespace: str) -> list[Body]:
    """found without the definitions of which there are documents, which would go with them. What the CAs of this
    installation remember goes with it anyway."""
    kept = []
    for each in found:
        name = each["metadata"]["name"]
        plural, _, group = name.partition(".")
        used = cluster.list(f"/apis/{group}/v1/{plural}") if each["kind"] == installed.DEFINITION else []
        if plural == PLURAL:
            used = [record for record in used if record["metadata"]["namespace"] != namespace]
        if used:
            click.echo(f"meshd: {name} is left, since there are such documents: --force takes them, too", err=True)
        else:
            kept.append(each)
    return kept
