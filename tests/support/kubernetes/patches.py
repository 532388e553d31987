"""The kinds of PATCH: JSON merge patch (RFC 7396), strategic merge patch, JSON patch (RFC 6902)."""

import copy
from typing import Any

from tests.support.kubernetes.refusals import Refused

MERGE, STRATEGIC, JSON = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
)

_MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
    "conditions": "type", "podIPs": "ip", "hostIPs": "ip", "imagePullSecrets": "name", "ownerReferences": "uid",
    "webhooks": "name",
}  # fmt: skip
"""The lists of the core kinds that a strategic merge patch merges by a key; others it replaces."""


def patched(content: dict[str, Any], patch: Any, kind: str) -> dict[str, Any]:
    """content after a patch of that media type; Refused when the patch cannot be applied."""
    if kind == JSON:
        changed: dict[str, Any] = _operations(copy.deepcopy(content), patch)
        return changed
    if not isinstance(patch, dict):
        raise Refused(400, "BadRequest", "json: cannot unmarshal array into Go value of type map[string]interface {}")
    result: dict[str, Any] = _merged(copy.deepcopy(content), patch, strategic=kind == STRATEGIC)
    return result


def _merged(value: Any, patch: Any, strategic: bool) -> Any:
    if not isinstance(patch, dict):
        return patch
    if strategic and patch.get("$patch") == "replace":
        return {key: each for key, each in patch.items() if key != "$patch"}
    value = value if isinstance(value, dict) else {}
    for key, each in patch.items():
        if strategic and key.startswith("$"):
            continue
        if each is None:
            value.pop(key, None)
        elif strategic and isinstance(each, list) and (name := _merge_key(key, value.get(key))):
            value[key] = _merged_list(list(value.get(key) or []), each, name)
        else:
            value[key] = _merged(value.get(key), each, strategic)
    if strategic:
        _directed(value, patch)
    return value


def _directed(value: dict[str, Any], patch: dict[str, Any]) -> None:
    """What `kubectl apply` says besides what is to be merged: the order of a list, what goes from one of plain values,
    and which of the fields stay of which there is to be one."""
    for key, each in patch.items():
        directive, _, name = key.partition("/")
        match directive:
            case "$setElementOrder":
                at = _merge_key(name, each)
                order = [item[at] if at else item for item in each]
                place = {item: number for number, item in enumerate(order)}
                items = value.get(name) or []
                items.sort(key=lambda item: place.get(item.get(at) if at else item, len(place)))
            case "$deleteFromPrimitiveList":
                value[name] = [item for item in value.get(name) or () if item not in each]
            case "$retainKeys":
                for other in value.keys() - set(each):
                    del value[other]


def _merge_key(key: str, value: Any) -> str:
    if key == "ports":
        items = value or [{}]
        return "containerPort" if "containerPort" in items[0] else "port"
    return _MERGE_KEYS.get(key, "")


def _merged_list(value: list[Any], patch: list[Any], name: str) -> list[Any]:
    for each in patch:
        place = next((index for index, old in enumerate(value) if old.get(name) == each.get(name)), None)
        if each.get("$patch") == "delete":
            if place is not None:
                del value[place]
        elif place is None:
            value.append({key: item for key, item in each.items() if item is not None})
        else:
            value[place] = _merged(value[place], each, True)
    return value


def _operations(content: Any, patch: Any) -> Any:
    if not isinstance(patch, list):
        raise Refused(400, "BadRequest", "error decoding patch: json: cannot unmarshal object into Go value")
    for operation in patch:
        path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        try:
            parent, last = _parent(content, path)
            match operation["op"]:
                case "test":
                    if _at(parent, last) != operation["value"]:
                        raise _unprocessable("testing value " + operation["path"] + " failed")
                case "remove":
                    _remove(parent, last)
                case "add":
                    _add(parent, last, operation["value"])
                case "replace":
                    _at(parent, last)
                    _remove(parent, last)
                    _add(parent, last, operation["value"])
                case other:
                    raise _unprocessable(f"Unexpected kind: {other}")
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise _unprocessable(f"{operation['op']} operation does not apply: doc is missing path") from error
    return content


def _unprocessable(why: str) -> Refused:
    return Refused(422, "Invalid", f"the server rejected our request due to an error in our request: {why}", {})


def _parent(content: Any, path: list[str]) -> tuple[Any, str]:
    for part in path[:-1]:
        content = _at(content, part)
    return content, path[-1]


def _at(parent: Any, last: str) -> Any:
    return parent[int(last)] if isinstance(parent, list) else parent[last]


def _remove(parent: Any, last: str) -> None:
    del parent[int(last) if isinstance(parent, list) else last]


def _add(parent: Any, last: str, value: Any) -> None:
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        parent[last] = value
