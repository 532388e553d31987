"""Somebody who administers the double of an API server that runs as a program (`python -m tests.support.kubernetes`),
with kubectl, and what pods find in its cluster."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tests.support import peers
from tests.support.pods import Manifest, Surroundings

ROOT_CA: Final = "kube-root-ca.crt"


class Runs(Protocol):
    """Runs a command where the server is reached, with its kubeconfig: what it printed."""

    def __call__(self, *argv: str, given: str = "") -> str: ...


class Kubectl:
    """The one of the server in `directory`: called with arguments, it gives what it printed."""

    def __init__(self, directory: Path, runs: Runs) -> None:
        self._directory, self._runs = directory, runs

    def __call__(self, *arguments: str, given: str = "") -> str:
        return self._runs(peers.path("kubectl"), *arguments, given=given)

    def apply(self, text: str) -> None:
        self("apply", "-f", "-", given=text)

    def create(self, path: str, body: Manifest) -> Manifest:
        """What the server made of a body that is sent to this path."""
        made: Manifest = json.loads(self("create", "--raw", path, "-f", "-", given=json.dumps(body)))
        return made

    def find(self, kind: str, namespace: str, name: str) -> Manifest:
        if kind == "ConfigMap" and name == ROOT_CA:  # which a controller puts into every namespace
            return {"data": {"ca.crt": self._api_ca()}}
        found: Manifest = json.loads(self("get", kind, "-n", namespace, name, "-o", "json"))
        return found

    def token(self, namespace: str, account: str, audience: str) -> str:
        """One of a service account, for the API server itself where no audience is named."""
        spec: dict[str, Any] = {"audiences": [audience]} if audience else {}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        made = self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
        return str(made["status"]["token"])

    def _api_ca(self) -> str:
        return (self._directory / "api-ca.pem").read_text()

    def surroundings(self, api: tuple[str, int], hosts: Mapping[str, str]) -> Surroundings:
        """What its pods find; the server is at `api`, and `hosts` stands in for the DNS."""
        return Surroundings(self.find, self.token, self._api_ca(), api, hosts)
