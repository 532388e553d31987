"""Pods of the service account shop/web that ask a CA for its certificate: `programs/pod_certificate.py`, where a
sidecar would be."""

import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent / "programs" / "pod_certificate.py"

SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
"""


def asks_at(url: str) -> list[str]:
    """The command that asks the CA there."""
    return [sys.executable, str(PROGRAM), url]


def pod_spec(identity: str, anchors: str, command: list[str]) -> dict[str, Any]:
    """With one container, which has the account's token for the CA, and runs that."""
    token = {"serviceAccountToken": {"audience": "identity.meshd.io", "path": "token", "expirationSeconds": 86400}}
    env = {"IDENTITY": identity, "MESHD_PROXY_TRUST_ANCHORS": anchors, "PYTHONPATH": str(PROGRAM.parents[3])}
    container = {
        "name": "asks",
        "command": command,
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": "identity", "mountPath": "/var/run/secrets/meshd.io/token", "readOnly": True}],
    }
    volume = {"name": "identity", "projected": {"sources": [token]}}
    return {"serviceAccountName": "web", "containers": [container], "volumes": [volume]}
