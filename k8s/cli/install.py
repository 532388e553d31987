"""`meshd install`: the control plane's manifests, for `kubectl apply -f -`."""

import time
from pathlib import Path

import click

from k8s import cluster as reaching
from k8s.cli.options import cluster_options, identity_options, settings_of, settings_options
from k8s.cluster import Cluster
from k8s.manifests import identity, objects
from k8s.manifests.identity import ISSUER_SECRET, KeyMaterial
from k8s.manifests.text import as_yaml
from k8s.settings import CONFIG_MAP, Installation
from meshd.api.problems import Misuse, Problem
from meshd.ca.external import IssuerFiles


@click.command()
@settings_options
@identity_options(
    anchors="The roots that all of the mesh trusts (PEM), when they are there already.",
    chain="The certificate of an issuer below them, and what is between (PEM).",
)
@click.option(
    "--identity-external-issuer",
    "external",
    is_flag=True,
    help=f"The Secret {ISSUER_SECRET} (kubernetes.io/tls) is made by something else, as cert-manager.",
)
@click.option(
    "--root-key-file",
    "root_key",
    type=click.Path(path_type=Path),
    help="Write the new root's key there, for `meshd upgrade` to renew the issuer with. Else it is kept nowhere.",
)
@click.option("--ignore-cluster", is_flag=True, help="Print, whatever the cluster has: it is not asked.")
@cluster_options
def command(
    values: Path | None,
    given: tuple[str, ...],
    ha: bool,
    anchors: Path | None,
    chain: Path | None,
    key: Path | None,
    external: bool,
    root_key: Path | None,
    ignore_cluster: bool,
    kubeconfig: str,
    context: str,
) -> None:
    """Print what a control plane in a cluster consists of: `meshd install | kubectl apply -f -`.

    Without files of its own identity, it makes a root and an issuer, whose key is in what is printed: let nobody read
    it. With them the output is always the same. The cluster is asked whether there is an installation already, whose
    keys would be lost: `meshd upgrade` keeps them.
    """
    settings = settings_of(values, given, ha)
    if not ignore_cluster and reaching.is_configured(kubeconfig):
        with Cluster(kubeconfig, context) as cluster:
            _check_none(cluster, settings)
    click.echo(as_yaml(objects(settings, _keys(settings, anchors, chain, key, external, root_key))), nl=False)


def _keys(
    settings: Installation,
    anchors: Path | None,
    chain: Path | None,
    key: Path | None,
    external: bool,
    root_key: Path | None,
) -> KeyMaterial:
    """What the CA is to sign with, by what of it is given."""
    now = time.time()
    if settings.trust_anchors:
        raise Misuse("trustAnchors: name their file with --identity-trust-anchors-file, and their issuer with it")
    if anchors is None and not (chain or key or external):
        made, root = identity.make(settings.trust_domain, now)
        if root_key is not None:
            identity.write_root_key(root_key, root)
        return made
    if root_key is not None:
        raise Misuse("--root-key-file is for a root that is made here, and another is given")
    if anchors is None:
        raise Misuse("an issuer that is given goes with --identity-trust-anchors-file")
    if external and not (chain or key):
        return identity.anchors_alone(anchors, settings.trust_domain)
    if chain is None or key is None or external:
        raise Misuse(
            "with --identity-trust-anchors-file go either --identity-issuer-certificate-file and "
            "--identity-issuer-key-file, or --identity-external-issuer"
        )
    return identity.from_files(settings.trust_domain, anchors, IssuerFiles(key, chain), now)


def _check_none(cluster: Cluster, settings: Installation) -> None:
    """Problem when there is an installation, or that cannot be known."""
    try:
        found = cluster.get(f"/api/v1/namespaces/{settings.namespace}/configmaps/{CONFIG_MAP}")
    except Problem as problem:
        raise Problem(
            f"{problem}: whether there is an installation already cannot be seen; --ignore-cluster prints all the same"
        ) from problem
    if found is not None:
        raise Problem(
            f"{cluster.url} has an installation in the namespace {settings.namespace}, and another would make its "
            "certificates worthless: `meshd upgrade` changes it"
        )
