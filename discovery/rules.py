"""What `Service` documents without endpoints say of services that are known from elsewhere: which sources to ask, in
what order and whether all of them, and how callers treat the service."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from meshd.api.detection import listed
from meshd.api.documents import Document, Service
from meshd.api.endpoints import Endpoint, EndpointSet

Treated = Callable[[EndpointSet], EndpointSet]


class Rule(NamedTuple):
    """`order`: names of sources, those that are asked, the first believed first; empty: all, as configured. With
    `merge` the endpoints of all of them are the service's. `service` is the document, None for no document."""

    order: tuple[str, ...] = ()
    merge: bool = False
    service: Service | None = None

    def treat(self, found: EndpointSet) -> EndpointSet:
        """What was found, as the document has it treated."""
        if self.service is None:
            return found
        spec = self.service.spec
        protocol = found.protocol if spec.protocol == "auto" else spec.protocol
        endpoints = found.endpoints
        if spec.protocol != "auto":
            endpoints = tuple(replace(each, protocol=protocol) for each in endpoints)
        opaque = listed(spec.port, spec.opaque_ports)
        return replace(
            found,
            endpoints=endpoints,
            protocol=protocol,
            policy=spec.policy,
            opaque=found.opaque if opaque is None else opaque,
        )


NO_RULE = Rule()


def rules(documents: Iterable[Document]) -> dict[tuple[str, str], Rule]:
    """By (name, namespace); of several documents for a service the first counts."""
    found: dict[tuple[str, str], Rule] = {}
    for document in documents:
        if isinstance(document, Service) and document.spec.endpoints is None:
            name, spec = document.metadata, document.spec
            found.setdefault((name.name, name.namespace), Rule(spec.discovery, spec.merge, document))
    return found


def merged(sets: Sequence[EndpointSet]) -> EndpointSet:
    """The endpoints of all of them under the name and the treatment of the first; of two at one address and port, the
    one that comes first."""
    first = sets[0]
    endpoints: dict[tuple[str, int], Endpoint] = {}
    for each in sets:
        for endpoint in each.endpoints:
            endpoints.setdefault((endpoint.address, endpoint.port), endpoint)
    return replace(
        first,
        endpoints=tuple(endpoints.values()),
        stale=any(each.stale for each in sets),
        source=", ".join(dict.fromkeys(each.source for each in sets if each.source)),
        protocol=next((each.protocol for each in sets if each.protocol != "auto"), "auto"),
    )
