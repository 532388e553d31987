"""The mesh's documents as custom resources of Kubernetes: `services.meshd.io` and `workloads.meshd.io`; and what its
CAs keep, `carecords.meshd.io` (`k8s.crds.records`).

Each definition's schema is made from the very types that documents are read as (`meshd.api.documents`), so that the API
server refuses what an agent would. The definitions are in this folder as YAML, for `kubectl apply -f` and for what
installs the mesh:

python -m k8s.crds

writes them anew. What types cannot say (that an address is one, say) an agent says of an object that it reads.
"""

import inspect as python
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from msgspec import inspect

from k8s.crds import records
from meshd.api.documents import GROUP, VERSION, Service, Workload

FOLDER: Final = Path(__file__).parent

KINDS: Final[tuple[type[Service | Workload], ...]] = (Service, Workload)

_HEAD: Final = "# Made by `python -m k8s.crds` from the types in meshd/api/documents.py and from k8s/crds/records.py.\n"

_COLUMNS: Final[dict[str, list[dict[str, str]]]] = {
    "Service": [
        {"name": "Port", "type": "integer", "jsonPath": ".spec.port"},
        {"name": "Protocol", "type": "string", "jsonPath": ".spec.protocol"},
    ],
    "Workload": [],
}

_AGE: Final = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def manifests() -> dict[str, str]:
    """The definitions as YAML, by the names of their files."""
    found = {}
    for definition in definitions():
        text = yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True)
        found[f"{definition['metadata']['name']}.yaml"] = _HEAD + text
    return found


def definitions() -> list[dict[str, Any]]:
    """All of them."""
    return [*map(definition_of, KINDS), records.DEFINITION]


def definition_of(kind: type[Service | Workload]) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind of document."""
    name = kind.__name__
    singular = name.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{GROUP}", "labels": {"app.kubernetes.io/part-of": "meshd"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": f"{singular}s",
                "singular": singular,
                "categories": ["meshd"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [*_COLUMNS[name], _AGE],
                    "schema": {"openAPIV3Schema": _document_schema(kind)},
                }
            ],
        },
    }


def _document_schema(kind: type[Service | Workload]) -> dict[str, Any]:
    """Of `spec` alone: the API server knows the rest."""
    spec = next(field for field in msgspec.structs.fields(kind) if field.name == "spec")
    schema: dict[str, Any] = {
        "type": "object",
        "description": _sentence(kind),
        "properties": {"spec": schema_of(inspect.type_info(spec.type))},
    }
    if spec.required:
        schema["required"] = ["spec"]
    return schema


def schema_of(kind: inspect.Type) -> dict[str, Any]:
    """A type as a structural schema: no references, no alternatives."""
    match kind:
        case inspect.Metadata():
            return schema_of(kind.type)
        case inspect.StructType():
            return _struct_schema(kind)
        case inspect.VarTupleType():
            return {"type": "array", "items": schema_of(kind.item_type)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": schema_of(kind.value_type)}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(kind.values)}
        case inspect.UnionType():
            (something,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
            return schema_of(something) | {"nullable": True}
        case inspect.IntType():
            return {"type": "integer"} | _bounds(kind)
        case inspect.FloatType():
            return {"type": "number"} | _bounds(kind)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.StrType():
            return {"type": "string"}
        case _:
            raise TypeError(f"{kind} has no schema yet")


def _struct_schema(kind: inspect.StructType) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "description": _sentence(kind.cls),
        "properties": {field.encode_name: schema_of(field.type) for field in kind.fields},
    }
    if required := [field.encode_name for field in kind.fields if field.required]:
        schema["required"] = required
    return schema


def _bounds(kind: inspect.IntType | inspect.FloatType) -> dict[str, Any]:
    return {name: bound for name, bound in (("minimum", kind.ge), ("maximum", kind.le)) if bound is not None}


def _sentence(described: type) -> str:
    """What its author says of a type, on one line."""
    return " ".join((python.getdoc(described) or "").split())
