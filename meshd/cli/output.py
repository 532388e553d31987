"""`-o`, for all verbs that have it: which forms there are, and data as a document."""

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

DOCUMENTS: Final = ("json", "yaml")
"""Forms for programs, which `as_document` makes of data; others are the verbs' own."""


def output_option(*forms: str, text: str = "How to print it.") -> Callable[[F], F]:
    """-o FORM, one of these, as `output`; the first where none is said."""
    return click.option("-o", "--output", type=click.Choice(forms), default=forms[0], show_default=True, help=text)


def as_document(data: Any, form: str) -> str:
    """In one of `DOCUMENTS`, which ends with its line."""
    if form == "json":
        return json.dumps(data, indent=2) + "\n"
    import yaml  # noqa: PLC0415 - other forms do without

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
