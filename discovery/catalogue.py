"""The services whose endpoints a set of documents declares, ready to be looked up: by name, and by address.

A catalogue is immutable; the back end that holds it swaps it whole.
"""

from collections.abc import Iterable
from typing import Self

from msgspec.structs import replace

from discovery.names import Authority, mesh_name
from meshd.api.detection import listed
from meshd.api.documents import Document, Service
from meshd.api.endpoints import EndpointSet, ServiceName, endpoint_of


class Catalogue:
    """Services by (name, namespace); when two endpoints share an address, the first service has it."""

    def __init__(self, services: Iterable[EndpointSet] = ()) -> None:
        self._by_name: dict[tuple[str, str], EndpointSet] = {}
        self._by_address: dict[tuple[str, int], EndpointSet] = {}
        for service in services:
            self._by_name[service.service.name, service.service.namespace] = service
            for endpoint in service.endpoints:
                alone = replace(service, endpoints=(endpoint,))
                self._by_address.setdefault((endpoint.address, endpoint.port), alone)

    @classmethod
    def of(cls, documents: Iterable[Document], trust_domain: str) -> Self:
        """The services among documents, their workloads' identities being in trust_domain."""
        return cls(
            _endpoint_set(document, trust_domain)
            for document in documents
            if isinstance(document, Service) and document.spec.endpoints is not None
        )

    @property
    def services(self) -> Iterable[EndpointSet]:
        """All of them."""
        return self._by_name.values()

    def __len__(self) -> int:
        return len(self._by_name)

    def differences(self, before: "Catalogue") -> int:
        """How many services are others than in the one before, new ones and lost ones among them."""
        names = self._by_name.keys() | before._by_name.keys()
        return sum(self._by_name.get(name) != before._by_name.get(name) for name in names)

    def find(self, authority: Authority, stale: bool = False) -> EndpointSet | None:
        """Where authority leads, None for no service of this catalogue; a port that is named must be the service's.
        `stale` marks the answer so."""
        if authority.address:
            found = self._by_address.get((authority.address, authority.port or 80))
        else:
            name = mesh_name(authority)
            found = None if name is None else self._by_name.get(name)
            if found is not None and authority.port not in (None, found.service.port):
                found = None
        return found if found is None or not stale else replace(found, stale=True)


def _endpoint_set(document: Service, trust_domain: str) -> EndpointSet:
    name, spec = document.metadata, document.spec
    return EndpointSet(
        ServiceName(name.name, name.namespace, spec.port),
        tuple(endpoint_of(each, spec.protocol, name.namespace, trust_domain) for each in spec.endpoints or ()),
        spec.protocol,
        policy=spec.policy,
        opaque=listed(spec.port, spec.opaque_ports),
    )
