"""`meshd check --proxy`: the pods that have sidecars, and those that should."""

import hashlib
from collections.abc import Iterator
from itertools import permutations
from typing import Final

from cryptography import x509

from k8s import installed
from k8s.checks import kinds as of
from k8s.checks.installation import why_not
from k8s.checks.kinds import Kind
from k8s.cluster import Body, Cluster
from k8s.injector import annotations as called
from k8s.injector import reasons, version_of
from k8s.installed import Found
from meshd.agent.check.kinds import Check
from meshd.ca import certificates

MAX_NAMED: Final = 10
MAX_PERMUTED: Final = 4
"""While a root follows another there are two."""

_RESTART: Final = "restart what they are of: `kubectl rollout restart`"
_SPARED: Final = frozenset(("kube-system", "kube-node-lease"))


def checks(cluster: Cluster, found: Found, namespace: str) -> Iterator[Check]:
    """Of the pods in that namespace; in all when it is empty."""
    version = version_of(found.settings.image)
    roots = digests(found.settings.trust_anchors)
    not_ready, old, other = Named(), Named(), Named()
    for pod in installed.meshed(cluster, found.settings.namespace, namespace):
        if not _goes_on(pod):
            continue
        if why := _sidecar(pod):
            not_ready.add(pod, why)
        if (said := _said(pod, called.PROXY_VERSION)) != version:
            old.add(pod, said)
        if _said(pod, called.TRUST_ROOT) not in roots:
            other.add(pod, "other trust anchors")
    without = Named()
    for pod in _unmeshed(cluster, found.settings.namespace, namespace):
        without.add(pod, "has none")
    yield not_ready.check(of.SIDECARS_READY, "see the log of meshd-proxy in them", error=True)
    yield old.check(of.SIDECARS_VERSION, _RESTART)
    yield other.check(of.SIDECARS_TRUST, _RESTART)
    late = "They started while no injector answered, or before they were to have one"
    yield without.check(of.ALL_MESHED, f"{_RESTART}. {late}")


def digests(anchors: str) -> frozenset[str]:
    """What pods that trust these may be marked with: the injector has them from the settings, or from the CA, which
    puts the root that is in use first."""
    found = [certificates.pem(root).decode() for root in x509.load_pem_x509_certificates(anchors.encode())]
    orders = permutations(found) if len(found) <= MAX_PERMUTED else [found]
    texts = {anchors, *("".join(order) for order in orders)}
    return frozenset(hashlib.sha256(text.encode()).hexdigest() for text in texts)


class Named:
    """Pods of which something is to be said: the first of them by name, the others by their number."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = 0

    def add(self, pod: Body, said: str) -> None:
        if len(self._lines) < MAX_NAMED:
            self._lines.append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}: {said}")
        else:
            self._more += 1

    def check(self, kind: Kind, hint: str, *, error: bool = False) -> Check:
        if not self._lines:
            return kind.well()
        said = "\n".join([*self._lines, *([f"and {self._more} more"] if self._more else [])])
        return kind.error(said, hint) if error else kind.warning(said, hint)


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
    for pod in cluster.each(path):
        meta = pod["metadata"]
        space = meta["namespace"]
        if space in _SPARED or space == control_plane or not _goes_on(pod) or pod["spec"].get("hostNetwork"):
            continue
        wanted, _ = reasons.asked(meta.get("annotations") or {}, spaces.get(space, {}))
        if wanted and called.CONTROL_PLANE_NS not in (meta.get("labels") or {}):
            yield pod
