"""What is in force of the mesh's documents, and where each came from, as `meshd diagnostics config` shows it."""

from collections.abc import Iterator
from typing import Final

import msgspec

from discovery.declaring import Declared
from discovery.overlap import Shadow
from meshd.agent.documents import Documents, Place
from meshd.api.control import Configuration, ConfigurationFinding, ConfigurationPlace, ConfiguredDocument

MAX_BYTES: Final = 8 << 20
"""What the documents of an answer may measure."""


def build_configuration(documents: Documents, whole: bool, bytes_left: int = MAX_BYTES) -> Configuration:
    """Of all places, the first believed first; with `whole`, what the documents say, too. The documents that are told
    have bytes_left; others are counted."""
    told: list[ConfiguredDocument] = []
    left_out = 0
    for each in _documents(documents, whole):
        bytes_left -= len(msgspec.json.encode(each))
        if bytes_left < 0:
            left_out += 1
        else:
            told.append(each)
    return Configuration(tuple(map(_place, documents.places)), tuple(told), tuple(_refused(documents)), left_out)


def _place(place: Place) -> ConfigurationPlace:
    known = place.source.known()
    return ConfigurationPlace(place.name, place.source.place, known.read_at, known.stale)


def _documents(documents: Documents, whole: bool) -> Iterator[ConfiguredDocument]:
    for place in documents.places:
        for each in place.source.declared:
            yield _document(place, each, place.shadowed.get(each.name), whole)


def _document(place: Place, declared: Declared, shadow: Shadow | None, whole: bool) -> ConfiguredDocument:
    kind, namespace, name = declared.name
    return ConfiguredDocument(
        kind=kind,
        namespace=namespace,
        name=name,
        source=place.name,
        origin=declared.origin,
        since=declared.since,
        stale=place.source.known().stale,
        shadowed_by="" if shadow is None else shadow.by,
        document=msgspec.to_builtins(declared.document) if whole else None,
    )


def _refused(documents: Documents) -> Iterator[ConfigurationFinding]:
    for place in documents.places:
        for each in place.source.findings:
            yield ConfigurationFinding(place.name, each.file, each.document, each.path, each.message)
