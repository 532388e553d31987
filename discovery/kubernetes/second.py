"""What is at an address of the cluster's second family, where it has two.

The API server finds Services and pods by their first address alone (field selectors know `spec.clusterIP` and
`status.podIP`, and nothing of those after). So Services of both families are gone through when somebody asks for an
address of the other family than the cluster's own, which is that of the API server's Service; for some seconds what was
found serves all who ask. In a cluster of one family that is never.

EndpointSlices say of an address whatever who writes them likes, in any namespace. So where a pod is said to be at one,
the pod itself is asked, and only where none is there does a slice without pods count.
"""

import asyncio
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import MAX_LISTED, PODS, SERVICE_NAME, SERVICES, SLICES, Query, decoded, pages
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.objects import EndpointSlice, Service
from discovery.registry import Away, Located
from meshd.api.names import canonical_address

SERVES_S: Final = 10.0
FAILED_S: Final = 5.0
"""How long all are told that a look failed before there is another: it goes through all there is."""
MAX_CLAIMS: Final = 500_000
MAX_PODS: Final = 16
"""That are asked whether an address is theirs."""
API_SERVICE: Final = SERVICES.path("default", "kubernetes")


class _Claim(NamedTuple):
    """That a Service has an endpoint at a place, and which pod of its namespace that is; empty for none."""

    pod: str
    key: ServiceKey


class _Found(NamedTuple):
    """Where Services are, and where their endpoints are said to be, by address and port."""

    services: Mapping[tuple[str, int], ServiceKey]
    endpoints: Mapping[tuple[str, int], set[_Claim]]


class SecondFamily:
    """By `access`. Finds what is not found by a first address."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._own = ""
        self._found = _Found({}, {})
        self._at = -SERVES_S
        self._failed: tuple[float, Away | Gone] | None = None
        self._looking = asyncio.Lock()

    async def locate(self, address: str, port: int) -> Located[ServiceKey] | None:
        """The Service there, or one that has an endpoint there; None for none, and for addresses of the first family.
        Away, and Gone as any list."""
        if family_of(address) == await self._family():
            return None
        async with self._looking:  # of many that ask at once one looks
            now = asyncio.get_running_loop().time()
            if now - self._at >= SERVES_S:
                await self._look_again(now)
        place = (address, port)
        if (service := self._found.services.get(place)) is not None:
            return Located(service, whole=True)
        return await self._endpoint(address, self._found.endpoints.get(place, set()))

    async def _look_again(self, now: float) -> None:
        if self._failed is not None and now - self._failed[0] < FAILED_S:
            error = self._failed[1]
            raise type(error)(*error.args)  # each its own: one that is raised keeps what was at hand there
        try:
            self._found = await self._look()
        except (Away, Gone) as error:
            self._failed = asyncio.get_running_loop().time(), type(error)(*error.args)
            raise
        self._at, self._failed = now, None

    async def _endpoint(self, address: str, claims: Collection[_Claim]) -> Located[ServiceKey] | None:
        pods = {(each.key.namespace, each.pod) for each in claims if each.pod}
        if len(pods) > MAX_PODS:
            raise Away(f"more than {MAX_PODS} pods are said to be at {address}")
        there = {pod for pod in pods if await self._is_at(*pod, address)}
        meant = [each.key for each in claims if (each.key.namespace, each.pod) in there]
        meant = meant or [each.key for each in claims if not each.pod]
        return Located(min(meant)) if meant else None

    async def _is_at(self, namespace: str, name: str, address: str) -> bool:
        path = PODS.path(namespace, name)
        body = await self._access.get(path, {}, absent_is_none=True)
        if body is None:
            return False
        pod = decoded(PODS.one, body, path)
        return pod.has_own_address and address in [canonical_address(each.ip) for each in pod.status.pod_ips or ()]

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
        endpoints: dict[tuple[str, int], set[_Claim]] = {}
        count = 0
        if both:
            async for listed in pages(self._access, SLICES, Query(), MAX_LISTED):
                for slice_ in listed.items or ():
                    service_of = both.get((slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_NAME, "")))
                    if service_of is not None and slice_.address_type != self._own:
                        count += _add(endpoints, slice_, service_of)
                        if count > MAX_CLAIMS:
                            raise Away(f"more than {MAX_CLAIMS} endpoints of a second family")
        return _Found(services, endpoints)


def family_of(address: str) -> str:
    """As Services and EndpointSlices write it."""
    return f"IPv{ip_address(address).version}"


def _add(endpoints: dict[tuple[str, int], set[_Claim]], slice_: EndpointSlice, service: Service) -> int:
    """Where endpoints of a Service are; how many they are."""
    meta, count = service.metadata, 0
    numbers = {each.name: each.port for each in service.spec.ports or () if each.protocol == "TCP"}
    for port in slice_.ports or ():
        number = numbers.get(port.name or "")
        if port.port is None or number is None or port.protocol not in ("TCP", None):
            continue
        key = ServiceKey(meta.namespace, meta.name, number, family=slice_.address_type)
        for each in slice_.endpoints or ():
            reference, address = each.target_ref, canonical_address(each.addresses[0])
            pod = reference.name if reference is not None and reference.kind == "Pod" else ""
            if address:
                endpoints.setdefault((address, port.port), set()).add(_Claim(pod, key))
                count += 1
    return count
