"""The types of the built-in kinds, as the client library has them from the API's own description: what a strict server
says of an object that does not fit them. (Defaults and what fields mean together are not known here.)"""

import importlib
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic


@cache
def model(name: str) -> Any:
    """The library's model of a kind, as in `V1Deployment`."""
    return getattr(importlib.import_module("kubernetes.client"), name)


def unknown(name: str, content: dict[str, Any]) -> list[str]:
    """The paths of fields that are none."""
    return [*_unknown(model(name), content, "")]


def misfit(name: str, content: dict[str, Any]) -> str:
    """Why content is not of that kind; empty when it is."""
    try:
        model(name).from_dict(content)
    except (pydantic.ValidationError, ValueError) as error:
        return str(error)
    return ""


def _unknown(kind: Any, value: Any, path: str) -> Iterator[str]:
    kind = _meant(kind)
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) and isinstance(value, dict):
        names = {alias: name for name, alias in kind.attribute_map.items()}  # type: ignore[attr-defined]
        for key, each in value.items():
            where = f"{path}.{key}" if path else key
            if key not in names:
                yield where
            else:
                name = names[key].removeprefix("_")  # `_exec`, which Python once had, is `var_exec`, as `schema` is
                field = kind.model_fields.get(name) or kind.model_fields[f"var_{name}"]
                yield from _unknown(field.annotation, each, where)
    elif get_origin(kind) is list and isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unknown(get_args(kind)[0], each, f"{path}[{number}]")
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from _unknown(get_args(kind)[1], each, f"{path}.{key}")


def _meant(kind: Any) -> Any:
    """A type without what is said about it, and without that it may be None."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        else:
            (kind, *_) = [each for each in get_args(kind) if each is not type(None)]
    return kind
