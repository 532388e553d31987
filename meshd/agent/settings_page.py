"""`docs/settings.md`, made from the types in `meshd.agent.settings`, so that it cannot say anything else than they do.

python -m meshd.agent.settings_page > docs/settings.md
"""

from collections.abc import Iterator

import msgspec
from msgspec import inspect

from meshd.agent.settings import SETTINGS_FILE, Settings
from meshd.ca.settings import SETTINGS_FILE as CA_SETTINGS_FILE
from meshd.ca.settings import CaDaemonSettings

_HEAD = f"""\
# Settings

## The agent

The agent reads `{SETTINGS_FILE}` (`meshd agent --config FILE` for another). `meshd agent --check` says all that is
wrong with it and with the documents beside it, and changes nothing. This page is made from the types that read the file
(`python -m meshd.agent.settings_page`); [configuration.md](configuration.md) explains how it all fits together.

On SIGHUP the file is read again, with the CA's files that it names: `ca`, `proxy` and `control` are in force at once,
the rest after a restart of the agent. When anything in it is wrong, all of it stays as it was.

| setting | type | default | meaning |
|---|---|---|---|
"""


_CA_HEAD = f"""
## The CA

`meshd ca serve` reads `{CA_SETTINGS_FILE}` (`--config FILE` for another) when it starts; there need be none.
[ca.md](ca.md) explains it.

| setting | type | default | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The page, as Markdown."""
    return _HEAD + table(Settings) + _CA_HEAD + table(CaDaemonSettings)


def table(settings: type[msgspec.Struct]) -> str:
    """The rows of all settings in a tree of types, as Markdown."""
    root = inspect.type_info(settings)
    assert isinstance(root, inspect.StructType)
    return "".join(f"| {' | '.join(row)} |\n" for row in _rows(root, ""))


_MANY: dict[type[inspect.Type], tuple[str, str]] = {
    inspect.VarTupleType: ("list of mappings", "[]"),
    inspect.DictType: ("names to mappings", ".NAME"),
}
"""What holds mappings: how it is called, and what stands for one of them in a path."""


def _rows(struct: inspect.StructType, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for field in struct.fields:
        kind, description = _described(field.type)
        path = f"`{prefix}{field.encode_name}`"
        nested = _nested(kind)
        if nested is None:
            yield path, _type_name(kind), _default(field), description
        else:
            form, part = _MANY.get(type(kind), ("mapping", ""))
            yield path, form, _default(field) if part else "", description
            yield from _rows(nested, f"{prefix}{field.encode_name}{part}.")


def _described(kind: inspect.Type) -> tuple[inspect.Type, str]:
    assert isinstance(kind, inspect.Metadata)
    assert kind.extra_json_schema is not None
    return _present(kind.type), str(kind.extra_json_schema["description"])


def _present(kind: inspect.Type) -> inspect.Type:
    """What may be there, of what need not be."""
    if isinstance(kind, inspect.UnionType):
        present = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return present[0] if len(present) == 1 else kind
    return kind


def _nested(kind: inspect.Type) -> inspect.StructType | None:
    if isinstance(kind, inspect.VarTupleType):
        kind = kind.item_type
    if isinstance(kind, inspect.DictType):
        kind = kind.value_type
    return kind if isinstance(kind, inspect.StructType) else None


def _type_name(kind: inspect.Type) -> str:
    names: dict[type[inspect.Type], str] = {
        inspect.StrType: "text",
        inspect.IntType: "whole number",
        inspect.FloatType: "number",
        inspect.BoolType: "`true` or `false`",
    }
    if isinstance(kind, inspect.VarTupleType):
        item = kind.item_type
        return f"list of {_type_name(item)}{'' if isinstance(item, inspect.LiteralType) else 's'}"
    if isinstance(kind, inspect.DictType):
        return f"names to {names[type(kind.value_type)]}s"
    if isinstance(kind, inspect.UnionType):
        return " or ".join(map(_type_name, kind.types))
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    return names[type(kind)]


def _default(field: inspect.Field) -> str:
    if field.required:
        return "must be given"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default  # a mapping has one
    return f"`{msgspec.json.encode(default).decode()}`"


if __name__ == "__main__":
    print(settings_page(), end="")
