"""A whole cluster, played: the double of the API server on the node, and what a cluster's own controllers and its
kubelet make of what is applied to it: pods of workloads, admitted by the API server with the webhooks that it knows,
EndpointSlices of those that are ready, and names in place of a DNS.

Images are programs of this checkout: `images` has the command line of each.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from meshd.api.names import Address
from tests.support.kubelet.life import Life, Running, living
from tests.support.kubelet.node import NODE_OUTSIDE, NODE_OUTSIDE6, Network, Node, node
from tests.support.kubernetes.administered import Kubectl
from tests.support.machines.network import ip
from tests.support.meshed import MESHD
from tests.support.processes import running

Manifest = dict[str, Any]

API_PORT: Final = 443
PODS_CIDR: Final = "10.244.0.0/24"
PODS_CIDR6: Final = "fd00:244::/64"

_SCHEDULERS: Final = {
    "affinity", "dnsPolicy", "enableServiceLinks", "nodeName", "nodeSelector", "preemptionPolicy", "priority",
    "schedulerName", "tolerations",
}  # fmt: skip
"""Of a pod: what others than the kubelet act on, and names, which are `hosts` here."""


class PlayedCluster:
    """See the module. `hosts` is what names stand for: addresses, with a space between them."""

    def __init__(self, directory: Path, on: Node, held: ExitStack, images: Mapping[str, Sequence[str]]) -> None:
        self.directory, self.node = directory, on
        self.hosts: dict[str, str] = {"kubernetes.default.svc": on.address}
        self.lives: dict[tuple[str, str], Life] = {}
        self._pods: dict[tuple[str, str], Manifest] = {}
        self._held, self._images = held, images
        self.kubeconfig = directory / "kubeconfig"
        self.kubectl = Kubectl(directory, self.does)
        self.api = Address(on.address, API_PORT)
        if on.ipv4:
            ip("-n", on.outside.name, "route", "add", PODS_CIDR, "via", NODE_OUTSIDE)
        ip("-n", on.outside.name, "route", "add", PODS_CIDR6, "via", NODE_OUTSIDE6)
        argv = ["nsenter", f"--net={on.file}", sys.executable, "-m", "tests.support.kubernetes", str(directory)]
        held.enter_context(running([*argv, str(self.api)], directory / "api.log", self.kubeconfig.exists))

    # --- who administers it

    def does(self, *argv: str, given: str = "") -> str:
        """A command of somebody who administers the cluster, from the node."""
        environment = [f"KUBECONFIG={self.kubeconfig}", f"HOME={self.directory}"]
        return self.node.run("env", *environment, *argv, text=given, timeout_s=300.0)

    def apply(self, text: str) -> None:
        """Objects: what is named by them is known from then on, and pods of workloads are begun by `begin`."""
        self.kubectl.apply(text)
        for each in filter(None, yaml.safe_load_all(text)):
            if each["kind"] == "Service":
                meta = each["metadata"]
                found = self.find("Service", meta["namespace"], meta["name"])
                if found["spec"].get("clusterIP", "None") != "None":
                    self._name(f"{meta['name']}.{meta['namespace']}", found["spec"]["clusterIP"])

    def find(self, kind: str, namespace: str, name: str) -> Manifest:
        return self.kubectl.find(kind, namespace, name)

    def install(self, *options: str) -> None:
        """The mesh; the control plane's pods are begun. They are reached at their own addresses: nobody here turns a
        Service's address into a pod's but the mesh."""
        self.apply(self.does(*MESHD, "install", *options))
        for kind, name in (("StatefulSet", "meshd-ca"), ("Deployment", "meshd-controller")):
            begun = self.begin(kind, "meshd", name)
            self._name(f"{name}.meshd", *(each.address for each in begun))
        for life in self.lives.values():
            life.wait_ready()
        self.settle()

    # --- what a cluster's controllers do

    def begin(self, kind: str, namespace: str, name: str) -> list[Life]:
        """The pods of a workload. It is for the caller to wait until they are ready, and then to `settle`."""
        workload = self.find(kind, namespace, name)
        count = workload["spec"].get("replicas", 1)
        return [self.begin_pod(workload, f"{name}-{number}") for number in range(count)]

    def begin_pod(self, workload: Manifest, name: str) -> Life:
        template, namespace = workload["spec"]["template"], workload["metadata"]["namespace"]
        spec = dict(template["spec"])
        if subdomain := workload["spec"].get("serviceName"):
            spec |= {"hostname": name, "subdomain": subdomain}
        meta = {**template.get("metadata", {}), "name": name, "namespace": namespace}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        made = self.kubectl.create(f"/api/v1/namespaces/{namespace}/pods", body)
        network = self.node.plug()
        self._tell(made, network)
        if subdomain:
            self._name(f"{name}.{subdomain}.{namespace}", network.address)
        around = self.kubectl.surroundings(self.api, self.hosts)
        directory = self.directory / f"{namespace}-pods"
        life = self._held.enter_context(living(self.node, self._playable(made), around, directory, network))
        self.lives[namespace, name], self._pods[namespace, name] = life, made
        return life

    def delete(self, namespace: str, name: str) -> None:
        """A pod, with whatever is under way in it, in its grace period; nobody makes another."""
        self.lives.pop((namespace, name)).delete()
        del self._pods[namespace, name]
        self.kubectl("delete", "pod", "-n", namespace, name)

    def settle(self) -> None:
        """Have the API server know which pods are ready, and which endpoints there are."""
        for key, life in self.lives.items():
            self._tell(self._pods[key], life.network, life)
        services = json.loads(self.kubectl("get", "services", "--all-namespaces", "-o", "json"))["items"]
        slices = [self._slice(each) for each in services if each["spec"].get("selector")]
        self.kubectl.apply(json.dumps(_list(slices)))

    def end(self) -> None:
        """Delete all pods at once, those of the control plane last."""
        for last in (False, True):
            ending = [life for (namespace, _), life in self.lives.items() if (namespace == "meshd") == last]
            with ThreadPoolExecutor(len(ending) or 1) as pool:
                list(pool.map(Life.delete, ending))

    def _slice(self, service: Manifest) -> Manifest:
        meta, spec = service["metadata"], service["spec"]
        chosen = [
            (key, pod)
            for key, pod in self._pods.items()
            if key[0] == meta["namespace"] and spec["selector"].items() <= pod["metadata"].get("labels", {}).items()
        ]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{meta['name']}-a",
                "namespace": meta["namespace"],
                "labels": {
                    "kubernetes.io/service-name": meta["name"],
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4" if self.node.ipv4 else "IPv6",
            "ports": [
                {"name": each.get("name", ""), "port": _target(each, [pod for _, pod in chosen]), "protocol": "TCP"}
                for each in spec["ports"]
            ],
            "endpoints": [
                {
                    "addresses": [self.lives[key].address],
                    "conditions": dict.fromkeys(("ready", "serving"), self.lives[key].is_ready),
                    "targetRef": {"kind": "Pod", "namespace": key[0], "name": key[1], "uid": pod["metadata"]["uid"]},
                    **({"hostname": pod["spec"]["hostname"]} if "hostname" in pod["spec"] else {}),
                }
                for key, pod in chosen
            ],
        }

    # --- what its kubelet does

    def _tell(self, pod: Manifest, network: Network, life: Life | None = None) -> None:
        """The API server how the pod is; without its life: that it has an address."""
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        now: Manifest = json.loads(self.kubectl("get", "--raw", path))
        status = now["status"] | {"podIP": network.address, "podIPs": [{"ip": network.address}]}
        if life is not None:
            condition = {"type": "Ready", "status": str(life.is_ready), "lastTransitionTime": _now()}
            status |= {"phase": life.phase, "conditions": [condition | {"lastProbeTime": None}]}
            for which, field in (("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")):
                status[field] = [_status(each, life.container(each["name"])) for each in pod["spec"].get(which, ())]
        now["status"] = status
        self.kubectl("replace", "--raw", f"{path}/status", "-f", "-", given=json.dumps(now))

    def _playable(self, pod: Manifest) -> Manifest:
        """With programs in place of images, and without what is not the kubelet's."""
        spec = {key: value for key, value in pod["spec"].items() if key not in _SCHEDULERS}
        for which in ("initContainers", "containers"):
            spec[which] = [self._container(each) for each in spec.get(which, ())]
        return {**pod, "spec": spec}

    def _container(self, said: Manifest) -> Manifest:
        made = {key: value for key, value in said.items() if key != "terminationMessagePath"}
        if "command" not in made:
            made["command"] = list(self._images[made["image"].partition(":")[0]])
        return made

    def _name(self, name: str, *addresses: str) -> None:
        """In the forms that a cluster's DNS knows from any namespace."""
        for form in (name, f"{name}.svc", f"{name}.svc.cluster.local"):
            self.hosts[form] = " ".join(addresses)


