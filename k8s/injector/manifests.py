"""Manifests as people have them, into the mesh and out of it: every workload in a text, YAML or JSON, with all else in
the text as it was.

`injected` is asked for either the annotation `meshd.io/inject: enabled` on each pod template, which has the webhook do
the rest, or the whole sidecar. `uninjected` takes out what either has put in, byte for byte. Both say of each object
what became of it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml
from msgspec import Struct
from yaml.nodes import MappingNode, Node, SequenceNode

from k8s.injector import BY_HAND, Examined, Injected, Patch, Skipped, Surroundings, examine, inject, reasons
from k8s.injector import annotations as called
from k8s.injector.containers import VOLUMES
from k8s.injector.yaml_edit import (
    Additions,
    Edit,
    Editor,
    Items,
    Named,
    NotEditable,
    Removals,
    edited,
)
from k8s.injector.yaml_values import bare, merge, strip, unshared
from k8s.settings import Installation
from meshd.api.loading import ConfigurationError, Finding

_TEMPLATE: Final[tuple[str, ...]] = ("spec", "template")

TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "Pod": (),
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", *_TEMPLATE),
}
"""Where an object of a kind has its pod: its metadata and its spec."""

NAMESPACE: Final = "Namespace"
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML has it, which is ten times as fast and says the same of places."""

MAX_NESTING: Final = 256

_BYTE_ORDER_MARK: Final = "\ufeff"

MAX_DEPTH: Final = 4
"""Lists in lists."""


class Outcome(Struct, frozen=True):
    """What became of one object. `kind` is empty where the document has none; `changed`: whether its text is another.
    `reasons`: why not, where it could have been; `refused`: it was to be, and cannot."""

    kind: str
    name: str
    changed: bool = False
    done: bool = False
    refused: bool = False
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        return f"{self.kind}/{self.name}"


class _Object(Struct, frozen=True):
    """An object of a text: its node, and what it says."""

    node: MappingNode
    value: dict[str, Any]

    @property
    def kind(self) -> str:
        kind = self.value.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def metadata(self) -> Mapping[str, Any]:
        metadata = self.value.get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    @property
    def name(self) -> str:
        found = self.metadata.get("name") or self.metadata.get("generateName") or ""
        return found if isinstance(found, str) else ""

    def outcome(self, **more: Any) -> Outcome:
        return Outcome(self.kind.lower(), self.name, **more)


Value = dict[str, Any]

Change = tuple[list[Edit], Outcome]
"""The edits that an object needs; what it says has been changed as they will change its text."""


def injected(
    text: str, file: str, settings: Installation | None, *, native: bool = True
) -> tuple[str, list[Outcome]]:  # fmt: skip
    """text with its workloads in the mesh: by annotations, or with the sidecar of `settings` where they are given.
    ConfigurationError where it is no YAML, or of a form that cannot be edited."""

    def change(editor: Editor, found: _Object) -> Change:
        if found.kind == NAMESPACE and settings is None:
            return _annotated(editor, found, found.node, found.value, ())
        path = TEMPLATES.get(found.kind)
        if path is None:
            return [], found.outcome(reasons=(reasons.UNSUPPORTED,) if found.kind else ())
        node, template = _at(found, path)
        if node is None:
            return [], found.outcome(reasons=("it has no pod template",), refused=True)
        namespace = found.metadata.get("namespace")
        around = Surroundings(namespace if isinstance(namespace, str) else "", {}, native, asked=True, by=BY_HAND)
        if settings is None:
            said: Injected | Examined | Skipped = examine(template, around, Installation())
        else:
            said = inject(template, around, settings)
        if isinstance(said, Skipped):
            return [], found.outcome(reasons=said.reasons, refused=said.refused)
        if isinstance(said, Examined):
            return _annotated(editor, found, node, template, said.notes)
        edits = _put(editor, node, template, additions_of(said.patch))
        return edits, found.outcome(changed=True, done=True, notes=said.notes)

    return _changed(text, file, change)


def _annotated(editor: Editor, found: _Object, node: Node, template: Value, notes: tuple[str, ...]) -> Change:
    edits = _put(editor, node, template, {"metadata": {"annotations": {called.INJECT[0]: called.ENABLED}}})
    return edits, found.outcome(changed=bool(edits), done=True, notes=notes)


def _put(editor: Editor, node: Node, value: Value, additions: Additions) -> list[Edit]:
    edits = [*editor.added(node, additions)]
    merge(value, additions)
    return edits


def uninjected(text: str, file: str) -> tuple[str, list[Outcome]]:
    """text without what `injected` puts into one. ConfigurationError as there."""

    def change(editor: Editor, found: _Object) -> Change:
        path = () if found.kind == NAMESPACE else TEMPLATES.get(found.kind)
        node, template = (None, None) if path is None else _at(found, path)
        if node is None:
            return [], found.outcome(reasons=(reasons.UNSUPPORTED,) if found.kind else ())
        ours = _ours(node)
        edits = [*editor.removed(node, ours)]
        strip(template or {}, ours)
        return edits, found.outcome(changed=bool(edits), done=bool(edits))

    return _changed(text, file, change)


