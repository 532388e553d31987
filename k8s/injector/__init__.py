"""The injector: a pod in, a patch out, or all the reasons why not. Pure: it knows no server, no file and no clock.

    injection = inject(pod, Surroundings(...), settings)

`Injected` has a JSON patch (RFC 6902) that gives the pod its sidecar, its labels and annotations; `Skipped` has the
reasons. Under it are the webhook (`k8s.webhook`) and `meshd inject` (`k8s.cli.injecting`), which so cannot disagree.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from k8s.injector import annotations as called
from k8s.injector import containers, reasons
from k8s.injector.pods import NoPod, Pod, pod_of
from k8s.injector.wishes import Unmeant, Wishes, wishes
from k8s.settings import Installation

Operation = dict[str, Any]
Patch = list[Operation]

BY_WEBHOOK: Final = "meshd/injector"
BY_HAND: Final = "meshd/cli"


class Surroundings(Struct, frozen=True):
    """What else of the cluster matters. `namespace` is the pod's, empty where nobody knows it, `annotations` that
    namespace's; `native`: whether the cluster has native sidecars. `asked`: somebody asked for this very pod, so that
    only one that says no for itself is left alone."""

    namespace: str = ""
    annotations: Mapping[str, str] = {}
    native: bool = True
    asked: bool = False
    by: str = BY_WEBHOOK


class Injected(Struct, frozen=True):
    """`notes` are for the person whose pod it is."""

    patch: Patch
    notes: tuple[str, ...] = ()


class Skipped(Struct, frozen=True):
    """`refused`: it was asked for, and cannot be; else nobody asked, or somebody asked not to."""

    reasons: tuple[str, ...]
    refused: bool = True


class Examined(Struct, frozen=True):
    """A pod that may be injected, and how it wants that."""

    pod: Pod
    wishes: Wishes
    notes: tuple[str, ...]


def inject(pod: Any, around: Surroundings, settings: Installation) -> Injected | Skipped:
    """What becomes of a pod, or of the template of one: an object with `metadata` and `spec`."""
    found = examine(pod, around, settings)
    if isinstance(found, Skipped):
        return found
    if not settings.trust_anchors:
        return Skipped((reasons.NO_ANCHORS,))
    return Injected(_patch(pod, found.pod, found.wishes, around, settings), found.notes)


def examine(pod: Any, around: Surroundings, settings: Installation) -> Examined | Skipped:
    """Whether a pod is asked for and can be injected."""
    try:
        read = pod_of(pod)
    except NoPod as error:
        return Skipped((f"not a pod: {error}",))
    wanted, why_not = reasons.asked(read.annotations, around.annotations)
    if not wanted and not (around.asked and why_not == reasons.ABSENT):
        return Skipped((why_not,), refused=reasons.is_refusal(why_not))
    found = list(reasons.of_pod(read))
    if reasons.SIDECAR in found:  # whatever else there is to say is of that sidecar
        return Skipped(tuple(found))
    try:
        wished = wishes(read.annotations, around.annotations, read.port_numbers, settings, native=around.native)
    except Unmeant as error:
        return Skipped((*found, *error.reasons))
    found += reasons.of_wishes(read, wished)
    if found:
        return Skipped(tuple(found))
    return Examined(read, wished, tuple(reasons.notes(read, wished)))


def _patch(pod: Mapping[str, Any], read: Pod, wished: Wishes, around: Surroundings, settings: Installation) -> Patch:
    """Containers that start one after another: rules first, then the sidecar. A native one stands before the pod's own
    init containers, which are then meshed too; one that is none starts after them, and so do the rules."""
    spec = pod["spec"]
    init = containers.init_container(wished)
    proxy = containers.proxy_container(wished, settings, ends=read.ends)
    patch: Patch = []
    if not pod.get("metadata"):
        patch.append({"op": "add", "path": "/metadata", "value": {}})
    patch += _marks(pod.get("metadata") or {}, "labels", _labels(around, settings))
    patch += _marks(pod.get("metadata") or {}, "annotations", _annotations(read, wished, around, settings))
    if wished.native:
        patch += _items(spec, "initContainers", [init, proxy], first=True)
    else:
        patch += _items(spec, "initContainers", [init], first=False)
        patch += _items(spec, "containers", [proxy], first=wished.proxy.await_)
    return patch + _items(spec, "volumes", containers.volumes(), first=False)


def _labels(around: Surroundings, settings: Installation) -> dict[str, str]:
    namespace = {called.WORKLOAD_NS: around.namespace} if around.namespace else {}
    return {called.CONTROL_PLANE_NS: settings.namespace, **namespace}


def _annotations(pod: Pod, wished: Wishes, around: Surroundings, settings: Installation) -> dict[str, str]:
    """What is of the installation; and what discovery and the controller read on pods alone, where it was said of the
    namespace or is not the default."""
    from meshd import __version__  # noqa: PLC0415 - of this program, and not of the image

    made = {
        called.CREATED_BY: f"{around.by} {__version__}",
        called.PROXY_VERSION: version_of(wished.image),
        called.TRUST_ROOT: _digest(settings.trust_anchors),
    }
    if wished.opaque_ports and called.find(called.OPAQUE_PORTS, pod.annotations) is None:
        made[called.own(called.OPAQUE_PORTS)] = wished.opaque_ports
    if wished.proxy.inbound_port != 4143 and called.find(called.INBOUND_PORT, pod.annotations) is None:
        made[called.own(called.INBOUND_PORT)] = str(wished.proxy.inbound_port)
    return made


def version_of(image: str) -> str:
    """The tag of an image, or its digest; `latest` where it has neither."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return digest or tag or "latest"


@lru_cache(maxsize=8)
def _digest(anchors: str) -> str:
    return hashlib.sha256(anchors.encode()).hexdigest()


def _marks(metadata: Mapping[str, Any], kind: str, marks: Mapping[str, str]) -> Patch:
    there = metadata.get(kind)
    begun: Patch = [] if there else [{"op": "add", "path": f"/metadata/{kind}", "value": {}}]
    return begun + [
        {"op": "add", "path": f"/metadata/{kind}/{_escaped(name)}", "value": value} for name, value in marks.items()
    ]


def _escaped(name: str) -> str:
    """As a part of a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def _items(spec: Mapping[str, Any], kind: str, items: list[Any], *, first: bool) -> Patch:
    begun: Patch = [] if spec.get(kind) else [{"op": "add", "path": f"/spec/{kind}", "value": []}]
    if first:
        return begun + [
            {"op": "add", "path": f"/spec/{kind}/{place}", "value": item} for place, item in enumerate(items)
        ]
    return begun + [{"op": "add", "path": f"/spec/{kind}/-", "value": item} for item in items]
