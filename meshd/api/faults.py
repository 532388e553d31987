"""Everything that is wrong with a value that should have been of a type, not only the first thing.

msgspec stops at the first fault. Once it has found one, its parts are converted one by one, as far down as there are
mappings and lists, and each part's first fault is a fault of the whole. `meshd.api.loading` makes findings of them.
"""

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec.structs import fields

_AT = re.compile(r"(?s)(.*) - at `\$?\.?(.*)`")


class Fault(NamedTuple):
    """`path` is as in spec.ports[0].port; empty for the value itself."""

    path: str
    message: str


def faults(value: Any, kind: Any) -> Iterator[Fault]:
    """What is wrong with value as `kind`; nothing when it is right."""
    found = [*_inside(value, kind)]
    if found:
        yield from found
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield _fault(str(error))


def _inside(value: Any, kind: Any) -> Iterator[Fault]:
    """The faults of value's parts."""
    kind = _meant(value, kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        yield from _of_struct(value, kind)
    elif get_origin(kind) is tuple and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _below(f"[{number}]", faults(item, get_args(kind)[0]))


def _of_struct(value: dict[Any, Any], kind: type[msgspec.Struct]) -> Iterator[Fault]:
    known = {field.encode_name: field for field in fields(kind)}
    tag = kind.__struct_config__.tag_field
    for name, field in known.items():
        if name in value:
            yield from _below(name, faults(value[name], field.type))
        elif field.required:
            yield Fault("", f"missing the field `{name}`")
    if kind.__struct_config__.forbid_unknown_fields:
        for name in value:
            if name not in known and name != tag:
                yield Fault("", f"unknown field `{name}`")


def _meant(value: Any, kind: Any) -> Any:
    """kind without annotations; of several tagged structs the one that value says it is; of something or None the
    something."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    something = [option for option in get_args(kind) if option is not NoneType] if isinstance(kind, UnionType) else []
    if len(something) == 1:
        return kind if value is None else something[0]
    if something and isinstance(value, dict):
        for option in something:
            config = getattr(option, "__struct_config__", None)
            if config is not None and config.tag is not None and value.get(config.tag_field) == config.tag:
                return option
    return kind


def _below(place: str, found: Iterator[Fault]) -> Iterator[Fault]:
    for path, message in found:
        yield Fault(f"{place}{'' if not path or path.startswith('[') else '.'}{path}", message)


def _fault(message: str) -> Fault:
    found = _AT.fullmatch(message)
    text, path = (message, "") if found is None else (found[1], found[2].replace("[...]", ".*"))
    return Fault(path, text[0].lower() + text[1:])
