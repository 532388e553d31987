"""Meshed pods on a played node: manifests with what the injector puts into them, and a controller that is played.

What is put into them is left as it is, but for where the proxy is told what it is to be: a Unix socket in a volume.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from k8s.injector import Injected, Surroundings, inject
from k8s.settings import Installation
from tests.support import pods
from tests.support.certificates import Root
from tests.support.kubelet import control, life, node
from tests.support.kubernetes.patches import JSON, patched

Manifest = dict[str, Any]

APPLICATION = Path(__file__).parents[1] / "programs" / "pod_app.py"
SOCKET = "/run/meshd/control.sock"
_CONTROL_VOLUME = "control"


def application(*arguments: str, name: str = "app", **more: Any) -> Manifest:
    """A container that runs `pod_app.py`; one that serves is ready when it listens."""
    made: Manifest = {"name": name, "image": "app", "command": program(*arguments), "securityContext": _USER}
    if arguments:
        port = int(arguments[1].rpartition(":")[2])
        made["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return made | more


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-P", str(APPLICATION), *arguments]


_USER = {"runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def plain(name: str, *containers: Manifest, namespace: str = "default", **spec: Any) -> Manifest:
    """A pod outside the mesh."""
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "serviceAccountName": name,
            **spec,
            "containers": list(containers),
        },
    }


def injected(name: str, *containers: Manifest, native: bool = True, init: Sequence[str] = (), **spec: Any) -> Manifest:
    """A pod with these containers as the injector makes it, but for the proxy's command line: it is to be told what it
    is at `SOCKET`. `init` are more arguments of meshd-init."""
    made = given_a_sidecar(plain(name, *containers, **spec), _settings(), native=native)
    for each in (*made["spec"]["initContainers"], *made["spec"]["containers"]):
        if each["name"] == "meshd-init":
            each["args"] += init
        elif each["name"] == "meshd-proxy":
            each["args"] = ["--control", SOCKET]
            each["volumeMounts"].append({"name": _CONTROL_VOLUME, "mountPath": str(Path(SOCKET).parent)})
    made["spec"]["volumes"].append({"name": _CONTROL_VOLUME, "emptyDir": {}})
    return made


def given_a_sidecar(pod: Manifest, settings: Installation, *, native: bool = True) -> Manifest:
    """The pod as the injector makes it."""
    around = Surroundings(namespace=pod["metadata"]["namespace"], native=native, asked=True)
    done = inject(pod, around, settings)
    assert isinstance(done, Injected), done
    return patched(pod, done.patch, JSON)


@cache
def _settings() -> Installation:
    return Installation(trust_anchors=Root().bundle_pem)


class Mesh:
    """A node, its pods and what they are told."""

    def __init__(self, directory: Path, on: node.Node, held: ExitStack) -> None:
        self.node = on
        self.control = control.Control(directory / "ca")
        held.callback(self.control.close)
        self._directory = directory
        self._held = held
        self._around = pods.Surroundings(_nothing, lambda *_: "a token", "", ("192.0.2.1", 443))

    def begin(self, pod: Manifest, *, opaque_ports: tuple[int, ...] | None = None, ipv6: bool = True) -> life.Life:
        """A pod, which has begun."""
        network = self.node.plug(ipv6=ipv6)
        name = pod["metadata"]["name"]
        if _CONTROL_VOLUME in [each["name"] for each in pod["spec"].get("volumes", ())]:
            socket = self._directory / name / "volumes" / _CONTROL_VOLUME / Path(SOCKET).name
            self.control.serve(socket, network, f"default/{name}", opaque_ports)
        return self._held.enter_context(life.living(self.node, pod, self._around, self._directory, network))

    def start(self, pod: Manifest, *, opaque_ports: tuple[int, ...] | None = None, ipv6: bool = True) -> life.Life:
        """One that is ready."""
        begun = self.begin(pod, opaque_ports=opaque_ports, ipv6=ipv6)
        begun.wait_ready()
        return begun


@contextmanager
def mesh(directory: Path) -> Iterator[Mesh]:
    with node.node() as on, ExitStack() as held:
        yield Mesh(directory, on, held)


def _nothing(*asked: str) -> Any:
    raise AssertionError(f"there is no {asked} in this cluster")
