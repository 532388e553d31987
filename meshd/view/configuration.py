"""`meshd diagnostics config`: what the agent answers to `GetConfiguration`, as text or as data.

The data (`-o json`, `-o yaml`) are the fields of `meshd.api.control.Configuration` under their own names; a document in
it has the form that it has in a file. They are added to, never renamed; times are seconds since the epoch.
"""

from typing import Any

import msgspec

from meshd.api.control import Configuration, ConfigurationFinding, ConfiguredDocument
from meshd.view.figures import NOTHING, span
from meshd.view.tables import cell, table

HEADING = ("KIND", "NAMESPACE", "NAME", "SOURCE", "AGE", "STATE", "ORIGIN", "BY")


def as_data(found: Configuration) -> dict[str, Any]:
    """The configuration as JSON's and YAML's own types."""
    data: dict[str, Any] = msgspec.to_builtins(found)
    del data["type"]
    for each in data["documents"]:
        if each["document"] is None:
            del each["document"]
    return data


def as_text(found: Configuration, now: float) -> str:
    """The documents, then what is refused; `now` in seconds since the epoch."""
    parts = [_documents(found, now)]
    if found.left_out:
        parts.append([f"and {found.left_out} more"])
    if found.refused:
        parts.append(["refused (what was last good stays in force):", *map(_refused, found.refused)])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _documents(found: Configuration, now: float) -> list[str]:
    if not found.documents:
        places = ", ".join(place.place for place in found.places)
        return [f"There is no document in {places}." if places else "This agent reads no documents."]
    rows = sorted(found.documents, key=lambda each: (each.kind, each.namespace, each.name))
    return table(HEADING, [_row(each, now) for each in rows])


def _row(each: ConfiguredDocument, now: float) -> tuple[str, ...]:
    state = "shadowed" if each.shadowed_by else "stale" if each.stale else "in-force"
    return (
        each.kind,
        each.namespace,
        each.name,
        cell(each.source),
        span(now - each.since),
        state,
        cell(each.origin),
        cell(each.shadowed_by) if each.shadowed_by else NOTHING,
    )


def _refused(each: ConfigurationFinding) -> str:
    said = ": ".join(part for part in (each.origin, each.document, each.path, each.message) if part)
    return f"  {''.join(char if char.isprintable() else '?' for char in said)}"
