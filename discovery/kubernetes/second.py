"""What is at an address of the cluster's second family, where it has two.

The API server finds Services and pods by their first address alone (field selectors know `spec.clusterIP` and
`status.podIP`, and nothing of those after). So Services of both families are gone through when somebody asks for an
address of the other family than the cluster's own, which is that of the API server's Service; for some seconds what was
found serves all who ask. In a cluster of one family that is never.
"""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from discovery.kubernetes.access import Access
from discovery.kubernetes.lists import MAX_LISTED, SERVICE_NAME, SERVICES, SLICES, Query, decoded, pages
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.objects import EndpointSlice, Service
from discovery.registry import Away, Located
from meshd.api.names import canonical_address

SERVES_S: Final = 10.0
MAX_PLACES: Final = 500_000
API_SERVICE: Final = SERVICES.path("default", "kubernetes")


class _Found(NamedTuple):
    """Where Services are, and where their endpoints are, by address and port."""

    services: Mapping[tuple[str, int], ServiceKey]
    endpoints: Mapping[tuple[str, int], ServiceKey]


class SecondFamily:
    """By `access`. Finds what is not found by a first address."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._own = ""
        self._found = _Found({}, {})
        self._at = -SERVES_S
        self._looking = asyncio.Lock()

    async def locate(self, address: str, port: int) -> Located[ServiceKey] | None:
        """The Service there, or one that has an endpoint there; None for none, and for addresses of the first family.
        Away, and Gone as any list."""
        if family_of(address) == await self._family():
            return None
        async with self._looking:  # of many that ask at once one looks
            now = asyncio.get_running_loop().time()
            if now - self._at >= SERVES_S:
                self._found = await self._look()
                self._at = now
        place = (address, port)
        if (service := self._found.services.get(place)) is not None:
            return Located(service, whole=True)
        endpoint = self._found.endpoints.get(place)
        return None if endpoint is None else Located(endpoint)

    async def _family(self) -> str:
        """The cluster's first, which never changes; empty where that cannot be seen."""
        if not self._own:
            body = await self._access.get(API_SERVICE, {}, absent_is_none=True)
            own = "" if body is None else decoded(SERVICES.one, body, API_SERVICE).spec.cluster_ip
            self._own = family_of(own) if canonical_address(own) else ""
        return self._own

    async def _look(self) -> _Found:
        both: dict[tuple[str, str], Service] = {}
        async for page in pages(self._access, SERVICES, Query(), MAX_LISTED):
            for service in page.items or ():
                if len(service.spec.ip_families or ()) > 1:
                    both[service.metadata.namespace, service.metadata.name] = service
        services: dict[tuple[str, int], ServiceKey] = {}
        for (namespace, name), service in sorted(both.items()):
            for address in filter(None, map(canonical_address, (service.spec.cluster_ips or ())[1:])):
                for port in service.spec.ports or ():
                    if port.protocol == "TCP":
                        services[address, port.port] = ServiceKey(namespace, name, port.port)
        endpoints: dict[tuple[str, int], ServiceKey] = {}
        if both:
            async for listed in pages(self._access, SLICES, Query(), MAX_LISTED):
                for slice_ in listed.items or ():
                    service_of = both.get((slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_NAME, "")))
                    if service_of is not None and slice_.address_type != self._own:
                        _add(endpoints, slice_, service_of)
        return _Found(services, endpoints)


def family_of(address: str) -> str:
    """As Services and EndpointSlices write it."""
    return f"IPv{ip_address(address).version}"


def _add(endpoints: dict[tuple[str, int], ServiceKey], slice_: EndpointSlice, service: Service) -> None:
    """Where endpoints of a Service are. Of several Services that have one it is the first by name."""
    meta = service.metadata
    numbers = {each.name: each.port for each in service.spec.ports or () if each.protocol == "TCP"}
    for port in slice_.ports or ():
        number = numbers.get(port.name or "")
        if port.port is None or number is None or port.protocol not in ("TCP", None):
            continue
        key = ServiceKey(meta.namespace, meta.name, number, family=slice_.address_type)
        for each in slice_.endpoints or ():
            if address := canonical_address(each.addresses[0]):
                place = (address, port.port)
                endpoints[place] = min(key, endpoints.get(place, key))
    if len(endpoints) > MAX_PLACES:
        raise Away(f"more than {MAX_PLACES} endpoints of a second family")
