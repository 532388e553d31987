"""The services that a set of documents declares, ready to be looked up: by name, and by an endpoint's address.

A catalogue is immutable; the back end that holds it swaps it whole.
"""

from collections.abc import Iterable
from typing import Self

from msgspec.structs import replace

from discovery.names import Authority, canonical_address, mesh_name
from meshd.api.documents import Document, Service, ServiceEndpoint
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import Identity, WorkloadName


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
        return cls(_endpoint_set(document, trust_domain) for document in documents if isinstance(document, Service))

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
        tuple(_endpoint(endpoint, document, trust_domain) for endpoint in spec.endpoints),
        spec.protocol,
        policy=spec.policy,
    )


def _endpoint(declared: ServiceEndpoint, service: Service, trust_domain: str) -> Endpoint:
    identity, inbound_port = "", 0
    if declared.workload:
        workload = WorkloadName.parse(declared.workload, service.metadata.namespace)
        identity, inbound_port = str(Identity.of(trust_domain, workload)), declared.inbound_port
    return Endpoint(
        canonical_address(declared.address) or declared.address,
        declared.port,
        identity,
        inbound_port,
        service.spec.protocol,
        declared.weight,
        declared.zone,
        declared.labels,
    )
