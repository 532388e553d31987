"""Why a pod is not injected, in Linkerd's words where Linkerd has the reason, and what is worth a note though it is.

Each reason is a sentence for the person who wrote the pod. `Absent` and `Disabled` are no refusals: the pod is simply
not asked for, or asked out.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from k8s.injector import annotations as called
from k8s.injector.pods import Container, Pod, PodSpec
from k8s.injector.wishes import Wishes
from meshd.api.names import is_label

HOST_NETWORK: Final = "hostNetwork is enabled"
SIDECAR: Final = "pod has a sidecar injected already"
ABSENT: Final = f'neither the namespace nor the pod have the annotation "{called.INJECT[0]}:{called.ENABLED}"'
DISABLED: Final = f'pod has the annotation "{called.INJECT[0]}:{called.DISABLED}"'
UNSUPPORTED: Final = "this resource kind is unsupported"
UDP: Final = "UDP port(s) configured on pod spec"
NO_ANCHORS: Final = "the installation has no trust anchors yet: the CA has not begun"

PROXY: Final = "meshd-proxy"
INIT: Final = "meshd-init"
SIDECARS: Final = frozenset((PROXY, INIT, "linkerd-proxy", "linkerd-init", "istio-proxy", "istio-init"))
"""Containers that capture what a pod sends, ours and those of other meshes: two in one pod would fight."""


def asked(pod: Mapping[str, str], namespace: Mapping[str, str]) -> tuple[bool, str]:
    """(whether the annotations ask for a sidecar, why not). The pod's word is above its namespace's."""
    for place, annotations in (("workload", pod), ("namespace", namespace)):
        found = called.first(called.INJECT, annotations)
        if found is None or not found.value:
            continue
        if found.value == called.ENABLED:
            return True, ""
        if found.value == called.DISABLED:
            here = place == "workload"
            return False, DISABLED if here else f'the namespace has the annotation "{found.name}:{found.value}"'
        return False, _invalid(found, place)
    return False, ABSENT


def is_refusal(why_not: str) -> bool:
    """Whether a pod that is not asked for is one by mistake."""
    return bool(why_not) and why_not not in (ABSENT, DISABLED) and not why_not.startswith("the namespace has")


def _invalid(found: called.Found, place: str) -> str:
    if found.value == called.INGRESS:
        return f'annotation "{found.name}:ingress" at {place}: there is no ingress mode: use "{called.ENABLED}"'
    found_ = f"found {found.value[:64]!r}; expected {called.ENABLED} or {called.DISABLED}"
    return f'invalid value for annotation "{found.name}" at {place}: {found_}'


def of_pod(pod: Pod) -> Iterator[str]:
    """Why no sidecar can be of use in it, whatever the settings."""
    spec = pod.spec
    if spec.host_network:
        yield HOST_NETWORK
    if has_sidecar(spec):
        yield SIDECAR
    system = spec.os.name if spec.os else (spec.node_selector or {}).get("kubernetes.io/os")
    if system == "windows":
        yield "its nodes run Windows"
    if not is_label(pod.account):
        yield (
            f"the service account {pod.account!r} is not a DNS label (a-z, 0-9 and '-'), so it cannot have an identity "
            "of the mesh"
        )


def has_sidecar(spec: PodSpec) -> bool:
    return any(each.name in SIDECARS for each in (*(spec.containers or ()), *(spec.init_containers or ())))


def of_wishes(pod: Pod, wishes: Wishes) -> Iterator[str]:
    """Why it cannot be as it is wished for."""
    mine = {wishes.proxy.inbound_port, wishes.proxy.outbound_port, wishes.proxy.admin_port}
    for container in pod.containers:
        for port in container.ports or ():
            if port.container_port in mine and port.protocol in (None, "", "TCP"):
                yield f"container {container.name!r} listens on {port.container_port}, which is the sidecar's"
        if _user(container, pod.spec) == wishes.proxy.uid:
            yield (
                f"container {container.name!r} runs as the sidecar's user {wishes.proxy.uid}, whose traffic is not "
                f"captured: give the sidecar another with {called.own(called.UID)}"
            )


def _user(container: Container, spec: PodSpec) -> int | None:
    for context in (container.security_context, spec.security_context):
        if context is not None and context.run_as_user is not None:
            return context.run_as_user
    return None


def notes(pod: Pod, wishes: Wishes) -> Iterator[str]:
    """What is worth knowing of a pod that is injected."""
    if has_udp(pod):
        yield f"{UDP}: it is not carried by the mesh"
    if not wishes.native and pod.ends:
        yield (
            "the sidecar does not end with the pod's other containers, where it is no native sidecar: the command of a "
            "Job has to end it (meshd-await --shutdown)"
        )
    grace_s = pod.spec.termination_grace_period_seconds
    if wishes.proxy.wait_before_exit_seconds >= (30 if grace_s is None else grace_s) > 0:
        yield (
            f"the sidecar waits {wishes.proxy.wait_before_exit_seconds} s before it exits, and is killed before that: "
            "terminationGracePeriodSeconds is no longer"
        )


def has_udp(pod: Pod) -> bool:
    return any(port.protocol == "UDP" for each in pod.containers for port in each.ports or ())
