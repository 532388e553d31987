"""What a pod gets: two containers and two volumes, as the API has them.

`meshd-init` writes the pod's rules of redirection and ends; `meshd-proxy` is the sidecar. The one has the two
capabilities that rules need and nothing else, the other has none at all. Their counterparts are `k8s.init` and
`proxy.controller`.
"""

from typing import Any, Final

from k8s.injector.reasons import INIT, PROXY
from k8s.injector.wishes import Wishes
from k8s.settings import Installation, ProxySettings
from k8s.values import port_ranges, written
from meshd.ca.kubernetes import AUDIENCE

Object = dict[str, Any]

TOKEN_VOLUME: Final = "meshd-identity-token"  # noqa: S105 - the name of a volume
TOKEN_DIRECTORY: Final = "/var/run/secrets/meshd.io/token"  # noqa: S105 - where one is
TOKEN_LIFE_S: Final = 86400
"""The kubelet renews it when four fifths are over."""

RUN_VOLUME: Final = "meshd-init-run"
"""Where iptables has its lock: the root file system is read-only. It is in memory, since the cluster's autoscaler takes
no node away whose pods have something on its disk."""

VOLUMES: Final = (RUN_VOLUME, TOKEN_VOLUME)

AWAIT_S: Final = 120
"""How long a sidecar that is not native may take to become ready, before its start has failed."""


def init_container(wishes: Wishes) -> Object:
    """Root, since capabilities that are added are not another user's; and nothing but those two."""
    proxy = wishes.proxy
    arguments = [
        f"--inbound-port={proxy.inbound_port}",
        f"--outbound-port={proxy.outbound_port}",
        f"--admin-port={proxy.admin_port}",
        f"--proxy-uid={proxy.uid}",
    ]
    for way, ports in (("inbound", proxy.skip_inbound_ports), ("outbound", proxy.skip_outbound_ports)):
        if ports:
            arguments.append(f"--skip-{way}-ports={written(port_ranges(ports))}")
    return {
        "name": INIT,
        "image": wishes.image,
        "imagePullPolicy": wishes.pull_policy,
        "command": ["meshd-init"],
        "args": arguments,
        **_resources(proxy),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": RUN_VOLUME, "mountPath": "/run"}],
    }


def proxy_container(wishes: Wishes, settings: Installation, *, ends: bool) -> Object:
    """A native sidecar, or a container beside the others. `ends`: whether the pod is to end by itself, as a Job's; then
    one that is no native sidecar has to be told, and may be (`meshd-await --shutdown`)."""
    proxy = wishes.proxy
    made: Object = {
        "name": PROXY,
        "image": wishes.image,
        "imagePullPolicy": wishes.pull_policy,
        "command": ["meshd-proxy"],
        "env": _environment(proxy, settings, told_to_end=ends and not wishes.native),
        "ports": [
            {"name": "meshd-proxy", "containerPort": proxy.inbound_port},
            {"name": "meshd-admin", "containerPort": proxy.admin_port},
        ],
    }
    if wishes.native:
        made["restartPolicy"] = "Always"
        made["startupProbe"] = _probe("/ready", proxy, periodSeconds=1, failureThreshold=AWAIT_S)
    made |= {
        "readinessProbe": _probe("/ready", proxy, initialDelaySeconds=2, periodSeconds=5),
        "livenessProbe": _probe("/live", proxy, initialDelaySeconds=10, periodSeconds=10),
        **_lifecycle(wishes),
        **_resources(proxy),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": proxy.uid,
            "runAsNonRoot": True,
            "runAsUser": proxy.uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": True}],
    }
    return made


def volumes() -> list[Object]:
    """The token is for the mesh's CA alone: whoever gets hold of it can do nothing with the API server."""
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_LIFE_S, "path": "token"}
    return [
        {"name": RUN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": TOKEN_VOLUME, "projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": token}]}},
    ]


def _environment(proxy: ProxySettings, settings: Installation, *, told_to_end: bool) -> list[Object]:
    """In an order in which what is referred to stands first."""
    plain = {
        "MESHD_PROXY_CONTROLLER": settings.controller_address,
        "MESHD_PROXY_TRUST_DOMAIN": settings.trust_domain,
        "MESHD_PROXY_TRUST_ANCHORS": settings.trust_anchors,
        "MESHD_PROXY_TOKEN_FILE": f"{TOKEN_DIRECTORY}/token",
        "MESHD_PROXY_LOG": proxy.log_level,
    }
    if settings.namespace != "meshd":
        identity = f"spiffe://{settings.trust_domain}/ns/{settings.namespace}/sa/meshd-controller"
        plain["MESHD_PROXY_CONTROLLER_IDENTITY"] = identity
    if told_to_end:
        plain["MESHD_PROXY_SHUTDOWN_ENDPOINT"] = "true"
    asked = {"MESHD_POD_NAMESPACE": "metadata.namespace", "MESHD_POD_NAME": "metadata.name"}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in asked.items()),
        {"name": "MESHD_PROXY_POD", "value": "$(MESHD_POD_NAMESPACE)/$(MESHD_POD_NAME)"},
    ]


def _probe(path: str, proxy: ProxySettings, **times: int) -> Object:
    return {"httpGet": {"path": path, "port": proxy.admin_port}, **times}


def _lifecycle(wishes: Wishes) -> Object:
    hooks: Object = {}
    proxy = wishes.proxy
    if proxy.await_ and not wishes.native:
        hooks["postStart"] = _run("meshd-await", f"--port={proxy.admin_port}", f"--timeout={AWAIT_S}s")
    if proxy.wait_before_exit_seconds:
        hooks["preStop"] = _run("meshd-await", f"--sleep={proxy.wait_before_exit_seconds}s")
    return {"lifecycle": hooks} if hooks else {}


def _run(*command: str) -> Object:
    return {"exec": {"command": list(command)}}


def _resources(proxy: ProxySettings) -> Object:
    """The same for both: what the first of them requests while it runs costs the pod nothing then."""
    limits = {"cpu": proxy.cpu_limit, "memory": proxy.memory_limit}
    requests = {"cpu": proxy.cpu_request, "memory": proxy.memory_request}
    given = {
        name: present
        for name, each in (("limits", limits), ("requests", requests))
        if (present := {key: value for key, value in each.items() if value})
    }
    return {"resources": given} if given else {}