def _status(said: Manifest, now: Running) -> Manifest:
    state = {"running": {"startedAt": _now()}} if now.runs else {"terminated": {"exitCode": now.status or 0}}
    done = now.status == 0 if said.get("restartPolicy") != "Always" and not now.runs else now.ready
    return {
        "name": now.name, "image": said["image"], "imageID": "", "restartCount": max(now.starts - 1, 0),
        "ready": done, "started": now.started, "state": state, "lastState": {},
    }  # fmt: skip


def _list(items: Sequence[Manifest]) -> Manifest:
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def _target(port: Manifest, chosen: Sequence[Manifest]) -> int:
    wanted = port.get("targetPort", port["port"])
    if isinstance(wanted, int):
        return wanted
    named = {
        each["name"]: each["containerPort"]
        for pod in chosen
        for container in pod["spec"]["containers"]
        for each in container.get("ports", ())
        if "name" in each
    }
    return int(named.get(wanted, 1))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def played_cluster(
    directory: Path, images: Mapping[str, Sequence[str]], *, ipv4: bool = True
) -> Iterator[PlayedCluster]:
    """One with nothing in it; the machine outside, which is no part of it, knows the way to its pods."""
    with node(ipv4=ipv4) as on, ExitStack() as held:
        made = PlayedCluster(directory, on, held, images)
        try:
            yield made
        finally:
            made.end()
