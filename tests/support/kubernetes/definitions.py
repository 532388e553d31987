"""CustomResourceDefinitions: a kind of their own, each of which makes further kinds."""

from typing import Any

from tests.support.kubernetes import schema
from tests.support.kubernetes.core import wrong_name
from tests.support.kubernetes.kinds import CUSTOM_VERBS, Kind, Object, status_of
from tests.support.kubernetes.refusals import Cause, invalid, required

_NOT_YET: dict[str, Any] = {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}}


def whole(content: Object, old: Object | None) -> None:
    spec = content.setdefault("spec", {})
    names = spec.get("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    if old is None:
        content["status"] = _NOT_YET | {
            "storedVersions": [each["name"] for each in spec.get("versions", ()) if each.get("storage")]
        }


def wrong(content: Object, _old: Object | None) -> list[Cause]:
    spec, causes = content["spec"], wrong_name(content, labels_only=False)
    plural, group = spec.get("names", {}).get("plural", ""), spec.get("group", "")
    causes += [required(f"spec.{name}") for name in ("group", "scope") if not spec.get(name)]
    causes += [required(f"spec.names.{name}") for name in ("plural", "kind") if not spec.get("names", {}).get(name)]
    if not causes and content["metadata"]["name"] != f"{plural}.{group}":
        said = f'"{content["metadata"]["name"]}"'
        causes.append(invalid("metadata.name", said, 'must be spec.names.plural+"."+spec.group'))
    versions = spec.get("versions", [])
    if sum(bool(each.get("storage")) for each in versions) != 1:
        causes.append(invalid("spec.versions", "[]", "must have exactly one version marked as storage version"))
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}].schema.openAPIV3Schema"
        found = version.get("schema", {}).get("openAPIV3Schema")
        if found is None:
            causes.append(Cause(path, "Required value: schemas are required", "FieldValueRequired"))
        elif found.get("type") != "object":
            causes.append(invalid(f"{path}.type", f'"{found.get("type", "")}"', "must be object at the root"))
    return causes


def established(content: Object, now: str) -> Object:
    """content once its names are accepted, which is soon after it was created."""
    names = content["spec"]["names"]
    conditions = [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ]
    status = content["status"] | {
        "acceptedNames": names,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
            for kind, reason, message in conditions
        ],
    }
    return content | {"status": status}


def kinds_of(content: Object) -> list[Kind]:
    """The kinds that a definition makes, one a version that is served."""
    spec = content["spec"]
    names = spec["names"]
    return [_kind(spec, names, version) for version in spec["versions"] if version.get("served")]


def _kind(spec: Object, names: Object, version: Object) -> Kind:
    structural = version["schema"]["openAPIV3Schema"]
    body = structural | {
        "properties": structural.get("properties", {})
        | {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        }
    }

    def wrong_custom(content: Object, _old: Object | None) -> list[Cause]:
        return wrong_name(content, labels_only=False) + schema.wrong(content, body)

    return Kind(
        names["plural"],
        names["kind"],
        spec["group"],
        version["name"],
        namespaced=spec["scope"] == "Namespaced",
        verbs=CUSTOM_VERBS,
        short=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        subresources=(status_of(names["plural"], names["kind"]),)
        if "status" in version.get("subresources", {})
        else (),
        wrong=wrong_custom,
        counts_generations=True,
        schema=body,
    )


DEFINITIONS = Kind(
    "customresourcedefinitions", "CustomResourceDefinition", "apiextensions.k8s.io", namespaced=False,
    short=("crd", "crds"), categories=("api-extensions",), whole=whole, wrong=wrong, counts_generations=True,
    subresources=(status_of("customresourcedefinitions", "CustomResourceDefinition"),),
)  # fmt: skip
