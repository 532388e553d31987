"""What several places of documents claim alike. Within one place that is refused (`discovery.ledger`); between places
the first is believed, and the document of the other is shadowed: not in force, whatever else it claims. And what they
say of places that there are not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from discovery.declaring import Declared, DocumentName
from discovery.documents import claims
from meshd.api.documents import Service
from meshd.api.loading import Finding


class Shadow(NamedTuple):
    """A document at `origin` is shadowed: `text` is what another claims, too, and `by` where that one is."""

    origin: str
    text: str
    by: str

    @property
    def finding(self) -> Finding:
        """What an operator is told of it."""
        return Finding(self.origin, f"{self.text} is also in {self.by}, which goes first: remove one of them")


def shadows(places: Iterable[Iterable[Declared]]) -> list[dict[DocumentName, Shadow]]:
    """For each place, in the order in which they are believed, what of it is shadowed. What is shadowed claims nothing,
    and so shadows nothing itself."""
    owners: dict[tuple[str, ...], str] = {}
    found: list[dict[DocumentName, Shadow]] = []
    for place in places:
        shadowed: dict[DocumentName, Shadow] = {}
        for each in place:
            own = tuple(claims(each.document))
            taken = next((claim for claim in own if claim.key in owners), None)
            if taken is not None:
                shadowed[each.name] = Shadow(each.origin, taken.text, owners[taken.key])
            else:
                owners.update((claim.key, each.origin) for claim in own)
        found.append(shadowed)
    return found


def unknown(declared: Iterable[Declared], known: Iterable[str]) -> Iterator[Finding]:
    """A finding for every back end that a service is to be asked of and that nobody calls so: it is asked of the others
    alone, and where there is none of nobody."""
    names = sorted(set(known))
    expected = f"expected one of {', '.join(f'`{name}`' for name in names)}"
    for each in declared:
        if not isinstance(each.document, Service):
            continue
        label = f"Service {each.document.metadata.name}"
        for index, name in enumerate(each.document.spec.discovery):
            if name not in names:
                yield Finding(each.origin, f"{expected}, got `{name}`", f"spec.discovery[{index}]", label)


def overlaps(places: Iterable[Mapping[DocumentName, Shadow]]) -> tuple[Finding, ...]:
    """A finding for everything that is shadowed."""
    return tuple(each.finding for shadowed in places for each in shadowed.values())
