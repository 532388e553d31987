"""`meshd check --proxy`: the pods that have sidecars, and those that should."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from k8s import installed
from k8s.checks import kinds as of
from k8s.checks.installation import why_not
from k8s.checks.kinds import Kind
from k8s.cluster import Body, Cluster
from k8s.injector import annotations as called
from k8s.injector import reasons, version_of
from k8s.installed import Found
from meshd.agent.check.kinds import Check

MAX_NAMED: Final = 10

_SPARED: Final = frozenset(("kube-system", "kube-node-lease"))


def checks(cluster: Cluster, found: Found, namespace: str) -> Iterator[Check]:
    """Of the pods in that namespace; in all when it is empty."""
    pods = [each for each in installed.meshed(cluster, found.settings.namespace, namespace) if _goes_on(each)]
    restart = "restart what they are of: `kubectl rollout restart`"
    not_ready = [(each, why) for each in pods if (why := _sidecar(each))]
    yield _all(of.SIDECARS_READY, not_ready, "see the log of meshd-proxy in them", error=True)
    version = version_of(found.settings.image)
    old = [(each, said) for each in pods if (said := _said(each, called.PROXY_VERSION)) != version]
    yield _all(of.SIDECARS_VERSION, old, restart)
    root = hashlib.sha256(found.settings.trust_anchors.encode()).hexdigest()
    other = [(each, "other trust anchors") for each in pods if _said(each, called.TRUST_ROOT) != root]
    yield _all(of.SIDECARS_TRUST, other, restart)
    without = [(each, "has none") for each in _unmeshed(cluster, found.settings.namespace, namespace)]
    yield _all(
        of.ALL_MESHED, without, f"{restart}. They started while no injector answered, or before they were to have one"
    )


def _goes_on(pod: Body) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _sidecar(pod: Body) -> str:
    """Why a pod's sidecar is not ready; empty when it is."""
    status = pod.get("status") or {}
    for each in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if each["name"] == reasons.PROXY:
            return "" if each.get("ready") else why_not(pod)
    return why_not(pod)


def _said(pod: Body, annotation: str) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(annotation, "")) or "none"


def _unmeshed(cluster: Cluster, control_plane: str, namespace: str) -> Iterator[Body]:
    """The pods that annotations ask a sidecar for, and that have none."""
    spaces = {
        each["metadata"]["name"]: each["metadata"].get("annotations") or {}
        for each in cluster.list("/api/v1/namespaces")
    }
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    for pod in cluster.list(path):
        meta = pod["metadata"]
        space = meta["namespace"]
        if space in _SPARED or space == control_plane or not _goes_on(pod) or pod["spec"].get("hostNetwork"):
            continue
        wanted, _ = reasons.asked(meta.get("annotations") or {}, spaces.get(space, {}))
        if wanted and called.CONTROL_PLANE_NS not in (meta.get("labels") or {}):
            yield pod


def _all(kind: Kind, bad: Iterable[tuple[Body, str]], hint: str, *, error: bool = False) -> Check:
    lines = [f"{each['metadata']['namespace']}/{each['metadata']['name']}: {said}" for each, said in bad]
    if not lines:
        return kind.well()
    if len(lines) > MAX_NAMED:
        lines[MAX_NAMED:] = [f"and {len(lines) - MAX_NAMED} more"]
    return kind.error("\n".join(lines), hint) if error else kind.warning("\n".join(lines), hint)
