"""The custom resource that several CAs keep their records in: `carecords.meshd.io` (`meshd.ca.objects`).

Nobody writes one by hand. What is in it is checked for its form, so that what a CA could not read is refused.
"""

from typing import Any, Final

from meshd.api.documents import GROUP, VERSION
from meshd.ca.objects.records import KIND, PLURAL

_NUMBER: Final = {"type": "integer", "format": "int64", "minimum": 0}

_TEXT: Final = {"type": "string"}

_VALUE: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What is under a key, and the number of the transaction by which it came there.",
    "required": ["index"],
    "properties": {"index": _NUMBER, "text": _TEXT, "data": _TEXT, "session": _TEXT},
}

_CHANGE: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What a transaction does to one key of an object.",
    "required": ["object", "label", "key"],
    "properties": {"object": _TEXT, "label": _TEXT, "key": _TEXT, "value": _VALUE},
}

_SPEC: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Keys with values; of the journal also what the last transaction changed elsewhere.",
    "properties": {
        "number": _NUMBER,
        "values": {"type": "object", "additionalProperties": _VALUE},
        "journal": {"type": "array", "items": _CHANGE},
        "session": {
            "type": "object",
            "description": "Of a CA that runs.",
            "required": ["id", "renewed", "ttl_s"],
            "properties": {"id": _TEXT, "renewed": {"type": "number"}, "ttl_s": _NUMBER},
        },
    },
}

DEFINITION: Final[dict[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "meshd"}},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": PLURAL.removesuffix("s")},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "additionalPrinterColumns": [
                    {"name": "Number", "type": "integer", "jsonPath": ".spec.number"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "description": "Something that the mesh's CAs remember, and nobody else is to change.",
                        "required": ["spec"],
                        "properties": {"spec": _SPEC},
                    }
                },
            }
        ],
    },
}
