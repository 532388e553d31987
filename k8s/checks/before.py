"""`meshd check --pre`: whether an installation could be made in this cluster."""

from collections.abc import Iterator
from typing import Final

from k8s import installed
from k8s.checks import kinds as of
from k8s.cluster import Cluster
from meshd.agent.check.kinds import Check

MAX_NAMED: Final = 10

_CREATED: Final = (
    ("", "namespaces", False),
    ("apiextensions.k8s.io", "customresourcedefinitions", False),
    ("rbac.authorization.k8s.io", "clusterroles", False),
    ("rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", False),
    ("", "serviceaccounts", True),
    ("", "configmaps", True),
    ("", "secrets", True),
    ("", "services", True),
    ("", "persistentvolumeclaims", True),
    ("rbac.authorization.k8s.io", "roles", True),
    ("rbac.authorization.k8s.io", "rolebindings", True),
    ("apps", "deployments", True),
    ("apps", "statefulsets", True),
    ("policy", "poddisruptionbudgets", True),
)
"""(group, resource, whether it is in a namespace) of all that is installed."""

_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


def checks(cluster: Cluster, namespace: str) -> Iterator[Check]:
    yield _nothing_left(cluster, namespace)
    for group, resource, inside in _CREATED:
        where = f"{resource} in {namespace}" if inside else resource
        if cluster.may("create", group, resource, namespace if inside else ""):
            yield of.MAY_CREATE.well(where)
        else:
            yield of.MAY_CREATE.error(
                "the API server says no", "install as somebody who administers the cluster", where
            )
    yield _storage(cluster)
    yield _pod_security(cluster)


def _nothing_left(cluster: Cluster, namespace: str) -> Check:
    found = [f"{each['kind']} {each['metadata']['name']}" for each in installed.cluster_wide(cluster)]
    if cluster.get(f"/api/v1/namespaces/{namespace}") is not None:
        found.append(f"Namespace {namespace}")
    if not found:
        return of.NOTHING_LEFT.well()
    hint = (
        "`meshd upgrade` changes an installation, `meshd uninstall | kubectl delete -f -` removes what is left of one"
    )
    return of.NOTHING_LEFT.error(f"there is {', '.join(found)}", hint)


def _storage(cluster: Cluster) -> Check:
    classes = cluster.list("/apis/storage.k8s.io/v1/storageclasses")
    if any((each["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true" for each in classes):
        return of.STORAGE.well()
    names = ", ".join(each["metadata"]["name"] for each in classes) or "none"
    hint = "install with --set ca.storageClass=NAME, or --set ca.storage=kubernetes, as --ha: then without a volume"
    return of.STORAGE.warning(f"the classes there are: {names}", hint)


def _pod_security(cluster: Cluster) -> Check:
    """`meshd-init` adds NET_ADMIN, which the standards `baseline` and `restricted` do not let a pod have."""
    strict = [
        each["metadata"]["name"]
        for each in cluster.list("/api/v1/namespaces")
        if (each["metadata"].get("labels") or {}).get(_ENFORCE) in ("baseline", "restricted")
    ]
    if not strict:
        return of.POD_SECURITY.well()
    more = f" and {len(strict) - MAX_NAMED} more" if len(strict) > MAX_NAMED else ""
    said = f"pod security forbids NET_ADMIN in {', '.join(strict[:MAX_NAMED])}{more}"
    return of.POD_SECURITY.warning(said, f"label those that are to be meshed {_ENFORCE}=privileged")