def _ours(template: Node) -> Removals:
    """What of a pod is the injector's."""
    annotations = _below(template, ("metadata", "annotations"))
    names = [called.CREATED_BY, called.PROXY_VERSION, called.TRUST_ROOT]
    if isinstance(annotations, MappingNode):
        keys = [key.value for key, _ in annotations.value]
        if any(key.value == called.INJECT[0] and value.value == called.ENABLED for key, value in annotations.value):
            names.append(called.INJECT[0])
        if called.TRUST_ROOT in keys:  # those that it adds stand after it; a person's own before
            later = keys[keys.index(called.TRUST_ROOT) :]
            names += [own for own in map(called.own, (called.OPAQUE_PORTS, called.INBOUND_PORT)) if own in later]
    containers = Named(frozenset((reasons.PROXY, reasons.INIT)))
    return {
        "metadata": {
            "labels": dict.fromkeys((called.CONTROL_PLANE_NS, called.WORKLOAD_NS), True),
            "annotations": dict.fromkeys(names, True),
        },
        "spec": {"initContainers": containers, "containers": containers, "volumes": Named(frozenset(VOLUMES))},
    }


def additions_of(patch: Patch) -> Additions:
    """A patch that only adds, as what is added where."""
    made: Additions = {}
    for operation in patch:
        *above, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        place: Any = made
        for part in above[:-1]:
            place = place.setdefault(part, {})
        if last == "-" or last.isdigit():
            before = place.get(above[-1])
            items = before if isinstance(before, Items) else Items()
            more = (operation["value"],)
            place[above[-1]] = items._replace(last=items.last + more) if last == "-" else items._replace(
                first=items.first + more
            )  # fmt: skip
        elif above:
            place.setdefault(above[-1], {})[last] = _begun(operation["value"])
        else:
            place[last] = _begun(operation["value"])
    return made


def _begun(value: Any) -> Any:
    return {} if value == [] else value


# --- texts


def _changed(text: str, file: str, change: Callable[[Editor, _Object], Change]) -> tuple[str, list[Outcome]]:
    """The edits of every object, made; and read again, to see that they say what was meant and nothing else."""
    if text.startswith(_BYTE_ORDER_MARK):
        result, outcomes = _changed(text.removeprefix(_BYTE_ORDER_MARK), file, change)
        return _BYTE_ORDER_MARK + result, outcomes
    editor = Editor(text)
    edits: list[Edit] = []
    outcomes = []
    documents = [*_documents(text, file)]
    for found in (each for document in documents for each in _objects(document, 0)):
        try:
            made, outcome = change(editor, found)
        except NotEditable as error:
            raise _uneditable(file, str(error), found.outcome().resource) from error
        edits += made
        outcomes.append(outcome)
    if not edits:
        return text, outcomes
    try:
        result = edited(text, edits)
        said = [bare(unshared(value, len(result))) for _, value in parsed(result, file) if value is not None]
    except (NotEditable, ConfigurationError) as error:
        raise _uneditable(file, str(error)) from error
    if said != [bare(document.value) for document in documents]:
        shared = next(filter(None, (editor.shared(document.node) for document in documents)), "")
        if shared:
            why = f"{shared} are one part, by an anchor and its alias, and not all are to be changed: write them out"
            raise _uneditable(file, why)
        raise _uneditable(file, "what comes out says something else: are there anchors and aliases in it?")
    return result, outcomes


def _uneditable(file: str, why: str, where: str = "") -> ConfigurationError:
    return ConfigurationError([Finding(file, f"cannot be edited as it is written: {why}", "", where)])


def _documents(text: str, file: str) -> Iterator[_Object]:
    """The documents of a text that are mappings."""
    for node, value in parsed(text, file):
        if isinstance(node, MappingNode) and isinstance(value, dict):
            try:
                yield _Object(node, unshared(value, len(text)))
            except NotEditable as error:
                raise _uneditable(file, str(error)) from error
        elif value is not None:
            line = node.start_mark.line + 1
            raise ConfigurationError([Finding(file, "expected an object with `kind`", f"line {line}")])


def parsed(text: str, file: str) -> Iterator[tuple[Node, Any]]:
    """(node, value) of each document. ConfigurationError."""
    loader = _Loader(text)
    try:
        _check_nesting(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # there is one
            yield node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError([Finding(file, f"not YAML: {error.problem}", where)]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError([Finding(file, f"not YAML: {str(error).splitlines()[0]}")]) from error
    finally:
        loader.dispose()


def _check_nesting(text: str) -> None:
    """ValueError where it is so deep that who reads it by recursion would run out of stack, as libyaml's composer does
    with no error."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_NESTING:
                raise ValueError(f"more than {MAX_NESTING} collections in each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _objects(found: _Object, depth: int) -> Iterator[_Object]:
    """An object, or those of a list."""
    items = found.value.get("items")
    if not found.kind.endswith("List") or not isinstance(items, list) or depth > MAX_DEPTH:
        yield found
        return
    node = _below(found.node, ("items",))
    if isinstance(node, SequenceNode):
        for each, value in zip(node.value, items, strict=True):
            if isinstance(each, MappingNode) and isinstance(value, dict):
                yield from _objects(_Object(each, value), depth + 1)


def _at(found: _Object, path: tuple[str, ...]) -> tuple[Node | None, Any]:
    """The node at path of an object, and what it says; (None, None) where there is no mapping."""
    node, value = _below(found.node, path), found.value
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None  # type: ignore[assignment]
    return (node, value) if isinstance(node, MappingNode) and isinstance(value, dict) else (None, None)


def _below(node: Node | None, path: tuple[str, ...]) -> Node | None:
    for part in path:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for key, value in node.value if key.value == part), None)
    return node
