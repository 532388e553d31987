"""What the documents of all places come to: which are in force, and what they say of this host.

The places come in the order in which they are believed. Whoever owns this calls `settle` after one of them changed, and
hands on what it gives.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from discovery.chain import Named
from discovery.declaring import DocumentName, DocumentSource
from discovery.overlap import Shadow, overlaps, shadows, unknown
from discovery.rules import Rule, rules
from meshd.agent.health.monitor import Check, checks_of
from meshd.api.control import ProxyWorkload
from meshd.api.documents import Document, Selector, Workload, WorkloadCapture, WorkloadPort
from meshd.api.loading import Finding
from meshd.api.names import WorkloadName

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A source as the settings call it, and what of it is shadowed."""

    name: str
    source: DocumentSource
    shadowed: Mapping[DocumentName, Shadow] = {}


class Captured(NamedTuple):
    """A workload whose connections are captured: its ports, and how. `is_unseen`: each of its selectors asks for an
    executable, which the kernel does not say of a connection, so that none is ever taken for the workload's."""

    workload: WorkloadName
    ports: tuple[int, ...]
    capture: WorkloadCapture
    is_unseen: bool = False

    @classmethod
    def of(cls, workload: Workload) -> "Captured | None":
        """None where its connections are not to be captured."""
        spec = workload.spec
        if spec.capture is None:
            return None
        is_unseen = bool(spec.selectors) and all(each.executable is not None for each in spec.selectors)
        return cls(workload.metadata.workload, tuple(port.port for port in spec.ports), spec.capture, is_unseen)


class Documents:
    """Those of `sources`, as far as they are places of documents. Services may name those that are `known`."""

    def __init__(self, sources: Sequence[Named], known: Iterable[str] | None = None) -> None:
        self.places = tuple(
            Place(each.name, each.source) for each in sources if isinstance(each.source, DocumentSource)
        )
        self._known = None if known is None else frozenset(known)
        self._overlaps: tuple[Finding, ...] = ()

    @property
    def sources(self) -> tuple[DocumentSource, ...]:
        return tuple(place.source for place in self.places)

    # --- following them -----------------------------------------------------------------------------------------

    def start(self, changed: Callable[[], None]) -> None:
        """Read what is at hand, and call `changed` whenever a place did."""
        for source in self.sources:
            source.load()
            source.start()
            source.subscribe(changed)

    async def recalled(self) -> None:
        """Once started: what was known before is known, of places that are away too."""
        for source in self.sources:
            await source.recalled()

    def load(self) -> None:
        """Look again for what may have changed."""
        for source in self.sources:
            source.load()

    async def close(self) -> None:
        for source in self.sources:
            await source.close()

    def settle(self) -> None:
        """Decide anew which documents are in force."""
        shadowed = shadows(source.declared for source in self.sources)
        self.places = tuple(place._replace(shadowed=own) for place, own in zip(self.places, shadowed, strict=True))
        for place in self.places:
            place.source.shadow(place.shadowed.keys())
        found = (*overlaps(shadowed), *self._unknown())
        for each in found:
            if each not in self._overlaps:
                log.error("%s", each)
        self._overlaps = found

    def _unknown(self) -> Iterator[Finding]:
        for place in self.places if self._known is not None else ():
            assert self._known is not None
            in_force = (each for each in place.source.declared if each.name not in place.shadowed)
            yield from unknown(in_force, self._known)

    # --- what they say --------------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is refused of them, what is shadowed, and what names a source that there is not."""
        return (*(each for source in self.sources for each in source.findings), *self._overlaps)

    def rules(self) -> dict[tuple[str, str], Rule]:
        return rules(self._documents())

    def workloads(self) -> tuple[ProxyWorkload, ...]:
        """What the host's proxy is to serve."""
        return tuple(map(_served, self._workloads()))

    def checks(self) -> Iterator[Check]:
        """How it is found out whether they are well."""
        for each in self._workloads():
            yield from checks_of(each)

    def selectors(self) -> dict[WorkloadName, tuple[Selector, ...]]:
        """Which processes are which workload."""
        return {each.metadata.workload: each.spec.selectors for each in self._workloads() if each.spec.selectors}

    def captured(self) -> tuple[Captured, ...]:
        """Those whose connections are captured."""
        return tuple(filter(None, map(Captured.of, self._workloads())))

    def _workloads(self) -> Iterator[Workload]:
        return (each for each in self._documents() if isinstance(each, Workload))

    def _documents(self) -> Iterator[Document]:
        for source in self.sources:
            yield from source.documents


def _served(workload: Workload) -> ProxyWorkload:
    name, spec = workload.metadata, workload.spec
    ports = tuple(WorkloadPort(each.port, each.protocol, each.address) for each in spec.ports)
    return ProxyWorkload(name.namespace, name.name, ports, spec.upstreams, spec.opaque_ports)
