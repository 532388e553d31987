"""The kinds of object that the double serves: as discovery lists them, and how each is made whole and checked."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.kubernetes.refusals import Cause

Object = dict[str, Any]
Read = Callable[[Object], Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CUSTOM_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")


def _unchanged(_content: Object, _old: Object | None) -> None:
    pass


def _nothing_wrong(_content: Object, _old: Object | None) -> list[Cause]:
    return []


@dataclass(frozen=True)
class Kind:
    """One resource of the API. `whole` fills in what was left out; `wrong` says what is wrong with what is whole, an
    object on its way in or over an old one; `fields` are the field selectors besides the name and the namespace.
    `empty` is what a bookmark of it has besides its metadata."""

    plural: str
    name: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    verbs: tuple[str, ...] = VERBS
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Mapping[str, Any], ...] = ()
    whole: Callable[[Object, Object | None], None] = _unchanged
    wrong: Callable[[Object, Object | None], list[Cause]] = _nothing_wrong
    fields: Mapping[str, Read] = field(default_factory=dict)
    empty: Mapping[str, Any] = field(default_factory=dict)
    counts_generations: bool = False
    returns_deleted: bool = False
    warning: str = ""
    schema: Mapping[str, Any] | None = None
    """Of a custom resource."""
    model: str = ""
    """The library's type of a built-in kind that is held to it (`tests.support.kubernetes.models`)."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """Under which the store has it."""
        return f"{self.plural}.{self.group}"

    @property
    def has_status(self) -> bool:
        return any(each["name"] == f"{self.plural}/status" for each in self.subresources)

    @property
    def selectable(self) -> dict[str, Read]:
        meta: dict[str, Read] = {"metadata.name": lambda each: each["metadata"]["name"]}
        if self.namespaced:
            meta["metadata.namespace"] = lambda each: each["metadata"]["namespace"]
        return meta | dict(self.fields)

    def listed(self) -> list[Object]:
        """Its entries in an APIResourceList."""
        entry: Object = {"name": self.plural, "singularName": self.name.lower(), "namespaced": self.namespaced}
        entry |= {"kind": self.name, "verbs": list(self.verbs)}
        if self.short:
            entry["shortNames"] = list(self.short)
        if self.categories:
            entry["categories"] = list(self.categories)
        if "get" in self.verbs:
            digest = hashlib.sha256(f"{self.group}/{self.version}/{self.name}".encode()).digest()
            entry["storageVersionHash"] = base64.b64encode(digest[:8]).decode()
        return [entry, *({"singularName": "", "namespaced": self.namespaced, **each} for each in self.subresources)]


def status_of(plural: str, kind: str) -> Object:
    return {"name": f"{plural}/status", "kind": kind, "verbs": ["get", "patch", "update"]}
