"""Endpoint sets as what differs from the last: how a large service with one endpoint more reaches a proxy.

An endpoint is known by its address and port; a set in which two are alike there has no differences, and is said whole.
Pure, and one the inverse of the other: `applied(before, difference(before, now))` has the endpoints of now, in whatever
order.
"""

from msgspec.structs import replace

from meshd.api.control import Destination, DestinationChange
from meshd.api.endpoints import Endpoint, EndpointSet

WORTH_IT = 2
"""A change is said when it has so many times fewer endpoints than the whole."""


class Differing(Exception):
    """A change of something that is not known."""


def told(before: EndpointSet | None, now: EndpointSet | None) -> Destination | DestinationChange:
    """What one who knows `before` is to be told, to know `now`."""
    if before is None or now is None:
        return Destination(now)
    return difference(before, now) or Destination(now)


def difference(before: EndpointSet, now: EndpointSet) -> DestinationChange | None:
    """The change from one to the other, None where it is better said whole."""
    if not before.endpoints or len(now.endpoints) < WORTH_IT:
        return None
    known, present = _by_place(before), _by_place(now)
    if len(known) < len(before.endpoints) or len(present) < len(now.endpoints):
        return None
    changed = tuple(each for place, each in present.items() if known.get(place) != each)
    removed = tuple(place for place in known if place not in present)
    if WORTH_IT * (len(changed) + len(removed)) > len(now.endpoints):
        return None
    return DestinationChange(replace(now, endpoints=changed), removed)


def applied(before: EndpointSet | None, change: DestinationChange) -> EndpointSet:
    """What is known after the change. Differing."""
    if before is None:
        raise Differing("a change of endpoints, and none are known")
    endpoints = _by_place(before)
    for place in change.removed:
        if endpoints.pop(place, None) is None:
            raise Differing(f"an endpoint is removed that is not known: {place}")
    endpoints |= _by_place(change.now)
    return replace(change.now, endpoints=tuple(endpoints.values()))


def _by_place(endpoints: EndpointSet) -> dict[tuple[str, int], Endpoint]:
    return {(each.address, each.port): each for each in endpoints.endpoints}
