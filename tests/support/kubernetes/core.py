"""The built-in kinds: what the API server adds to Services, Pods, EndpointSlices and others, and what it refuses."""

import ipaddress
import json
import re
import secrets
from collections import Counter
from typing import Any

from tests.support.kubernetes.kinds import Kind, Object, status_of
from tests.support.kubernetes.refusals import Cause, invalid, required

LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

SERVICE_CIDR = ipaddress.ip_network("10.96.0.0/16")
FAMILIES = ["IPv4"]
"""Those of a Service that says nothing of them."""
SERVICE_CIDR_V6 = ipaddress.ip_network("fd00:10:96::/112")


def wrong_name(content: Object, labels_only: bool) -> list[Cause]:
    """What is wrong with metadata.name: of one label, or of several with dots between."""
    name = content["metadata"].get("name", "")
    if not name:
        return [required("metadata.name")]
    parts = [name] if labels_only else name.split(".")
    if all(_LABEL.fullmatch(part) for part in parts):
        return []
    return [invalid("metadata.name", json.dumps(name), LABEL if labels_only else SUBDOMAIN)]


def _wrong_port(path: str, port: Any) -> list[Cause]:
    if isinstance(port, int) and not 1 <= port <= 65535:
        return [invalid(path, str(port), "must be between 1 and 65535, inclusive")]
    return []


# --- Services


def whole_service(content: Object, old: Object | None) -> None:
    spec = content.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    content.setdefault("status", {"loadBalancer": {}})
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    if spec["type"] == "ExternalName":
        return
    if old is not None and spec.get("clusterIP", "") == "":
        spec["clusterIP"] = old["spec"].get("clusterIP", "")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    families = spec.setdefault("ipFamilies", [*FAMILIES])
    spec.setdefault("ipFamilyPolicy", "RequireDualStack" if len(families) > 1 else "SingleStack")
    if not spec.get("clusterIP"):
        spec["clusterIP"] = _free_address(families[0])
    if spec["clusterIP"] == "None":
        spec["clusterIPs"] = ["None"]
    elif spec.get("clusterIPs", [""])[0] != spec["clusterIP"] or len(spec["clusterIPs"]) != len(families):
        spec["clusterIPs"] = [spec["clusterIP"], *(_free_address(family) for family in families[1:])]
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
        for port in spec.get("ports", ()):
            port.setdefault("nodePort", 30000 + secrets.randbelow(2768))


def _free_address(family: str) -> str:
    network = SERVICE_CIDR if family == "IPv4" else SERVICE_CIDR_V6
    return str(network[256 + secrets.randbelow(network.num_addresses - 512)])


def wrong_service(content: Object, old: Object | None) -> list[Cause]:
    spec, causes = content["spec"], wrong_name(content, labels_only=True)
    ports = spec.get("ports", [])
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        causes.append(required("spec.ports"))
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            causes.append(required(f"{path}.name"))
        causes += _wrong_port(f"{path}.port", port["port"])
        if port["protocol"] not in ("TCP", "UDP", "SCTP"):
            message = f'Unsupported value: "{port["protocol"]}": supported values: "SCTP", "TCP", "UDP"'
            causes.append(Cause(f"{path}.protocol", message, "FieldValueNotSupported"))
        causes += _wrong_port(f"{path}.targetPort", port["targetPort"])
    for index, port in enumerate(ports):
        if [each.get("name", "") for each in ports[:index]].count(port.get("name", "")) and port.get("name"):
            message = f'Duplicate value: "{port["name"]}"'
            causes.append(Cause(f"spec.ports[{index}].name", message, "FieldValueDuplicate"))
    if spec["type"] == "ExternalName" and not spec.get("externalName"):
        causes.append(required("spec.externalName"))
    had = "" if old is None or spec["type"] == "ExternalName" else old["spec"].get("clusterIP", "")
    if had and spec.get("clusterIP") != had:
        causes.append(invalid("spec.clusterIPs[0]", json.dumps([spec.get("clusterIP")]), "may not change once set"))
    return causes


# --- EndpointSlices


