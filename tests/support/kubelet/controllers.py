"""What a cluster's controllers and the kubelet of its one node do, over and over: pods of workloads (`workloads`),
their lives (`life`), what the API server is told of both, EndpointSlices of Services, and names in place of a DNS."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.support import pods
from tests.support.kubelet.asked import Asked, Refused
from tests.support.kubelet.life import Life, Running, living
from tests.support.kubelet.node import Network, Node, enter
from tests.support.kubelet.slices import names_of, slice_of
from tests.support.kubelet.workloads import KINDS, NODE_NAME, now, owner, wanted

Manifest = dict[str, Any]

TURN_S: Final = 0.1
_SCHEDULERS: Final = {
    "affinity", "dnsPolicy", "enableServiceLinks", "nodeName", "nodeSelector", "preemptionPolicy", "priority",
    "schedulerName", "tolerations",
}  # fmt: skip
"""Of a pod: what others than the kubelet act on, and names, which are `Surroundings.hosts` here."""


@dataclass
class Kept:
    """A pod on the node. `told` is what the API server knows of its life."""

    namespace: str
    life: Life
    held: ExitStack
    told: Any = None
    ending: "Future[None] | None" = None


class Controllers:
    """See the module; a thread, from `begin` to `end`."""

    def __init__(self, on: Node, asked: Asked, around: pods.Surroundings, directory: Path) -> None:
        self.node, self.around, self._directory = on, around, directory
        self._asked = asked
        self._desk = ThreadPoolExecutor(1, "desk", partial(enter, on.file))
        self._enders = ThreadPoolExecutor(16, "ending")
        self._kept: dict[str, Kept] = {}
        self._seen = ""
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.refused = ""
        """What the API server refused last: it is tried again."""
        self._thread = threading.Thread(target=self._run, name="controllers", daemon=True)

    # --- for others

    def ask(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        """The API server, from any thread."""
        return self._desk.submit(self._asked, method, path, body).result()

    def life(self, namespace: str, name: str) -> Life:
        found = [each.life for each in self._kept.values() if (each.namespace, each.life.name) == (namespace, name)]
        assert found, f"there is no pod {namespace}/{name}; {self.refused}"
        return found[-1]

    @property
    def lives(self) -> dict[tuple[str, str], Life]:
        """By namespace and name, of pods that nobody deletes."""
        return {(each.namespace, each.life.name): each.life for each in self._kept.values() if each.ending is None}

    def check(self) -> None:
        """AssertionError where something is not played, or has gone wrong here."""
        if self._error is not None:
            raise AssertionError(f"the controllers failed: {self._error!r}") from self._error

    def logs(self) -> str:
        """The last of what all containers said."""
        tails = [each.life.logs()[-3000:] for each in self._kept.values()]
        return "\n".join([f"refused: {self.refused}", *tails])

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """End all pods at once, those of the control plane last."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            for last in (False, True):
                ending = [self._ending(each) for each in self._kept.values() if (each.namespace == "meshd") == last]
                wait(ending)
            for kept in self._kept.values():
                self._ending(kept).result()
        finally:
            self._enders.shutdown()
            self._desk.shutdown()
            self._asked.close()

    # --- a turn

    def _run(self) -> None:
        try:
            while not self._stop.wait(TURN_S):
                self._turn()
        except BaseException as error:  # the test is told
            self._error = error

    def _all(self, path: str) -> list[Manifest]:
        return list(self.ask("GET", path)["items"])

    def _turn(self) -> None:
        version = self.ask("GET", "/api/v1/namespaces?limit=1")["metadata"]["resourceVersion"]
        moved = any(each.told != _shown(each.life) or _has_ended(each) for each in self._kept.values())
        if version == self._seen and not moved:
            return
        self._seen = version
        self._kubelet({each["metadata"]["uid"]: each for each in self._all("/api/v1/pods")})
        found = self._all("/api/v1/pods")
        owners: set[str] = {""}
        for kind, path in KINDS.items():
            for workload in self._all(path.format("")):
                version = "batch/v1" if kind == "Job" else "apps/v1"
                self._workload(kind, {**workload, "kind": kind, "apiVersion": version}, found)
                owners.add(workload["metadata"]["uid"])
        for pod in found:
            if owner(pod) not in owners and not _is_going(pod):
                self._tried("DELETE", _path(pod))
        self._services(found)

    def _tried(self, method: str, path: str, body: Manifest | None = None) -> Manifest | None:
        """None where it was refused: the next turn comes."""
        try:
            return self.ask(method, path, body)
        except Refused as error:
            self.refused, self._seen = str(error), ""
            return None

    # --- the controllers

    def _workload(self, kind: str, workload: Manifest, found: Sequence[Manifest]) -> None:
        meta = workload["metadata"]
        want = wanted(kind, workload, [each for each in found if owner(each) == meta["uid"] and not _is_going(each)])
        names = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in found}
        for pod in want.make:
            if (meta["namespace"], pod["metadata"]["name"]) in names:  # one that is about to be gone
                continue
            self._tried("POST", f"/api/v1/namespaces/{meta['namespace']}/pods", pod)
        for pod in want.delete:
            self._tried("DELETE", _path(pod))
        if (workload.get("status") or {}) != want.status:
            path = KINDS[kind].format(f"namespaces/{meta['namespace']}/")
            self._tried("PUT", f"{path}/{meta['name']}/status", {**workload, "status": want.status})

    def _services(self, found: Sequence[Manifest]) -> None:
        services = self._all("/api/v1/services")
        there = {
            (each["metadata"]["namespace"], each["metadata"]["name"]): each
            for each in self._all("/apis/discovery.k8s.io/v1/endpointslices")
        }
        for service in services:
            if not service["spec"].get("selector"):
                continue
            made = slice_of(service, found)
            meta = made["metadata"]
            path = f"/apis/discovery.k8s.io/v1/namespaces/{meta['namespace']}/endpointslices"
            had = there.get((meta["namespace"], meta["name"]))
            if had is not None and had["addressType"] != made["addressType"]:  # it was empty
                self._tried("DELETE", f"{path}/{meta['name']}")
                had = None
            if had is None:
                self._tried("POST", path, made)
            elif (had["endpoints"], had["ports"]) != (made["endpoints"], made["ports"]):
                self._tried("PUT", f"{path}/{meta['name']}", made)
        hosts = names_of(self.around.api[0], services, found)
        if hosts != self.around.hosts:
            self.around.hosts = hosts
            for kept in self._kept.values():
                kept.life.manifest.renew_names()

    # --- the kubelet

    def _kubelet(self, found: Mapping[str, Manifest]) -> None:
        for uid, kept in list(self._kept.items()):
            pod = found.get(uid)
            if pod is None or _is_going(pod):
                self._ending(kept)
                if _has_ended(kept):
                    del self._kept[uid]
                    if pod is not None:
                        gone = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
                        self._tried("DELETE", _path(pod), {"kind": "DeleteOptions", "apiVersion": "v1", **gone})
            elif kept.told != (shown := _shown(kept.life)) and self._told(pod, kept.life.network, kept.life):
                kept.told = shown
        for uid, pod in found.items():
            if uid not in self._kept and pod["spec"].get("nodeName") == NODE_NAME and not _is_going(pod):
                self._start(uid, pod)

    def _start(self, uid: str, pod: Manifest) -> None:
        network, held, meta = self.node.plug(), ExitStack(), pod["metadata"]
        if not self._told(pod, network, None):
            return
        directory = self._directory / f"{meta['namespace']}-pods"
        life = held.enter_context(living(self.node, _playable(pod), self.around, directory, network))
        self._kept[uid] = Kept(meta["namespace"], life, held)

    def _ending(self, kept: Kept) -> "Future[None]":
        if kept.ending is None:
            kept.ending = self._enders.submit(kept.held.close)
        return kept.ending

    def _told(self, pod: Manifest, network: Network, life: Life | None) -> bool:
        """Whether the API server now knows how the pod is; without its life: that it has an address."""
        status = pod["status"] | {"podIP": network.address, "podIPs": [{"ip": network.address}]}
        if life is not None:
            had: Manifest = next((each for each in status.get("conditions", ()) if each["type"] == "Ready"), {})
            ready = str(life.is_ready)
            if had.get("status") != ready:
                had = {"type": "Ready", "status": ready, "lastTransitionTime": now(), "lastProbeTime": None}
            status |= {"phase": life.phase, "conditions": [had]}
            for which, field in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
                status[field] = [_status(each, life.container(each["name"])) for each in pod["spec"].get(which, ())]
        return self._tried("PUT", f"{_path(pod)}/status", {**pod, "status": status}) is not None


