"""A place of documents as a source: what of it is in force, what is wrong with it, and the services that it declares.

Those who derive from it read the place, and say what they read (`_take`) or why they cannot (`_lose`). A part of it
that turns bad keeps what was last good of it (`discovery.ledger`); while the whole place cannot be read, everything
known stays, marked stale. What is refused is logged when it is first found, and listed in `findings` for as long as it
lasts.

Of several places the one that goes first is believed (`discovery.overlap`): it is their owner who says which documents
are shadowed so (`shadow`).
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from msgspec.structs import replace

from discovery.catalogue import Catalogue
from discovery.ledger import Ledger, Reading
from discovery.names import Authority
from discovery.source import Answer, Answered, Close, Known, Listed, Looked
from discovery.watchers import Watchers
from meshd.api.control import Health
from meshd.api.documents import Document, Workload
from meshd.api.loading import Finding

log = logging.getLogger(__name__)

DocumentName = tuple[str, str, str]
"""(kind, namespace, name)."""


def name_of(document: Document) -> DocumentName:
    """What no other document of a place is called."""
    return type(document).__name__, document.metadata.namespace, document.metadata.name


class Declared(NamedTuple):
    """A good document: where in its place it is, as in `conf.d/web.yaml:12`, and since when it says what it says, in
    seconds since the epoch."""

    document: Document
    origin: str
    since: float

    @property
    def name(self) -> DocumentName:
        return name_of(self.document)


class DocumentSource(ABC):
    """The documents of one place. `place` is how findings call it, `name` how the status and metrics do. Identities in
    it are of `trust_domain`. Holds nothing before `load`."""

    def __init__(self, name: str, place: str, trust_domain: str, clock: Callable[[], float] = time.time) -> None:
        self.place = place
        self._trust_domain, self._clock = trust_domain, clock
        self._ledger = Ledger()
        self._declared: tuple[Declared, ...] = ()
        self._shadowed: Set[DocumentName] = frozenset()
        self._catalogue = Catalogue()
        self._away = ""
        self._hampered = ""
        self._read_at = 0.0
        self._updates = 0
        self._health = Health(name, healthy=True, since=clock())
        self._logged: frozenset[Finding] = frozenset()
        self._watchers = Watchers(self._find)
        self._subscribers: list[Callable[[], None]] = []

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong now."""
        away = (Finding(self.place, self._away),) if self._away else ()
        return away + self._ledger.findings

    @property
    def declared(self) -> tuple[Declared, ...]:
        """All that is good, shadowed or not."""
        return self._declared

    @property
    def documents(self) -> tuple[Document, ...]:
        """What is in force."""
        return tuple(each.document for each in self._declared if each.name not in self._shadowed)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return tuple(document for document in self.documents if isinstance(document, Workload))

    def watch(self, authority: Authority, answered: Answered) -> Close:
        return self._watchers.watch(authority, answered)

    def health(self) -> Health:
        return self._health

    def known(self) -> Known:
        services, stale = len(self._catalogue), bool(self._away)
        return Known(self._read_at, stale, services, services * stale, self._read_at, self._updates)

    def listed(self) -> Iterator[Listed]:
        watchers, away = self._watchers.count(), self._away
        since = self._health.since if away else 0.0
        for each in self._catalogue.services:
            looked = Looked(replace(each, stale=True) if away else each, self._read_at, 0.0, since, away)
            yield Listed(str(each.service), looked, watchers[each.service])

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after everything that `declared`, `findings` or `health` give may differ."""
        self._subscribers.append(changed)

    def shadow(self, shadowed: Set[DocumentName]) -> None:
        """These are not in force, for another place has what they claim."""
        if shadowed != self._shadowed:
            self._shadowed = shadowed
            self._publish()

    def _find(self, authority: Authority) -> Answer:
        return self._catalogue.find(authority, stale=bool(self._away))

    # --- how it is learned --------------------------------------------------------------------------------------

    @abstractmethod
    def load(self) -> None:
        """Read what is at hand, and look again for what may have changed."""

    @abstractmethod
    def start(self) -> None:
        """See changes as they happen, until `close`."""

    async def recalled(self) -> None:  # noqa: B027 - most have nothing to recall
        """Once it was started: until then less may be known than was known before."""

    @abstractmethod
    async def close(self) -> None:
        """See no more of them; calling it again does nothing."""

    def _take(self, read: Mapping[str, Reading], gone: Iterable[str] = ()) -> None:
        """The place was read: these parts of it differ, or are no more."""
        self._away, self._read_at = "", self._clock()
        self._ledger.update(read, gone)
        self._settle()

    def _lose(self, reason: str) -> None:
        """The place cannot be read."""
        self._away = reason
        self._settle()

    def _hamper(self, reason: str) -> None:
        """It can be read, but not as it should: for the health, and no finding."""
        self._hampered = reason
        self._judge()

    def _settle(self) -> None:
        before = {each.name: each for each in self._declared}
        now = self._clock()
        declared = []
        for file, (document, line) in self._ledger.placed():
            known = before.get(name_of(document))
            since = known.since if known is not None and known.document == document else now
            declared.append(Declared(document, f"{file}:{line}" if line else file, since))
        self._declared = tuple(declared)
        self._report()
        self._judge()
        self._publish()
        for changed in self._subscribers:
            changed()

    def _publish(self) -> None:
        before, self._catalogue = self._catalogue, Catalogue.of(self.documents, self._trust_domain)
        self._updates += self._catalogue.differences(before)
        self._watchers.refresh()

    def _report(self) -> None:
        for finding in self.findings:
            if finding not in self._logged:
                log.error("%s (what was last good stays in force)", finding)
        if self._logged and not self.findings:
            log.info("%s: all documents are good again", self.place)
        self._logged = frozenset(self.findings)

    def _judge(self) -> None:
        healthy = not self.findings
        message = self._hampered if healthy else "; ".join(map(str, self.findings[:3]))
        since = self._health.since if healthy == self._health.healthy else self._clock()
        self._health = Health(self._health.name, healthy, message, since)
