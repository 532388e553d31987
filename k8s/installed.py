"""The installation that a cluster has, as its API server tells of it: settings, key material, and what is labelled as
part of it. Only read here."""

import base64
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography import x509

from k8s.cluster import Body, Cluster
from k8s.manifests.common import CONTROL_PLANE_NS, PART_OF
from k8s.manifests.identity import CHAIN_KEY, ISSUER_SECRET, PRIVATE_KEY, KeyMaterial
from k8s.settings import CONFIG_KEY, CONFIG_MAP, Installation
from k8s.settings_text import loaded
from meshd.api.problems import Problem
from meshd.ca.roots import is_below

SELECTOR: Final = ",".join(f"{key}={value}" for key, value in PART_OF.items())

_CLUSTER_WIDE: Final = (
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole"),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition"),
)
"""What is in no namespace, in the order in which it can go: first what pods would have to wait for."""

DEFINITION: Final = "CustomResourceDefinition"


class NotWhole(Problem):
    """An installation lacks something without which it cannot be."""


class Found(NamedTuple):
    """An installation's settings, as text and read, and what its CA signs with, as far as that is known: not where
    something else makes the issuer, nor where its Secret is missing."""

    text: str
    settings: Installation
    keys: KeyMaterial
    lacks_issuer: bool
    version: str
    """Of whose manifests were applied last."""


def installation(cluster: Cluster, namespace: str) -> Found | None:
    """The one in that namespace; None when there is none. NotWhole, or ConfigurationError."""
    where = f"/api/v1/namespaces/{namespace}"
    found = cluster.get(f"{where}/configmaps/{CONFIG_MAP}")
    if found is None:
        return None
    text = str((found.get("data") or {}).get(CONFIG_KEY, ""))
    settings = loaded(text, f"ConfigMap {namespace}/{CONFIG_MAP}: {CONFIG_KEY}")
    if not settings.trust_anchors:
        raise NotWhole(
            f"ConfigMap {namespace}/{CONFIG_MAP}: has no trust anchors: put them back (trustAnchors), from a pod's "
            "environment (MESHD_PROXY_TRUST_ANCHORS) if need be"
        )
    secret = cluster.get(f"{where}/secrets/{ISSUER_SECRET}")
    version = str((found["metadata"].get("annotations") or {}).get("meshd.io/version", ""))
    return Found(text, settings, _keys(namespace, settings, secret), secret is None, version)


def _keys(namespace: str, settings: Installation, secret: Body | None) -> KeyMaterial:
    if secret is None or not PART_OF.items() <= (secret["metadata"].get("labels") or {}).items():
        return KeyMaterial(settings.trust_anchors)
    data = secret.get("data") or {}
    try:
        chain, key = (base64.b64decode(data[name], validate=True).decode("ascii") for name in (CHAIN_KEY, PRIVATE_KEY))
        x509.load_pem_x509_certificates(chain.encode())
    except (KeyError, ValueError) as error:  # binascii's and Unicode's among them
        raise NotWhole(f"Secret {namespace}/{ISSUER_SECRET}: {CHAIN_KEY} or {PRIVATE_KEY} cannot be read") from error
    return KeyMaterial(settings.trust_anchors, chain, key)


def roots_above(chain_pem: str, anchors_pem: str) -> list[x509.Certificate]:
    """The anchors to which an issuer's chain leads."""
    chain = x509.load_pem_x509_certificates(chain_pem.encode())
    anchors = x509.load_pem_x509_certificates(anchors_pem.encode())
    return [root for root in anchors if any(is_below(each, root) for each in chain)]


def cluster_wide(cluster: Cluster) -> list[Body]:
    """What is labelled as part of an installation and in no namespace, by apiVersion, kind and name."""
    return [
        {"apiVersion": version, "kind": kind, "metadata": {"name": each["metadata"]["name"]}}
        for version, plural, kind in _CLUSTER_WIDE
        for each in cluster.list(f"/apis/{version}/{plural}", {"labelSelector": SELECTOR})
    ]


def meshed(cluster: Cluster, namespace: str, of: str = "") -> Iterator[Body]:
    """The pods that have a sidecar of the installation in that namespace; `of`: in that one alone."""
    path = f"/api/v1/namespaces/{of}/pods" if of else "/api/v1/pods"
    return cluster.each(path, {"labelSelector": f"{CONTROL_PLANE_NS}={namespace}"})
