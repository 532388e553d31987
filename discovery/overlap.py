"""What several places of documents claim alike. Within one place that is refused (`discovery.ledger`); between places
the first is believed, which is seldom what was meant."""

from collections.abc import Iterable, Iterator

from discovery.documents import claims
from discovery.file import FileSource
from meshd.api.loading import Finding


def overlaps(sources: Iterable[FileSource]) -> Iterator[Finding]:
    """A finding for everything in a source that one before it has."""
    owners: dict[tuple[str, ...], FileSource] = {}
    for source in sources:
        for document in source.documents:
            for key, text in claims(document):
                owner = owners.setdefault(key, source)
                if owner is not source:
                    yield Finding(
                        str(source.path), f"{text} is also in {owner.path}, which goes first: remove one of them"
                    )
