"""A whole cluster, played: the double of the API server on a node, and what a cluster's own controllers and its kubelet
make of what is applied to it (`controllers`). Images are programs of this checkout: containers have commands."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from meshd.api.names import Address
from tests.support import pods
from tests.support.clusters import AnyCluster
from tests.support.kubelet.asked import Asked
from tests.support.kubelet.controllers import Controllers
from tests.support.kubelet.node import NODE_OUTSIDE, NODE_OUTSIDE6, Node, node
from tests.support.kubernetes.administered import ROOT_CA
from tests.support.machines.network import ip
from tests.support.processes import running

Manifest = dict[str, Any]

API_PORT: Final = 443
PODS_CIDR: Final = "10.244.0.0/24"
PODS_CIDR6: Final = "fd00:244::/64"


class PlayedCluster(AnyCluster):
    """See the module."""

    python = sys.executable
    image = "registry.example/meshd:0.1.0"

    def __init__(self, directory: Path, on: Node, held: ExitStack) -> None:
        super().__init__(directory, directory / "kubeconfig", ("nsenter", f"--net={on.file}"))
        self.node = on
        if on.ipv4:
            ip("-n", on.outside.name, "route", "add", PODS_CIDR, "via", NODE_OUTSIDE)
        ip("-n", on.outside.name, "route", "add", PODS_CIDR6, "via", NODE_OUTSIDE6)
        api = Address(on.address, API_PORT)
        argv = [*self.within, sys.executable, "-m", "tests.support.kubernetes", str(directory)]
        held.enter_context(running([*argv, str(api)], directory / "api.log", self.kubeconfig.exists))
        self._api = api
        self.controllers = Controllers(on, Asked(self.kubeconfig), self.surroundings({}), directory)
        held.callback(self.controllers.end)
        self.controllers.begin()

    @property
    def hosts(self) -> dict[str, str]:
        """What names stand for: addresses, with a space between them."""
        return dict(self.controllers.around.hosts)

    def tried(self, *argv: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        self.controllers.check()
        return super().tried(*argv, given=given)

    def exec(self, namespace: str, pod: str, container: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        """No API server's: the kubelet's own."""
        self.controllers.check()
        return self.controllers.life(namespace, pod).run(container, *argv)

    def said(self) -> str:
        return self.controllers.logs()

    # --- what pods find

    def surroundings(self, hosts: Mapping[str, str]) -> pods.Surroundings:
        """With these names in place of a DNS."""
        return pods.Surroundings(self._find, self.token, (self.directory / "api-ca.pem").read_text(), self._api, hosts)

    def _find(self, kind: str, namespace: str, name: str) -> Manifest:
        if kind == "ConfigMap" and name == ROOT_CA:  # which a controller puts into every namespace
            return {"data": {"ca.crt": (self.directory / "api-ca.pem").read_text()}}
        plural = {"ConfigMap": "configmaps", "Secret": "secrets"}[kind]
        return self.controllers.ask("GET", f"/api/v1/namespaces/{namespace}/{plural}/{name}")

    def token(self, namespace: str, account: str, audience: str) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        spec = {"audiences": [audience]} if audience else {}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.controllers.ask("POST", path, body)["status"]["token"])


@contextmanager
def played_cluster(directory: Path, *, ipv4: bool = True) -> Iterator[PlayedCluster]:
    """One with nothing in it; the machine outside, which is no part of it, knows the way to its pods."""
    with node(ipv4=ipv4) as on, ExitStack() as held:
        yield PlayedCluster(directory, on, held)
