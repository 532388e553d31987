"""What an API server says of itself: its version, its groups, and which resources are in them."""

from collections.abc import Collection
from typing import Any

from tests.support.kubernetes import openapi
from tests.support.kubernetes.kinds import Kind

VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.0-double", "gitCommit": "", "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip


def discovered(path: str, kinds: Collection[Kind], address: str) -> dict[str, Any] | None:
    """What is at that path of a server of these kinds, whose own address that is; None where there is nothing of it."""
    groups: dict[str, dict[str, list[Kind]]] = {}
    for kind in kinds:
        groups.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    parts = path.strip("/").split("/")
    match parts:
        case ["version"]:
            return VERSION
        case ["openapi", "v3"]:
            return openapi.index(kinds)
        case ["openapi", "v3", *_]:
            return openapi.described(path, kinds)
        case ["api"]:
            where = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [where]}
        case ["apis"]:
            listed = [_group(name, list(groups[name])) for name in groups if name]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        case ["apis", name] if name in groups:
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, list(groups[name]))
        case ["api", "v1"]:
            return {"kind": "APIResourceList", "groupVersion": "v1", "resources": _listed(groups[""]["v1"])}
        case ["apis", name, version] if version in groups.get(name, {}):
            listed = _listed(groups[name][version])
            versioned = f"{name}/{version}"
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": versioned, "resources": listed}
    return None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _listed(kinds: list[Kind]) -> list[dict[str, Any]]:
    return sorted((entry for kind in kinds for entry in kind.listed()), key=lambda entry: str(entry["name"]))
