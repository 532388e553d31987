"""What the API says of itself, as far as `kubectl` asks before it writes: which kinds there are, and that the server
validates fields (`fieldValidation`), so that nobody else has to.

What each kind looks like is left out: `kubectl` then merges lists by the keys that are built into it, and validates
nothing itself. The real server has 10 MB of it.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tests.support.kubernetes.kinds import Kind

INFO = {"title": "Kubernetes", "version": "v1.36.0-double"}

OLD = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""The form in which programs from before 1.24 take all of it at once."""
OLD_CALLED = OLD.replace("@", ".")
"""As the answer has it, since `@` is in no media type."""

_STRICT = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]
_FORMS = ("application/json-patch+json", "application/merge-patch+json")


def index(kinds: Iterable[Kind]) -> dict[str, Any]:
    """`/openapi/v3`: where the description of each group's version is."""
    found: dict[str, list[Kind]] = {}
    for kind in kinds:
        found.setdefault(_root(kind), []).append(kind)
    return {"paths": {root: {"serverRelativeURL": _url(root, of)} for root, of in sorted(found.items())}}


def described(path: str, kinds: Iterable[Kind]) -> dict[str, Any] | None:
    """`/openapi/v3/apis/GROUP/VERSION`; None where there is no such version."""
    root = path.removeprefix("/openapi/v3/")
    of = [kind for kind in kinds if _root(kind) == root]
    if not of:
        return None
    paths = {}
    for kind in of:
        here = "/namespaces/{namespace}" if kind.namespaced else ""
        whole = f"/{root}{here}/{kind.plural}"
        paths[whole] = {"post": _operation(kind, "post", {})} if "create" in kind.verbs else {}
        if "patch" in kind.verbs:
            content: dict[str, Any] = {"content": {form: {} for form in _FORMS}}
            paths[f"{whole}/{{name}}"] = {"patch": _operation(kind, "patch", {"requestBody": content})}
    return {"openapi": "3.0.0", "info": INFO, "paths": paths, "components": {"schemas": {}}}


def _operation(kind: Kind, action: str, more: dict[str, Any]) -> dict[str, Any]:
    of = {"group": kind.group, "version": kind.version, "kind": kind.name}
    said = {"parameters": _STRICT, "responses": {"200": {"description": "OK"}}}
    return {**said, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": of, **more}


def _root(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def _url(root: str, kinds: list[Kind]) -> str:
    """With a hash by which clients know that it is as they have it."""
    said = hashlib.sha512(json.dumps([kind.plural for kind in kinds]).encode()).hexdigest().upper()
    return f"/openapi/v3/{root}?hash={said}"


def old() -> bytes:
    """`/openapi/v2` with no kinds at all, as `openapi.v2.Document` of gnostic: `swagger` and `info` in protobuf."""
    info = b"".join(_text(number, INFO[name]) for number, name in ((1, "title"), (2, "version")))
    return _text(1, "2.0") + _bytes(2, info)


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, content: bytes) -> bytes:
    assert len(content) < 128, "its length is more than a byte"
    return bytes([number << 3 | 2, len(content)]) + content