def whole_slice(content: Object, _old: Object | None) -> None:
    content.setdefault("endpoints", [])
    for port in content.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def wrong_slice(content: Object, old: Object | None) -> list[Cause]:
    causes = wrong_name(content, labels_only=False)
    kind = content.get("addressType", "")
    if kind not in ("IPv4", "IPv6", "FQDN"):
        if not kind:
            return [*causes, required("addressType")]
        message = f'Unsupported value: "{kind}": supported values: "FQDN", "IPv4", "IPv6"'
        return [*causes, Cause("addressType", message, "FieldValueNotSupported")]
    if old is not None and old["addressType"] != kind:
        causes.append(invalid("addressType", json.dumps(kind), "field is immutable"))
    if len(content["endpoints"]) > 1000:
        message = f"Too many: {len(content['endpoints'])}: must have at most 1000 items"
        causes.append(Cause("endpoints", message, "FieldValueTooMany"))
    for index, endpoint in enumerate(content["endpoints"]):
        path = f"endpoints[{index}].addresses"
        if not endpoint.get("addresses"):
            causes.append(required(path))
        for place, address in enumerate(endpoint.get("addresses") or ()):
            causes += _wrong_address(f"{path}[{place}]", address, kind)
    names = Counter(port["name"] for port in content.get("ports") or ())
    for index, port in enumerate(content.get("ports") or ()):
        causes += _wrong_port(f"ports[{index}].port", port.get("port"))
        if names[port["name"]] > 1:
            causes.append(Cause(f"ports[{index}].name", f'Duplicate value: "{port["name"]}"', "FieldValueDuplicate"))
            names[port["name"]] = 0
    return causes


def _wrong_address(path: str, address: str, kind: str) -> list[Cause]:
    if kind == "FQDN":
        good = all(_LABEL.fullmatch(part) for part in address.split("."))
        return [] if good else [invalid(path, json.dumps(address), SUBDOMAIN)]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        return [invalid(path, json.dumps(address), why)]
    if parsed.version != (4 if kind == "IPv4" else 6):
        return [invalid(path, json.dumps(address), f"must be an {kind} address")]
    if parsed.is_loopback:
        return [invalid(path, json.dumps(address), "may not be in the loopback range (127.0.0.0/8, ::1/128)")]
    if parsed.is_unspecified:
        return [invalid(path, json.dumps(address), f"may not be unspecified ({address})")]
    return []


# --- Pods

_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def whole_pod(content: Object, old: Object | None) -> None:
    spec = content.setdefault("spec", {})
    for name, value in {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }.items():
        spec.setdefault(name, value)
    spec["serviceAccount"] = spec["serviceAccountName"]
    tolerations = spec.setdefault("tolerations", [])
    for key in _TOLERATED:
        if not any(each.get("key") in (key, None) for each in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    for container in [*spec.get("containers", ()), *spec.get("initContainers", ())]:
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        tag = container.get("image", "").rpartition(":")[2]
        container.setdefault(
            "imagePullPolicy", "Always" if tag in (container.get("image"), "latest") else "IfNotPresent"
        )
        for port in container.get("ports", ()):
            port.setdefault("protocol", "TCP")
    if old is None:
        _mount_token(spec)
        content["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    for condition in content["status"].get("conditions", ()):
        condition.setdefault("lastProbeTime", None)
        condition.setdefault("lastTransitionTime", None)


_ACCESS = "kube-api-access-"


def _mount_token(spec: Object) -> None:
    """What the admission of service accounts adds, where it is wanted; also to containers that a webhook added."""
    if spec.get("automountServiceAccountToken") is False:
        return
    there = next((each["name"] for each in spec.get("volumes") or () if each["name"].startswith(_ACCESS)), "")
    name = there or f"{_ACCESS}{secrets.token_hex(3)[:5]}"
    field_ref = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [field_ref]}},
    ]
    if not there:
        spec.setdefault("volumes", []).append({"name": name, "projected": {"sources": sources, "defaultMode": 420}})
    mount = {"name": name, "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    for container in [*spec.get("containers", ()), *spec.get("initContainers", ())]:
        mounts = container.setdefault("volumeMounts", [])
        if all(each["mountPath"] != mount["mountPath"] for each in mounts):
            mounts.append(dict(mount))


def wrong_pod(content: Object, old: Object | None) -> list[Cause]:
    spec, causes = content["spec"], wrong_name(content, labels_only=False)
    if not spec.get("containers"):
        causes.append(required("spec.containers"))
    for index, container in enumerate(spec.get("containers", ())):
        causes += [
            required(f"spec.containers[{index}].{name}") for name in ("name", "image") if not container.get(name)
        ]
        for place, port in enumerate(container.get("ports", ())):
            causes += _wrong_port(f"spec.containers[{index}].ports[{place}].containerPort", port.get("containerPort"))
    if old is not None and _fixed(spec) != _fixed(old["spec"]):
        message = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
            "negative)"
        )
        causes.append(Cause("spec", message, "FieldValueForbidden"))
    return causes


