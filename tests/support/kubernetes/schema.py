"""The structural schemas of CustomResourceDefinitions: what objects lose by them, get from them, and break of them."""

import copy
import json
import re
from typing import Any

from tests.support.kubernetes.refusals import Cause, required

Schema = dict[str, Any]

_TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)
}  # fmt: skip


def pruned(value: Any, schema: Schema, path: str = "") -> tuple[Any, list[str]]:
    """value without what the schema does not know, and with its defaults; the paths of what was dropped."""
    dropped: list[str] = []
    return _pruned(copy.deepcopy(value), schema, path, dropped), dropped


def _pruned(value: Any, schema: Schema, path: str, dropped: list[str]) -> Any:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, each in properties.items():
            if key not in value and "default" in each:
                value[key] = copy.deepcopy(each["default"])
        for key in list(value):
            below = f"{path}.{key}" if path else key
            if key in properties:
                value[key] = _pruned(value[key], properties[key], below, dropped)
            elif isinstance(others, dict):
                value[key] = _pruned(value[key], others, below, dropped)
            elif others is not True:
                dropped.append(below)
                del value[key]
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        value = [_pruned(each, schema["items"], f"{path}[{index}]", dropped) for index, each in enumerate(value)]
    return value


def wrong(value: Any, schema: Schema, path: str = "") -> list[Cause]:
    """What a value that was pruned has against the schema."""
    if value is None:
        return [] if schema.get("nullable") else [_type(path, "null", value, schema.get("type", ""))]
    causes = _wrong_type(value, schema, path)
    if causes:
        return causes
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                causes.append(required(f"{path}.{name}" if path else name))
        for key, each in value.items():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(below, dict):
                causes += wrong(each, below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        causes += _length(value, schema, path, "Items", "items")
        for index, each in enumerate(value):
            causes += wrong(each, schema.get("items", {}), f"{path}[{index}]")
    return causes + _wrong_value(value, schema, path)


def _wrong_type(value: Any, schema: Schema, path: str) -> list[Cause]:
    if schema.get("x-kubernetes-int-or-string"):
        good = isinstance(value, int | str) and not isinstance(value, bool)
        return [] if good else [_type(path, "", value, "integer,string")]
    wanted = schema.get("type")
    if wanted is None:
        return []
    good = isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
    return [] if good else [_type(path, "", value, wanted)]


def _type(path: str, found: str, value: Any, wanted: str) -> Cause:
    found = found or next(
        name
        for name in ("boolean", "integer", "number", "string", "array", "object")
        if isinstance(value, _TYPES[name])
    )
    return Cause(
        path, f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"', "FieldValueTypeInvalid"
    )


def _wrong_value(value: Any, schema: Schema, path: str) -> list[Cause]:
    said = json.dumps(value)
    causes: list[Cause] = []

    def bad(why: str) -> None:
        causes.append(Cause(path, f"Invalid value: {said}: {path} in body {why}"))

    if isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            bad(f"should be greater than or equal to {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            bad(f"should be less than or equal to {schema['maximum']}")
    if isinstance(value, str):
        causes += _length(value, schema, path, "Length", "chars long")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            bad(f"should match '{schema['pattern']}'")
    if "enum" in schema and value not in schema["enum"]:
        known = ", ".join(json.dumps(each) for each in schema["enum"])
        causes.append(Cause(path, f"Unsupported value: {said}: supported values: {known}", "FieldValueNotSupported"))
    return causes


def _length(value: Any, schema: Schema, path: str, what: str, unit: str) -> list[Cause]:
    causes = []
    if (most := schema.get(f"max{what}")) is not None and len(value) > most:
        if what == "Items":
            message = f"Too many: {len(value)}: must have at most {most} items"
            causes.append(Cause(path, message, "FieldValueTooMany"))
        else:
            causes.append(Cause(path, f"Too long: may not be more than {most} bytes", "FieldValueTooLong"))
    if (least := schema.get(f"min{what}")) is not None and len(value) < least:
        said = json.dumps(value) if what == "Length" else str(len(value))
        causes.append(Cause(path, f"Invalid value: {said}: {path} in body should be at least {least} {unit}"))
    return causes