def _shown(life: Life) -> Any:
    """What others are told of, when it becomes different."""
    each = [(one.runs, one.ready, one.started, one.starts, one.status) for one in life.all()]
    return life.phase, life.is_ready, each


def _has_ended(kept: Kept) -> bool:
    if kept.ending is None or not kept.ending.done():
        return False
    kept.ending.result()
    return True


def _is_going(pod: Manifest) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _path(pod: Manifest) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _playable(pod: Manifest) -> Manifest:
    """Without what is not the kubelet's."""
    spec = {key: value for key, value in pod["spec"].items() if key not in _SCHEDULERS}
    for which in ("initContainers", "containers"):
        spec[which] = [
            {key: value for key, value in each.items() if key != "terminationMessagePath"}
            for each in spec.get(which, ())
        ]
    return {**pod, "spec": spec}


def _status(said: Manifest, at: Running) -> Manifest:
    state = {"running": {"startedAt": now()}} if at.runs else {"terminated": {"exitCode": at.status or 0}}
    done = at.status == 0 if said.get("restartPolicy") != "Always" and not at.runs else at.ready
    return {
        "name": at.name, "image": said["image"], "imageID": "", "restartCount": max(at.starts - 1, 0),
        "ready": done, "started": at.started, "state": state, "lastState": {},
    }  # fmt: skip
