"""The back end: Services of one cluster.

A service that is followed is part of two watches, of Services and of EndpointSlices (`discovery.kubernetes.feeds`); two
ports of one Service share them. An ExternalName that leads into the same cluster is followed to where it
leads, so that it does not lead past the mesh.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from discovery.backends import Place
from discovery.kubernetes import names
from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.assemble import Assembly, external, number_of, references
from discovery.kubernetes.externals import Externals
from discovery.kubernetes.feed import Part
from discovery.kubernetes.feeds import Feeds
from discovery.kubernetes.lists import PODS, SERVICE_NAME, SERVICES, SLICES, Content, Query, Resource, decoded, pages
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.objects import Pod, Service, SliceEndpoint
from discovery.kubernetes.pods import Pods
from discovery.kubernetes.second import SecondFamily, family_of
from discovery.kubernetes.settings import KubernetesDiscovery
from discovery.names import Authority
from discovery.registry import Away, Denied, Located
from meshd.api.endpoints import EndpointSet
from meshd.api.names import canonical_address

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.1
"""Between what is said of one service: a rollout changes its slices many times a second."""

MAX_ALIASES: Final = 4
"""ExternalNames that lead to ExternalNames."""

MAX_COMPLAINTS: Final = 100

MANAGED_BY, CONTROLLER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"
"""The label of slices that says who writes them, and who that is for Services that select pods."""


class KubernetesRegistry:
    """The Services of the cluster that `settings` say, for an agent at `place`."""

    key = ServiceKey

    def __init__(self, settings: KubernetesDiscovery, place: Place, access: Access | None = None) -> None:
        self.name = place.name
        self._place, self._domain = place, settings.cluster_domain
        self._access = access or Access(settings.kubeconfig, settings.context)
        self._feeds = Feeds(self._access)
        self._complained: set[str] = set()
        self._second = SecondFamily(self._access)
        self._externals = Externals(self._access, self._complain, wanted=settings.external_workloads)

    def claim(self, authority: Authority) -> ServiceKey | None:
        return names.claim(authority, self._domain)

    async def probe(self) -> None:
        await self._whole("/version")

    async def close(self) -> None:
        await self._externals.close()
        await self._feeds.close()
        await self._access.close()

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._feeds)

    async def _whole(self, path: str) -> bytes:
        try:
            body = await self._access.get(path, {})
        except Gone as error:
            raise Away(f"{path} is gone (410)") from error
        assert body is not None
        return body

    # --- what a service is ----------------------------------------------------------------------------------------

    async def follow(self, key: ServiceKey) -> AsyncGenerator[EndpointSet | None, None]:
        self._externals.begin()
        followed = _Followed(
            self._feeds, Pods(self._access), self._externals, key, self._place, self._domain, self._complain
        )
        try:
            while True:
                await followed.news.wait()
                followed.news.clear()
                try:
                    said = await followed.read()
                except _NotYet:
                    continue
                yield said
                await asyncio.sleep(SETTLE_S)
        finally:
            followed.close()

    def _complain(self, text: str) -> None:
        """Once of everything, for as long as that can be remembered."""
        if text not in self._complained and len(self._complained) < MAX_COMPLAINTS:
            self._complained.add(text)
            log.warning("discovery: %s: %s", self.name, text)

    # --- what is at an address ------------------------------------------------------------------------------------

    async def locate(self, address: str, port: int) -> Located[ServiceKey] | None:
        for service in await self._listed(SERVICES, Query(fields=f"spec.clusterIP={address}")):
            meta = service.metadata
            if any(each.port == port and each.protocol == "TCP" for each in service.spec.ports or ()):
                return Located(ServiceKey(meta.namespace, meta.name, port), whole=True)
        if (found := await self._by_pod(address, port)) is not None:
            return Located(found)
        try:  # before what anybody may write
            second = await self._second.locate(address, port)
        except Gone as error:
            raise Away("a list of Services takes longer than the server remembers (410)") from error
        if second is not None:
            return second
        found = await self._by_slice(address, port) or await self._by_external(address, port)
        return None if found is None else Located(found)

    async def _by_pod(self, address: str, port: int) -> ServiceKey | None:
        """By the selectors of Services, and not by slices: those can only be asked for all at once."""
        for pod in await self._listed(PODS, Query(fields=f"status.podIP={address}")):
            if not pod.has_own_address:
                continue
            services = await self._listed(SERVICES, Query(pod.metadata.namespace))
            found = sorted(key for each in services if (key := _port_of(each, pod, port, address)) is not None)
            if found:
                return found[0]
        return None

    async def _by_slice(self, address: str, port: int) -> ServiceKey | None:
        """By slices that somebody wrote by hand, or a controller of their own did: they are few."""
        for slice_ in await self._listed(SLICES, Query(labels=f"{MANAGED_BY}!={CONTROLLER}")):
            name = slice_.metadata.labels.get(SERVICE_NAME, "")
            ports = [each for each in slice_.ports or () if each.port == port and each.protocol in ("TCP", None)]
            if not (name and ports and any(_is_at(each, address) for each in slice_.endpoints or ())):
                continue
            path = SERVICES.path(slice_.metadata.namespace, name)
            body = await self._access.get(path, {}, absent_is_none=True)
            service = None if body is None else decoded(SERVICES.one, body, path)
            for each in (service.spec.ports if service is not None else None) or ():
                if service is not None and each.name == (ports[0].name or ""):
                    return _key(service, each.port, address)
        return None

    async def _by_external(self, address: str, port: int) -> ServiceKey | None:
        await self._externals.wait()
        for outside in self._externals.at(address, port):
            for service in await self._listed(SERVICES, Query(outside.workload.namespace)):
                if outside not in self._externals.behind(service):
                    continue
                for each in service.spec.ports or ():
                    if each.protocol == "TCP" and number_of(each) == port:
                        return ServiceKey(service.metadata.namespace, service.metadata.name, each.port)
        return None

    async def _listed(self, resource: Resource[Content], query: Query) -> list[Content]:
        try:
            return [each async for page in pages(self._access, resource, query) for each in page.items or ()]
        except Gone as error:
            raise Away(f"a list of {resource.plural} takes longer than the server remembers (410)") from error


_Use = tuple[str, str, str]
"""The plural of a resource, a namespace, the name of a Service."""


class _NotYet(Exception):
    """Not everything that was asked for has been said."""


class _Followed:
    """One service, with the feeds that it needs at present. `news` is set when any of them was read."""

    def __init__(
        self,
        feeds: Feeds,
        pods: Pods,
        externals: Externals,
        key: ServiceKey,
        place: Place,
        domain: str,
        complain: Callable[[str], None],
    ) -> None:
        self._feeds, self._pods, self._externals, self._key, self._domain = feeds, pods, externals, key, domain
        self._complain: Callable[[str], None] = lambda text: complain(f"{key.name}.{key.namespace}: {text}")
        self._assembly = Assembly(key, place.trust_domain, place.zone, self._complain)
        self._used: dict[_Use, tuple[Resource[Any], Part[Any]]] = {}
        self._needed: set[_Use] = set()
        self.news = asyncio.Event()
        self.news.set()
        externals.listeners.add(self.news.set)

    async def read(self) -> EndpointSet | None:
        """What is said of it now; None: there is no such service. _NotYet and Away."""
        self._needed.clear()
        found = self._found()
        if found is None:
            self._keep_needed()
            return None
        key, service = found
        if service.spec.type == "ExternalName":
            self._keep_needed()
            return external(self._key, service, self._complain)
        part = self._part(SLICES, key)
        if not part.synced or not self._externals.settled:
            raise _NotYet
        self._keep_needed()
        slices = tuple(part.objects.values())
        await self._pods.learn(references(slices), service)
        externals = self._externals.behind(service)
        return self._assembly.of(service, key.hostname, slices, self._pods.known, externals)

    def _found(self) -> tuple[ServiceKey, Service] | None:
        """The Service that is meant, by way of those that are only other names for it."""
        key = self._key
        for _ in range(MAX_ALIASES + 1):
            part = self._part(SERVICES, key)
            if not part.synced:
                self._part(SLICES, key)  # most likely needed, so at the same time
                raise _NotYet
            service = part.objects.get(key.name)
            if service is None:
                return None
            to = names.alias(service.spec.external_name, self._domain) if service.spec.type == "ExternalName" else None
            if to is None:
                return key, service
            key = to
        self._complain(f"its externalName leads on for more than {MAX_ALIASES} times")
        return None

    def _part(self, resource: Resource[Content], key: ServiceKey) -> Part[Content]:
        use = (resource.plural, key.namespace, key.name)
        self._needed.add(use)
        if use not in self._used:
            self._used[use] = (resource, self._feeds.use(resource, key.namespace, key.name, self.news.set))
        part: Part[Content] = self._used[use][1]
        if part.away:
            raise (Denied if part.denied else Away)(part.away)
        return part

    def _keep_needed(self) -> None:
        for use in [*self._used]:
            if use not in self._needed:
                self._let_go(use)

    def _let_go(self, use: _Use) -> None:
        resource, part = self._used.pop(use)
        self._feeds.let_go(resource, use[1], use[2], part, self.news.set)

    def close(self) -> None:
        self._externals.listeners.discard(self.news.set)
        for use in [*self._used]:
            self._let_go(use)


def _is_at(endpoint: SliceEndpoint, address: str) -> bool:
    return canonical_address(endpoint.addresses[0]) == address


def _key(service: Service, port: int, address: str) -> ServiceKey:
    """A port of a Service, as one of whose endpoints has that address."""
    meta, families = service.metadata, service.spec.ip_families or ()
    return ServiceKey(meta.namespace, meta.name, port, family=family_of(address) if len(families) > 1 else "")


def _port_of(service: Service, pod: Pod, port: int, address: str) -> ServiceKey | None:
    """The port of a Service by which a pod's port is reached; None when it is not."""
    selector, labels = service.spec.selector, pod.metadata.labels
    if not selector or any(labels.get(name) != value for name, value in selector.items()):
        return None
    containers = (*(pod.spec.containers or ()), *(pod.spec.init_containers or ()))
    named = {each.name: each.container_port for one in containers for each in one.ports or () if each.name}
    for each in service.spec.ports or ():
        target = each.target_port if isinstance(each.target_port, int) else named.get(each.target_port, 0)
        if each.protocol == "TCP" and (target or each.port) == port:
            return _key(service, each.port, address)
    return None
