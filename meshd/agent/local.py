"""This host's workloads as a source of services: each is one under its own name, with no document written for it.

    NAME.NAMESPACE          every announced instance, at its first port
    NAME.NAMESPACE:PORT     the instances with that port; port 80 also means the first, since a client of an HTTP
                            proxy leaves out :80 in what it sends (RFC 9112, section 3.2.2)
    ADDRESS:PORT            the one instance that listens there

A workload that is here but not announced is a service with no endpoints rather than no service: its callers are told
that it is not ready, and are not sent looking elsewhere. Of one that is `expected` back nothing is said at all until it
is announced, or `settle` says that it has had its time.
"""

from collections.abc import Iterator
from ipaddress import ip_address

from discovery.names import Authority, mesh_name
from discovery.source import NOT_YET, Answer, Answered, Close, Known, Listed, Looked
from discovery.watchers import Watchers
from meshd.agent.registry import Instance, Registry, reachable_at
from meshd.api.control import Health, ProxyWorkload
from meshd.api.detection import listed
from meshd.api.documents import WorkloadPort
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import Address, Identity, WorkloadName

LOCAL = "local"
"""What this source is called, as `discovery` of a service names it."""

HTTP_PORT = 80


class LocalSource:
    """The registry, seen by those who look for services."""

    def __init__(
        self,
        registry: Registry,
        trust_domain: str,
        started_at: float,
        expected: frozenset[WorkloadName] = frozenset(),
    ) -> None:
        self._registry, self._trust_domain = registry, trust_domain
        self.expected = expected
        self._health = Health("local workloads", healthy=True, since=started_at)
        self._watchers = Watchers(self._find)
        registry.subscribe(self._changed)

    def watch(self, authority: Authority, answered: Answered) -> Close:
        return self._watchers.watch(authority, answered)

    def health(self) -> Health:
        return self._health

    def known(self) -> Known:
        return Known(services=len(self._served()))

    def listed(self) -> Iterator[Listed]:
        watchers = self._watchers.count()
        for name, namespace, port in self._served():
            answer = self._find(Authority(name, port, namespace))
            service = ServiceName(name, namespace, port)
            yield Listed(str(service), Looked(answer, settled=answer is not NOT_YET), watchers[service])

    def _served(self) -> list[tuple[str, str, int]]:
        """Name, namespace and port of every service that is a workload here."""
        ports = ((each.name, each.namespace, port.port) for _, each in self._all() for port in each.ports)
        return list(dict.fromkeys(ports))

    def settle(self) -> None:
        """Nothing is expected any more: who is not back is gone."""
        self.expected = frozenset()
        self._watchers.refresh()

    def _changed(self) -> None:
        self.expected -= self._registry.announced()
        self._watchers.refresh()

    def _find(self, authority: Authority) -> Answer:
        if authority.address:
            return self._at(authority.address, authority.port or HTTP_PORT)
        name = mesh_name(authority)
        if name is None:
            return None
        if WorkloadName(namespace=name[1], name=name[0]) in self.expected:
            return NOT_YET
        chosen = [
            (instance, workload, port)
            for instance, workload in self._all()
            if (workload.name, workload.namespace) == name and (port := _chosen(workload, authority.port)) is not None
        ]
        return self._endpoint_set(*chosen) if chosen else None

    def _all(self) -> Iterator[tuple[Instance, ProxyWorkload]]:
        for instance in self._registry.instances():
            for workload in instance.workloads:
                yield instance, workload

    def _at(self, address: str, port: int) -> Answer:
        """An address whose workload is not well has nobody who answers, rather than being outside the mesh, to which
        callers speak in plain text. Of loopback's, one that is expected back may have any."""
        for instance, workload in self._all():
            if self._registry.is_announced(instance, workload) or self._registry.unwell(instance, workload):
                for each in workload.ports:
                    if each.port == port and _listens_at(each) == address:
                        return self._endpoint_set((instance, workload, each))
        return NOT_YET if self.expected and ip_address(address).is_loopback else None

    def _endpoint_set(self, *chosen: tuple[Instance, ProxyWorkload, WorkloadPort]) -> EndpointSet:
        _, workload, port = chosen[0]
        protocols = {each.protocol for _, _, each in chosen}
        opaque = {listed(each.port, workload.opaque_ports) for _, workload, each in chosen}
        return EndpointSet(
            ServiceName(workload.name, workload.namespace, port.port),
            tuple(
                self._endpoint(instance, workload, each)
                for instance, workload, each in chosen
                if self._registry.is_announced(instance, workload)
            ),
            protocols.pop() if len(protocols) == 1 else "auto",
            opaque=opaque.pop() if len(opaque) == 1 else None,
        )

    def _endpoint(self, instance: Instance, workload: ProxyWorkload, port: WorkloadPort) -> Endpoint:
        identity = Identity.of(self._trust_domain, WorkloadName(workload.namespace, workload.name))
        inbound = reachable_at(instance.inbound)
        return Endpoint(inbound.host, port.port, str(identity), inbound.port, port.protocol)


def _listens_at(port: WorkloadPort) -> str:
    return reachable_at(str(Address(port.address, port.port))).host


def _chosen(workload: ProxyWorkload, port: int | None) -> WorkloadPort | None:
    """The port of the workload that a caller means who named `port`."""
    for each in workload.ports:
        if each.port == port:
            return each
    return workload.ports[0] if workload.ports and port in (None, HTTP_PORT) else None
