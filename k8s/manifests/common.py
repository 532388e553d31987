"""What all objects of an installation have in common: names, labels, and how strictly their containers are held."""

from typing import Final

from k8s.manifests.kinds import (
    Affinity,
    AntiAffinity,
    BudgetSpec,
    Capabilities,
    HttpGet,
    Labels,
    Metadata,
    PodDisruptionBudget,
    PodSecurityContext,
    Probe,
    SeccompProfile,
    SecurityContext,
    Selector,
    SpreadTerm,
    WeightedTerm,
)
from k8s.settings import PROXY_UID, Installation

PART_OF: Final = {"app.kubernetes.io/part-of": "meshd"}
"""On all that is installed: `kubectl get all -A -l app.kubernetes.io/part-of=meshd`, and what `uninstall` goes by."""

CONTROL_PLANE_NS: Final = "meshd.io/control-plane-ns"

ALL_FAMILIES: Final = "PreferDualStack"
"""Of Services: an address of each family that the cluster has, of one where it has one."""

HOSTNAME: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"

SETTINGS_VOLUME: Final = "settings"
SETTINGS_DIRECTORY: Final = "/etc/meshd"


def component(name: str) -> Labels:
    """What selects the pods of a component. Selectors never change, so no version is among them."""
    return {"app.kubernetes.io/name": name, **PART_OF}


EVICTED: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""The cluster's autoscaler takes no node away whose pods have something on its disk, unless they say so themselves."""


def annotations(checksum: str, *, loses_nothing: bool = True) -> Labels:
    """Of the control plane's pods: never injected, and another when what they read is. `loses_nothing`: what they have
    on their node's disk may go with it."""
    said = {EVICTED: "true"} if loses_nothing else {}
    return {"meshd.io/inject": "disabled", "meshd.io/configuration": checksum, **said}


def of_namespace(settings: Installation, name: str, labels: Labels | None = None) -> Metadata:
    """The metadata of an object in the control plane's namespace."""
    return Metadata(name=name, namespace=settings.namespace, labels=PART_OF if labels is None else labels)


def of_cluster(settings: Installation, name: str) -> Metadata:
    """The metadata of an object that is in no namespace."""
    return Metadata(name=name, labels={**PART_OF, CONTROL_PLANE_NS: settings.namespace})


def unprivileged() -> SecurityContext:
    """As the pod security standard `restricted` asks, and a root file system that nobody writes to."""
    return SecurityContext(
        allow_privilege_escalation=False,
        capabilities=Capabilities(drop=["ALL"]),
        read_only_root_filesystem=True,
        run_as_non_root=True,
        run_as_user=PROXY_UID,
        run_as_group=PROXY_UID,
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )


def group() -> PodSecurityContext:
    """Volumes belong to the group that the containers run as. What a volume holds already is left alone: its keys are
    their owner's, and would otherwise become the group's each time it is mounted."""
    return PodSecurityContext(
        fs_group=PROXY_UID,
        fs_group_change_policy="OnRootMismatch",
        run_as_non_root=True,
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )


def startup(port: str) -> Probe:
    """A minute to become ready in, looked at each second."""
    return Probe(http_get=HttpGet(path="/ready", port=port), period_seconds=1, failure_threshold=60)


def readiness(port: str) -> Probe:
    return Probe(http_get=HttpGet(path="/ready", port=port), period_seconds=5, timeout_seconds=3)


def liveness(port: str) -> Probe:
    """Restarted after half a minute of silence, and never for what is away: a new process would not have it either."""
    return Probe(http_get=HttpGet(path="/live", port=port), period_seconds=10, timeout_seconds=5, failure_threshold=3)


def apart(name: str) -> Affinity:
    """Never two pods of a component on a node, and in zones of their own where there are several."""
    selector = Selector(match_labels=component(name))
    return Affinity(
        pod_anti_affinity=AntiAffinity(
            preferred_during_scheduling_ignored_during_execution=[
                WeightedTerm(weight=100, pod_affinity_term=SpreadTerm(label_selector=selector, topology_key=ZONE))
            ],
            required_during_scheduling_ignored_during_execution=[
                SpreadTerm(label_selector=selector, topology_key=HOSTNAME)
            ],
        )
    )


def budget(settings: Installation, name: str) -> PodDisruptionBudget:
    """One pod of a component at a time may be evicted."""
    labels = component(name)
    return PodDisruptionBudget(
        api_version="policy/v1",
        kind="PodDisruptionBudget",
        metadata=of_namespace(settings, name, labels),
        spec=BudgetSpec(max_unavailable=1, selector=Selector(match_labels=labels)),
    )
