"""What a cluster's controllers want of workloads: which pods are to be made and which deleted, and what the workload is
told of them. Over manifests as the API server has them; nothing here asks it.

    Deployment     pods of another template are deleted once those of this one are ready
    StatefulSet    one after the other, each once those before it are ready, but where the policy is `Parallel`; of
                   another template, the last one first
    Job            one pod, until it has succeeded
"""

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Manifest = dict[str, Any]

KINDS: Final = {
    "Deployment": "/apis/apps/v1/{}deployments",
    "StatefulSet": "/apis/apps/v1/{}statefulsets",
    "Job": "/apis/batch/v1/{}jobs",
}
"""Kind → its path, with a place for the namespace."""

NODE_NAME: Final = "node-a"
_TEMPLATE: Final = {"Deployment": "pod-template-hash", "StatefulSet": "controller-revision-hash", "Job": "job-hash"}
_numbers = itertools.count()


@dataclass
class Wanted:
    """Of one workload. `status` is what it is to be told, whatever has been made of the rest."""

    make: list[Manifest] = field(default_factory=list)
    delete: list[Manifest] = field(default_factory=list)
    status: Manifest = field(default_factory=dict)


def wanted(kind: str, workload: Manifest, pods: Sequence[Manifest]) -> Wanted:
    """`pods` are those of the workload that are not being deleted."""
    template, count = workload["spec"]["template"], workload["spec"].get("replicas", 1)
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
    label = _TEMPLATE[kind]
    new = [each for each in pods if each["metadata"]["labels"].get(label) == digest]
    old = [each for each in pods if each not in new]
    made = Wanted(status={"observedGeneration": workload["metadata"]["generation"]})
    match kind:
        case "Deployment":
            made.make = [_pod(workload, digest, "") for _ in range(count - len(new))]
            made.delete = sorted(new, key=_age)[: max(len(new) - count, 0)]
            if len(new) >= count and all(map(is_ready, new)):
                made.delete += old
        case "StatefulSet":
            _in_order(made, workload, digest, new, old, count)
        case "Job":
            made.make = [] if pods else [_pod(workload, digest, "")]
    made.status |= _status(kind, workload, digest, new, [*new, *old])
    return made


def _in_order(
    made: Wanted, workload: Manifest, digest: str, new: Sequence[Manifest], old: Sequence[Manifest], count: int
) -> None:
    at_once = workload["spec"].get("podManagementPolicy") == "Parallel"
    there = {_ordinal(each): each for each in (*new, *old)}
    made.delete = [each for number, each in there.items() if number >= count]
    for number in range(count):
        if number not in there:
            made.make.append(_pod(workload, digest, str(number)))
        if not at_once and (made.make or not is_ready(there[number])):
            return
    if made.make:
        return
    if old and not made.delete:
        made.delete = [max(old, key=_ordinal)]


def _status(kind: str, workload: Manifest, digest: str, new: Sequence[Manifest], every: Sequence[Manifest]) -> Manifest:
    ready, count = sum(map(is_ready, every)), workload["spec"].get("replicas", 1)
    counts = {"replicas": len(every), "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": len(new)}
    had = {each["type"]: each for each in (workload.get("status") or {}).get("conditions") or ()}
    match kind:
        case "Job":
            done = any(each["status"].get("phase") == "Succeeded" for each in every)
            counts = {"succeeded": int(done), "active": int(not done)}
            return counts | ({"conditions": [_condition(had, "Complete", True)]} if done else {})
        case "StatefulSet":
            rolled = len(new) == len(every) and ready >= count
            return counts | {"updateRevision": digest, "currentRevision": digest if rolled else "another"}
    return counts | {"conditions": [_condition(had, "Available", ready >= count)]}


def _condition(had: dict[str, Manifest], kind: str, is_so: bool) -> Manifest:
    status = str(is_so)
    if had.get(kind, {}).get("status") == status:
        return had[kind]
    return {"type": kind, "status": status, "lastTransitionTime": now()}


def _pod(workload: Manifest, digest: str, ordinal: str) -> Manifest:
    kind, meta, template = workload["kind"], workload["metadata"], workload["spec"]["template"]
    name = f"{meta['name']}-{ordinal}" if ordinal else f"{meta['name']}-{digest}-{next(_numbers):x}"
    spec = {**template["spec"], "nodeName": NODE_NAME}
    if subdomain := workload["spec"].get("serviceName"):
        spec |= {"hostname": name, "subdomain": subdomain}
    labels = {**(template.get("metadata", {}).get("labels") or {}), _TEMPLATE[kind]: digest}
    owner = {"apiVersion": workload["apiVersion"], "kind": kind, "name": meta["name"], "uid": meta["uid"]}
    about = {
        "name": name, "namespace": meta["namespace"], "labels": labels,
        "annotations": template.get("metadata", {}).get("annotations") or {},
        "ownerReferences": [owner | {"controller": True}],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def is_ready(pod: Manifest) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def owner(pod: Manifest) -> str:
    """The uid of the workload that it is of; empty where it is nobody's."""
    return next((str(each["uid"]) for each in pod["metadata"].get("ownerReferences") or ()), "")


def _ordinal(pod: Manifest) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _age(pod: Manifest) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2], 16)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
