"""An installation's settings and definitions, and the pods of its control plane."""

from collections import Counter
from collections.abc import Iterator

from k8s import crds, installed
from k8s.checks import kinds as of
from k8s.cluster import Body, Cluster
from k8s.installed import Found
from k8s.manifests.common import component
from k8s.settings import CA, CONFIG_MAP, CONTROLLER
from meshd import __version__
from meshd.agent.check.kinds import Check, Kind


def is_there(cluster: Cluster, namespace: str) -> bool:
    """Whether that namespace has an installation, whatever its state."""
    return cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}") is not None


def settings(cluster: Cluster, namespace: str) -> tuple[Found | None, list[Check]]:
    """What is installed, and what there is to say of it. ConfigurationError when it cannot be read."""
    try:
        found = installed.installation(cluster, namespace)
    except installed.NotWhole as problem:
        return None, [of.SETTINGS.error(str(problem), "put back what is missing")]
    if found is None:
        said = f"there is none in the namespace {namespace}"
        return None, [
            of.SETTINGS.error(said, "`meshd install | kubectl apply -f -`, or name it with --control-plane-namespace")
        ]
    checks = [of.SETTINGS.well()]
    if found.version == __version__:
        checks.append(of.RELEASE.well())
    else:
        said = f"it is {found.version or 'of an unknown version'}, and this is {__version__}"
        checks.append(of.RELEASE.warning(said, "`meshd upgrade | kubectl apply -f -` with the newer of the two"))
    return found, checks


def definitions(cluster: Cluster) -> Iterator[Check]:
    missing, other = [], []
    for wanted in crds.definitions():
        name = wanted["metadata"]["name"]
        found = cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        if found is None or not _is_established(found):
            missing.append(name)
        elif not _serves(found, wanted):
            other.append(name)
    hint = "`meshd upgrade | kubectl apply -f -`"
    if missing:
        yield of.DEFINITIONS.error(f"{', '.join(missing)} cannot be used", hint)
        return
    yield of.DEFINITIONS.well()
    yield of.DEFINED_SO.warning(f"{', '.join(other)}: the schema is another", hint) if other else of.DEFINED_SO.well()


def _is_established(definition: Body) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


def _serves(found: Body, wanted: Body) -> bool:
    (version,) = wanted["spec"]["versions"]
    return any(
        (each["name"], each.get("schema"), each.get("served")) == (version["name"], version["schema"], True)
        for each in found["spec"]["versions"]
    )


def control_plane(cluster: Cluster, found: Found) -> Iterator[Check]:
    """By their pods, whatever runs these."""
    namespace = found.settings.namespace
    pods = {name: _pods(cluster, namespace, name) for name in (CONTROLLER, CA)}
    yield _ready(of.CONTROLLER, pods[CONTROLLER], found.settings.replicas, namespace)
    yield _ready(of.AUTHORITY, pods[CA], found.settings.ca.replicas, namespace)
    running = [pod for each in pods.values() for pod in each]
    others = sorted({image for pod in running for image in _images(pod)} - {found.settings.image})
    if others:
        hint = "wait for their rollout (`kubectl rollout status`), or see why it does not go on"
        yield of.RUNNING.warning(f"some run {', '.join(others)} in place of {found.settings.image}", hint)
    elif running:
        yield of.RUNNING.well()
    if found.settings.high_availability:
        yield _spread([pods[CONTROLLER], pods[CA]])


def _pods(cluster: Cluster, namespace: str, name: str) -> list[Body]:
    """Those that have not come to their end."""
    selector = ",".join(f"{key}={value}" for key, value in component(name).items())
    found = cluster.list(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})
    return [each for each in found if (each.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]


def _ready(kind: Kind, pods: list[Body], wanted: int, namespace: str) -> Check:
    ready = sum(map(is_ready, pods))
    if ready >= wanted:
        return kind.well()
    why = [f"{each['metadata']['name']}: {why_not(each)}" for each in pods if not is_ready(each)]
    said = "\n".join([f"{ready} of {wanted} are", *why[:10]])
    hint = f"`kubectl -n {namespace} describe pods`, and their logs"
    return kind.warning(said, hint) if ready else kind.error(said, hint)


def is_ready(pod: Body) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def why_not(pod: Body) -> str:
    """Why a pod is not ready, as far as its status says."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = each.get("state") or {}
        for kind in ("waiting", "terminated"):
            if (reason := (state.get(kind) or {}).get("reason")) and reason not in ("Completed", "PodInitializing"):
                return f"{each['name']}: {reason}"
    for each in status.get("conditions") or ():
        if each["status"] != "True" and each.get("message"):
            return str(each["message"])[:200]
    return str(status.get("phase") or "unknown").lower()


def _images(pod: Body) -> set[str]:
    return {each["image"] for each in pod["spec"].get("containers") or ()}


def _spread(components: list[list[Body]]) -> Check:
    crowded = []
    for pods in components:
        nodes = Counter(name for each in pods if is_ready(each) and (name := each["spec"].get("nodeName")))
        crowded += [f"{count} are on {node}" for node, count in nodes.items() if count > 1]
    if not crowded:
        return of.SPREAD.well()
    return of.SPREAD.warning(", ".join(crowded), "`kubectl rollout restart` has the scheduler place them anew")
