"""A host's agent on Consul, in a contender's directory, and what a load needs to know of it.

meshd.yaml      its settings; its admin port is where the load comes to
conf.d/         the workload `caller`, with an upstream to `web`
ca/             what `meshd ca init` makes
parts.json      ports: of Consul, of the CA, of the host's proxy's admin port and of the upstream
"""

import json
import time
from pathlib import Path
from typing import Final

import msgspec

from bench.scenario import Wiring
from meshd.ca.authority import Authority
from tests.support.ports import free_ports

TRUST_DOMAIN: Final = "bench.example"


class Parts(msgspec.Struct, frozen=True):
    """Ports on 127.0.0.1 of what is beside the agent; nothing listens there before a load starts it."""

    consul: int
    ca: int
    proxy_admin: int
    upstream: int

    @classmethod
    def of(cls, directory: Path) -> "Parts":
        return msgspec.json.decode((directory / "parts.json").read_bytes(), type=cls)


def on_consul(wiring: Wiring) -> str:
    """The settings, as JSON, which is YAML."""
    directory = wiring.directory
    outbound, inbound, upstream = free_ports(3)
    parts = Parts(wiring.between, wiring.admin[0], wiring.admin[1], upstream)
    (directory / "parts.json").write_bytes(msgspec.json.encode(parts))
    Authority.create(directory / "ca", TRUST_DOMAIN, time.time(), "a token of the benchmark", audited=False).close()
    documents = directory / "conf.d"
    documents.mkdir()
    (documents / "caller.yaml").write_text(
        "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: caller}\n"
        f"spec: {{upstreams: [{{service: web, listen: '127.0.0.1:{upstream}', protocol: http}}]}}\n"
    )
    return json.dumps(
        {
            "trustDomain": TRUST_DOMAIN,
            "node": "bench",
            "stateDir": str(directory / "state"),
            "socket": str(directory / "meshd.sock"),
            "admin": f"127.0.0.1:{wiring.listen}",
            "ca": {
                "url": f"https://localhost:{parts.ca}",
                "bundle": str(directory / "ca" / "bundle.pem"),
                "tokenFile": str(directory / "ca" / "agent.token"),
            },
            "discovery": [
                {"consul": {"url": f"http://127.0.0.1:{parts.consul}"}},
                {"file": {"path": str(documents)}},
            ],
            "proxy": {
                "outbound": f"127.0.0.1:{outbound}",
                "inbound": f"127.0.0.1:{inbound}",
                "admin": f"127.0.0.1:{parts.proxy_admin}",
            },
        }
    )
