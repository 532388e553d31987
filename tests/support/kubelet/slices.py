"""What others find a Service by: its EndpointSlice, and names, as the DNS of a cluster has them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.support.kubelet.workloads import is_ready

Manifest = dict[str, Any]

CONTROL_PLANE: Final = "meshd"


def slice_of(service: Manifest, pods: Sequence[Manifest]) -> Manifest:
    meta, spec, chosen = service["metadata"], service["spec"], list(_chosen(service, pods))
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
        "addressType": "IPv6" if any(":" in each["status"]["podIP"] for each in chosen) else "IPv4",
        "ports": [
            {"name": each.get("name", ""), "port": _target(each, chosen), "protocol": "TCP"} for each in spec["ports"]
        ],
        "endpoints": [_endpoint(each) for each in chosen],
    }


def names_of(api: str, services: Sequence[Manifest], pods: Sequence[Manifest]) -> dict[str, str]:
    """Name → addresses with spaces between them; `api` is the API server's. Those of the control plane's Services are
    its pods': nobody here turns a Service's address into a pod's but the mesh."""
    found = dict(_forms("kubernetes.default", [api]))
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        if meta["namespace"] == "default":
            continue
        chosen = list(_chosen(service, pods))
        addresses = [str(each["status"]["podIP"]) for each in chosen]
        if spec.get("clusterIP", "None") != "None" and meta["namespace"] != CONTROL_PLANE:
            addresses = [spec["clusterIP"]]
        name = f"{meta['name']}.{meta['namespace']}"
        found |= _forms(name, addresses)
        for each in chosen:
            if each["spec"].get("subdomain") == meta["name"]:
                found |= _forms(f"{each['spec']['hostname']}.{name}", [each["status"]["podIP"]])
    return found


def _forms(name: str, addresses: Sequence[str]) -> dict[str, str]:
    """As they are known from any namespace."""
    if not addresses:
        return {}
    return {form: " ".join(addresses) for form in (name, f"{name}.svc", f"{name}.svc.cluster.local")}


def _chosen(service: Manifest, pods: Sequence[Manifest]) -> Iterator[Manifest]:
    selector = service["spec"].get("selector") or {}
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status") or {}
        goes = meta.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed")
        here = meta["namespace"] == service["metadata"]["namespace"] and status.get("podIP") and not goes
        if selector and here and selector.items() <= (meta.get("labels") or {}).items():
            yield pod


def _endpoint(pod: Manifest) -> Manifest:
    meta, spec = pod["metadata"], pod["spec"]
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": dict.fromkeys(("ready", "serving"), is_ready(pod)),
        "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
        **({"hostname": spec["hostname"]} if "hostname" in spec else {}),
    }


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