def _fixed(spec: Object) -> Object:
    """What of a pod's spec never changes, but for its node, which it gets once."""
    skip = {"tolerations", "activeDeadlineSeconds", "nodeName"}
    kept = {key: value for key, value in spec.items() if key not in skip}
    for name in ("containers", "initContainers"):
        kept[name] = [{key: each[key] for key in each if key != "image"} for each in spec.get(name, ())]
    return kept


# --- the rest


def whole_namespace(content: Object, _old: Object | None) -> None:
    content["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = content["metadata"]["name"]
    content.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    content.setdefault("status", {}).setdefault("phase", "Active")


def wrong_namespace(content: Object, _old: Object | None) -> list[Cause]:
    return wrong_name(content, labels_only=True)


def wrong_other(content: Object, _old: Object | None) -> list[Cause]:
    return wrong_name(content, labels_only=False)


def _spec(name: str, default: str = "") -> Any:
    return lambda each: each.get("spec", {}).get(name, default)


def _status(name: str) -> Any:
    return lambda each: each.get("status", {}).get(name, "")


SERVICES = Kind(
    "services", "Service", short=("svc",), categories=("all",), whole=whole_service, wrong=wrong_service,
    subresources=(status_of("services", "Service"),), returns_deleted=True,
    fields={"spec.clusterIP": _spec("clusterIP"), "spec.type": _spec("type")},
    empty={"spec": {}, "status": {"loadBalancer": {}}},
)  # fmt: skip
PODS = Kind(
    "pods", "Pod", short=("po",), categories=("all",), whole=whole_pod, wrong=wrong_pod,
    subresources=(status_of("pods", "Pod"),), returns_deleted=True, counts_generations=True,
    fields={
        "spec.nodeName": _spec("nodeName"), "spec.restartPolicy": _spec("restartPolicy"),
        "spec.schedulerName": _spec("schedulerName"), "spec.serviceAccountName": _spec("serviceAccountName"),
        "spec.hostNetwork": lambda each: json.dumps(each["spec"].get("hostNetwork", False)),
        "status.phase": _status("phase"), "status.podIP": _status("podIP"),
        "status.nominatedNodeName": _status("nominatedNodeName"),
    },
    empty={"spec": {"containers": None}, "status": {}},
)  # fmt: skip
SLICES = Kind(
    "endpointslices", "EndpointSlice", "discovery.k8s.io", whole=whole_slice, wrong=wrong_slice,
    counts_generations=True, empty={"addressType": "", "endpoints": None, "ports": None},
)  # fmt: skip
NAMESPACES = Kind(
    "namespaces", "Namespace", namespaced=False, short=("ns",), whole=whole_namespace, wrong=wrong_namespace,
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    subresources=(
        {"name": "namespaces/finalize", "kind": "Namespace", "verbs": ["update"]}, status_of("namespaces", "Namespace")
    ),
    fields={"status.phase": _status("phase")}, empty={"spec": {}, "status": {}},
)  # fmt: skip
ACCOUNTS = Kind(
    "serviceaccounts", "ServiceAccount", short=("sa",), wrong=wrong_other, returns_deleted=True,
    subresources=(
        {
            "name": "serviceaccounts/token", "group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest",
            "verbs": ["create"],
        },
    ),
)  # fmt: skip
NODES = Kind(
    "nodes", "Node", namespaced=False, short=("no",), wrong=wrong_other, subresources=(status_of("nodes", "Node"),)
)
CONFIG_MAPS = Kind("configmaps", "ConfigMap", short=("cm",), wrong=wrong_other)
SECRETS = Kind("secrets", "Secret", wrong=wrong_other)
ENDPOINTS = Kind(
    "endpoints", "Endpoints", short=("ep",), wrong=wrong_other,
    warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
)  # fmt: skip
REVIEWS = Kind("tokenreviews", "TokenReview", "authentication.k8s.io", namespaced=False, verbs=("create",))
BUILT_IN = (CONFIG_MAPS, ENDPOINTS, NAMESPACES, NODES, PODS, SECRETS, ACCOUNTS, SERVICES, SLICES, REVIEWS)
