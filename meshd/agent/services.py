"""What sources know of services and how old that is, for the status, `meshd services` and `meshd check`."""

from collections.abc import Iterator
from heapq import nsmallest

from msgspec.structs import replace

from discovery.chain import Chain
from discovery.source import Answer, Listed, NotYet
from meshd.api.control import Services, ServiceStatus, SourceStatus, Standing
from meshd.api.endpoints import EndpointSet

MAX_LISTED = 10_000
"""Services of one answer, some 300 bytes each, and what is wrong with them."""

MAX_TROUBLE = 500
"""Characters of what is wrong."""

MAX_STALE = 100
"""Services that the status says are stale."""


def standing(answer: Answer) -> Standing:
    """What an answer comes to."""
    if isinstance(answer, EndpointSet):
        return "known"
    return "cannot say" if isinstance(answer, NotYet) else "unknown"


def build_services(discovery: Chain) -> Services:
    """All that is known, with each source's in the order of names."""
    every = [_service(source, listed) for source, listed in discovery.listed()]
    places = {name: -place for place, name in enumerate(reversed(discovery.names))}
    every.sort(key=lambda each: (places[each.source], not each.namespace, each.namespace, each.name, each.port))
    return Services(tuple(every[:MAX_LISTED]), max(0, len(every) - MAX_LISTED))


def stale_services(discovery: Chain) -> tuple[ServiceStatus, ...]:
    """Those that are served stale, or cannot be said because of their registry, for the longest time first."""
    return tuple(
        nsmallest(MAX_STALE, _stale(discovery), key=lambda each: (each.stale_since, each.namespace, each.name))
    )


def _stale(discovery: Chain) -> Iterator[ServiceStatus]:
    for source, listed in discovery.listed():
        if listed.looked.stale_since and listed.looked.answer is not None:
            yield _service(source, listed)


def source_statuses(discovery: Chain) -> tuple[SourceStatus, ...]:
    """Each source, in the order of its `health`."""
    sources = zip(discovery.names, discovery.health(), discovery.known(), strict=True)
    return tuple(
        SourceStatus(
            source=name,
            health=health.name,
            stale=known.stale,
            denied=known.denied,
            services=known.services,
            stale_services=known.stale_services,
            read_at=known.read_at,
            oldest_read_at=known.oldest_read_at,
            updates=known.updates,
        )
        for name, health, known in sources
    )


def _service(source: str, listed: Listed) -> ServiceStatus:
    looked = listed.looked
    found = looked.answer if isinstance(looked.answer, EndpointSet) else None
    status = ServiceStatus(
        source,
        listed.name,
        standing(looked.answer),
        watchers=listed.watchers,
        read_at=looked.read_at,
        changed_at=looked.changed_at,
        stale_since=looked.stale_since,
        trouble=looked.trouble[:MAX_TROUBLE],
    )
    if found is None:
        return status
    return replace(
        status,
        name=found.service.name,
        namespace=found.service.namespace,
        port=found.service.port,
        protocol=found.protocol,
        endpoints=len(found.endpoints),
        meshed=sum(bool(each.identity) for each in found.endpoints),
    )
