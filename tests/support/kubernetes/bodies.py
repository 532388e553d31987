"""Objects as people write them, for the API server to make whole. Valid on a real one too."""

from typing import Any

from discovery.kubernetes.pods import MESHED

Body = dict[str, Any]

NEVER = "nobody.meshd.io"
"""A scheduler that there is not: pods of it are objects alone, on a real cluster too."""


def service(name: str, *ports: tuple[str, int, int | str], **spec: Any) -> Body:
    """Ports as (name, port, target)."""
    listed = [{"name": each, "port": port, "targetPort": target} for each, port, target in ports]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": listed, **spec}}


def endpoint(address: str, pod: Body | None = None, **more: Any) -> Body:
    """Of a slice; `pod` is the object as the API server has it."""
    made: Body = {"addresses": [address], "conditions": {"ready": True}}
    if pod is not None:
        meta = pod["metadata"]
        made["targetRef"] = {
            "kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]
        }  # fmt: skip
    return made | more


def slice_of(service_name: str, name: str, *endpoints: Body, ports: dict[str, int], family: str = "IPv4") -> Body:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service_name}},
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [{"name": each, "port": port, "protocol": "TCP"} for each, port in ports.items()],
    }


def pod(name: str, account: str = "default", *, meshed: bool = True, **more: Any) -> Body:
    """`labels` and `annotations` besides the injector's; the rest is of the spec."""
    labels = {**({MESHED: "meshd"} if meshed else {}), **more.pop("labels", {})}
    container = {"name": "app", "image": "example.invalid/app:1", "ports": more.pop("ports", [])}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": more.pop("annotations", {})},
        "spec": {"serviceAccountName": account, "schedulerName": NEVER, "containers": [container], **more},
    }
