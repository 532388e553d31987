"""A cluster's controller, in a contender's directory, and what a load needs to know of it.

settings.yaml     the installation's settings
kubeconfig        where its API server will be, which a load plays
ca/               what `meshd ca init` makes
parts.json        ports: of the control API, of the API server and of the CA
"""

import json
import time
from pathlib import Path
from typing import Final

import msgspec

from bench.scenario import Wiring
from k8s.settings import Installation
from k8s.settings_text import dumped
from meshd.ca.authority import Authority
from tests.support.kubernetes import Cluster
from tests.support.ports import free_ports

TRUST_DOMAIN: Final = "prod.example"


class Parts(msgspec.Struct, frozen=True):
    """Ports on 127.0.0.1; nothing listens at those of API server and CA before a load starts them."""

    control: int
    api: int
    ca: int

    @classmethod
    def of(cls, directory: Path) -> "Parts":
        return msgspec.json.decode((directory / "parts.json").read_bytes(), type=cls)


def beside(directory: Path, parts: Parts) -> Cluster:
    """The API server that is to be played there."""
    cluster = Cluster(directory)
    cluster.port = parts.api
    return cluster


def command(wiring: Wiring) -> str:
    """The command line, as JSON; its admin port is where the load comes to."""
    directory = wiring.directory
    parts = Parts(*free_ports(3))
    (directory / "parts.json").write_bytes(msgspec.json.encode(parts))
    authority = Authority.create(directory / "ca", TRUST_DOMAIN, time.time(), "a token of the benchmark", audited=False)
    settings = Installation(trust_domain=TRUST_DOMAIN, trust_anchors=authority.bundle_pem)
    authority.close()
    (directory / "settings.yaml").write_text(dumped(settings), encoding="utf-8")
    kubeconfig = beside(directory, parts).kubeconfig()
    (directory / "state").mkdir()
    options = {
        "config": directory / "settings.yaml",
        "listen": f"127.0.0.1:{parts.control}",
        "webhooks": "",
        "admin": f"127.0.0.1:{wiring.listen}",
        "socket": directory / "state" / "meshd.sock",
        "ca": f"https://127.0.0.1:{parts.ca}",
        "token-file": directory / "controller.token",
        "kubeconfig": kubeconfig,
        "log-level": "warning",
    }
    return json.dumps(["controller", *(f"--{name}={value}" for name, value in options.items())])
