"""`meshd upgrade`: this version's manifests for an installation that is there, which keeps its settings and keys."""

import time
from pathlib import Path

import click
from cryptography import x509

from k8s import installed
from k8s.cli.options import cluster_options, identity_options, namespace_option, settings_of, settings_options
from k8s.cluster import Cluster
from k8s.installed import Found
from k8s.manifests import identity, objects
from k8s.manifests.identity import KeyMaterial
from k8s.manifests.text import as_yaml
from k8s.settings import Installation
from meshd.api.problems import Misuse, Problem
from meshd.ca.external import IssuerFiles

_ROTATE = "docs/kubernetes.md says in which steps a root follows another; --force does it all the same"


@click.command()
@namespace_option
@settings_options
@identity_options(
    anchors="Other roots that all of the mesh is to trust (PEM).",
    chain="The certificate of another issuer below them, and what is between (PEM).",
)
@click.option(
    "--root-key-file",
    "root_key",
    type=click.Path(path_type=Path),
    help="The key of a root that is trusted: a new issuer is made below it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also where certificates that are in use would no longer be trusted, or the CA would forget what it knows.",
)
@cluster_options
def command(
    namespace: str,
    values: Path | None,
    given: tuple[str, ...],
    ha: bool,
    anchors: Path | None,
    chain: Path | None,
    key: Path | None,
    root_key: Path | None,
    force: bool,
    kubeconfig: str,
    context: str,
) -> None:
    """Print this version's manifests for the installation in the cluster: `meshd upgrade | kubectl apply -f -`.

    Its settings stay, but for those that --set changes, and so do its trust anchors and its issuer. The issuer's key is
    in what is printed: let nobody read it.
    """
    with Cluster(kubeconfig, context) as cluster:
        found = installed.installation(cluster, namespace)
    if found is None:
        raise Problem(f"{cluster.url} has no installation in the namespace {namespace}: `meshd install` makes one")
    settings = settings_of(values, given, ha, found.text)
    _check_kept(found.settings, settings, force)
    keys = _keys(found, anchors, chain, key, root_key)
    if not force:
        check_trusted(found.keys, keys)
    click.echo(as_yaml(objects(settings, keys)), nl=False)


def _check_kept(before: Installation, after: Installation, force: bool) -> None:
    """Misuse when something is to change that an upgrade cannot change, or not without being forced."""
    if before.ca.storage != after.ca.storage and not force:
        raise Misuse(
            "--set ca.storage: the CA would forget which hosts joined, their entries, and what is denied, since it has "
            f"them in another place ({before.ca.storage}): note what `meshd ca issued denied` says, and give --force"
        )
    for name, was, is_now in (
        ("namespace", before.namespace, after.namespace),
        ("trustDomain", before.trust_domain, after.trust_domain),
        ("trustAnchors", before.trust_anchors, after.trust_anchors),
        ("ca.storageClass", before.ca.storage_class, after.ca.storage_class),
    ):
        if was != is_now:
            how = " but by --identity-trust-anchors-file" if name == "trustAnchors" else ""
            raise Misuse(f"--set {name}: an installation keeps what it was made with ({was[:40]!r}){how}")


def _keys(
    found: Found, anchors: Path | None, chain: Path | None, key: Path | None, root_key: Path | None
) -> KeyMaterial:
    """What the CA is to sign with. Problem when what is given does not fit."""
    now, trust_domain = time.time(), found.settings.trust_domain
    if bool(chain) != bool(key):
        raise Misuse("--identity-issuer-certificate-file and --identity-issuer-key-file go together")
    if chain is not None and root_key is not None:
        raise Misuse("--root-key-file makes an issuer, and another is given")
    kept = found.keys if anchors is None else identity.anchors_alone(anchors, trust_domain)
    if root_key is not None:
        made = identity.issue(trust_domain, identity.read_root(root_key, kept.anchors, now), now)
        return made._replace(anchors=kept.anchors)
    if chain is not None and key is not None:
        return identity.below(trust_domain, kept.anchors, "the trust anchors", IssuerFiles(key, chain), now)
    if found.lacks_issuer:
        raise Problem(
            f"Secret {found.settings.namespace}/{identity.ISSUER_SECRET}: is missing: restore it, or give another "
            "issuer (--identity-issuer-certificate-file, or --root-key-file)"
        )
    return found.keys._replace(anchors=kept.anchors)


def check_trusted(before: KeyMaterial, after: KeyMaterial) -> None:
    """Problem when peers would not trust each other for a while: pods know the anchors with which they started, and
    have certificates of the issuer of then."""
    if before.chain and not installed.roots_above(before.chain, after.anchors):
        raise Problem(f"the new trust anchors lack the root of the issuer that is in use: {_ROTATE}")
    if after.chain and after.chain != before.chain and not installed.roots_above(after.chain, before.anchors):
        raise Problem(f"the new issuer is below a root that the installation does not trust yet: {_ROTATE}")
    lost = _lost(before.anchors, after.anchors)
    if lost and not before.chain:
        raise Problem(
            f"the new trust anchors lack {', '.join(lost)}, below which the issuer that something else makes may be: "
            f"{_ROTATE}"
        )


def _lost(before: str, after: str) -> list[str]:
    """The anchors that are no more, by their names."""
    kept = set(x509.load_pem_x509_certificates(after.encode()))
    return [
        root.subject.rfc4514_string() for root in x509.load_pem_x509_certificates(before.encode()) if root not in kept
    ]
