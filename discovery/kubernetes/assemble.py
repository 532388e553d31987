"""The endpoints of a port of a Service, of what the API server says of it. Pure.

which port      by its number; where none was named the only one, else 80, else the first. A headless Service may be
                asked for the port that its pods listen on
which address   of a Service of two families the first, where there is any; an address that could only mean this
                host (loopback and the like) is nobody's endpoint
which of them   those that are ready; where none is, those that still serve while they end. All of them, where the
                Service publishes addresses that are not ready
which zone      where every endpoint has a hint, those hinted to our zone, if there are any
as whom         as the pod's service account, where it is meshed
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from discovery.kubernetes.externals import External
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.objects import EndpointSlice, Reference, Service, ServicePort, SliceEndpoint
from discovery.kubernetes.pods import PodFacts, opaque_ports, within
from discovery.registry import MAX_ENDPOINTS, Away
from meshd.api.documents import Protocol
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import Identity, InvalidName, WorkloadName, check_label

DEFAULT_PORT: Final = 80

PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "http": "http", "http1": "http1", "kubernetes.io/ws": "http1",
    "http2": "http2", "h2c": "http2", "kubernetes.io/h2c": "http2", "grpc": "grpc",
    "tcp": "tcp", "meshd.io/tcp": "tcp", "linkerd.io/tcp": "tcp", "linkerd.io/opaque": "tcp",
    "mysql": "tcp", "postgresql": "tcp", "redis": "tcp", "mongodb": "tcp", "mongo": "tcp", "memcache": "tcp",
    "amqp": "tcp", "ldap": "tcp", "smtp": "tcp", "ssh": "tcp", "ftp": "tcp", "nats": "tcp", "kafka": "tcp",
}  # fmt: skip
"""What an appProtocol says; of one that is not here nothing is known, and the first bytes tell."""

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")

Complain = Callable[[str], None]


class Wanted(NamedTuple):
    """A port of a Service. `name` is how slices know it; where that is None they know it by its number."""

    number: int
    name: str | None
    protocol: Protocol


class Candidate(NamedTuple):
    """An endpoint of a slice, before it is decided which are used."""

    endpoint: Endpoint
    ready: bool
    last_resort: bool
    zones: tuple[str, ...]
    hostname: str
    family: str
    opaque: bool | None


def wanted_port(service: Service, number: int) -> Wanted | None:
    """The port that is meant by a number, 0 for none; None when the Service has no such port."""
    ports = [port for port in service.spec.ports or () if port.protocol == "TCP"]
    if number:
        found = next((port for port in ports if port.port == number), None)
        if found is None and service.headless:
            return Wanted(number, None, "auto")
    else:
        by_number = {port.port: port for port in ports}
        found = ports[0] if len(ports) == 1 else by_number.get(DEFAULT_PORT) or (ports[0] if ports else None)
    return None if found is None else Wanted(found.port, found.name, PROTOCOLS.get(found.app_protocol, "auto"))


def external(key: ServiceKey, service: Service, complain: Complain) -> EndpointSet:
    """Where an ExternalName leads that leads out of the cluster; nobody there is meshed."""
    host = service.spec.external_name.lower().removesuffix(".")
    ports = service.spec.ports or ()
    number = key.port or (ports[0].port if ports else DEFAULT_PORT)
    port = next((each for each in ports if each.port == number), ServicePort(number))
    protocol = PROTOCOLS.get(port.app_protocol, "auto")
    parsed = _parsed(host)
    address = _another_hosts(parsed) if parsed is not None else host if _is_host(host) else ""
    if not address:
        complain(f"its externalName {host[:260]!r} is no name of another host")
    endpoints = (Endpoint(address, number, protocol=protocol),) if address else ()
    return EndpointSet(
        ServiceName(key.name, key.namespace, number), endpoints, protocol, opaque=_opaque_by_service(service, number)
    )


def references(slices: Iterable[EndpointSlice]) -> Iterable[Reference]:
    """The pods that slices name."""
    for each in slices:
        for endpoint in each.endpoints or ():
            if (reference := _pod_of(each, endpoint)) is not None:
                yield reference


def _pod_of(slice_: EndpointSlice, endpoint: SliceEndpoint) -> Reference | None:
    """The pod of an endpoint. It is in the namespace of the slice: who may write there cannot speak for others."""
    found = endpoint.target_ref
    if found is None or found.kind != "Pod":
        return None
    if not found.uid or not found.name or found.namespace not in ("", slice_.metadata.namespace):
        raise Away(f"the EndpointSlice {slice_.metadata.namespace}/{slice_.metadata.name} refers to no pod of its own")
    return Reference(found.kind, found.name, slice_.metadata.namespace, found.uid)


class Assembly:
    """The endpoints of `key`, which is what was asked for. Remembers what it made of slices that are as they were."""

    def __init__(self, key: ServiceKey, trust_domain: str, zone: str, complain: Complain) -> None:
        self._key, self._trust_domain, self._zone, self._complain = key, trust_domain, zone, complain
        self._made: dict[tuple[str, str], tuple[EndpointSlice, Wanted, tuple[Candidate, ...]]] = {}

    def of(
        self,
        service: Service,
        hostname: str,
        slices: Sequence[EndpointSlice],
        pods: Mapping[str, PodFacts | None],
        externals: Sequence[External] = (),
    ) -> EndpointSet | None:
        """What is said of the Service that was found for the key; None when it has no such port. Away for garbage."""
        wanted = wanted_port(service, self._key.port)
        if wanted is None:
            return None
        before, self._made = self._made, {}
        candidates: dict[tuple[str, int], Candidate] = {}
        for each in slices:
            key = (each.metadata.namespace, each.metadata.name)
            had = before.get(key)
            if had is None or had[0] is not each or had[1] != wanted:
                had = (each, wanted, tuple(self._read(each, wanted, pods)))
            self._made[key] = had
            for candidate in had[2]:
                place = (candidate.endpoint.address, candidate.endpoint.port)
                known = candidates.get(place)
                if known is None or (candidate.ready and not known.ready):
                    candidates[place] = candidate  # it may be in two slices while it moves from one to the other
        for candidate in self._outside(service, wanted, externals):
            candidates.setdefault((candidate.endpoint.address, candidate.endpoint.port), candidate)
        if len(candidates) > MAX_ENDPOINTS:
            raise Away(f"{len(candidates)} endpoints of {self._key.name}, more than {MAX_ENDPOINTS}")
        chosen = self._chosen(service, [each for each in candidates.values() if hostname in ("", each.hostname)])
        return EndpointSet(
            ServiceName(self._key.name, self._key.namespace, wanted.number),
            tuple(each.endpoint for each in chosen),
            wanted.protocol,
            opaque=_opaque(service, wanted.number, chosen),
        )

    def _chosen(self, service: Service, candidates: list[Candidate]) -> list[Candidate]:
        families = service.spec.ip_families or ()
        if len(families) > 1:
            wanted = self._key.family or families[0]
            if any(each.family == wanted for each in candidates):
                candidates = [each for each in candidates if each.family == wanted or each.family not in families]
        if service.spec.publish_not_ready_addresses:
            return candidates
        chosen = [each for each in candidates if each.ready] or [each for each in candidates if each.last_resort]
        if self._zone and all(each.zones for each in chosen):
            chosen = [each for each in chosen if self._zone in each.zones] or chosen
        return chosen

    def _read(self, slice_: EndpointSlice, wanted: Wanted, pods: Mapping[str, PodFacts | None]) -> Iterable[Candidate]:
        port = _port_in(slice_, wanted)
        if port == 0:
            return
        if slice_.address_type not in ("IPv4", "IPv6", "FQDN"):
            self._complain(f"addresses of type {slice_.address_type[:60]!r} are not known")
            return
        for endpoint in slice_.endpoints or ():
            address = self._checked(endpoint.addresses[0], slice_)
            pod: PodFacts | None = None
            if (reference := _pod_of(slice_, endpoint)) is not None:
                pod = pods.get(reference.uid)
                if pod is None:
                    continue  # it is gone, and the slice will say so soon
            is_admin = pod is not None and port == pod.admin_port
            identity = "" if is_admin else self._identity(slice_.metadata.namespace, pod)
            if not address or identity is None:
                continue
            yield Candidate(
                Endpoint(
                    address,
                    port,
                    identity,
                    pod.inbound_port if identity and pod is not None else 0,
                    wanted.protocol,
                    zone=endpoint.zone,
                    labels={"pod": reference.name} if reference is not None else {},
                ),
                endpoint.conditions.is_ready,
                endpoint.conditions.is_last_resort,
                tuple(zone.name for zone in (endpoint.hints.for_zones or ())) if endpoint.hints else (),
                endpoint.hostname,
                slice_.address_type,
                None if pod is None else pod.is_opaque(port),
            )

    def _outside(self, service: Service, wanted: Wanted, externals: Sequence[External]) -> Iterable[Candidate]:
        """Workloads outside the cluster that the Service selects; they are ready for as long as they are declared."""
        if not externals:
            return
        ports = service.spec.ports or ()
        number = next((number_of(port) for port in ports if port.port == wanted.number), wanted.number)
        if not number:
            self._complain("its targetPort is a name, which workloads outside the cluster have none of")
            return
        for each in externals:
            if each.serves(number):
                identity = str(Identity.of(self._trust_domain, each.workload))
                for address in each.addresses:
                    endpoint = Endpoint(
                        address,
                        number,
                        identity,
                        each.inbound_port,
                        wanted.protocol,
                        zone=each.zone,
                        labels={"workload": str(each.workload)},
                    )
                    family = f"IPv{ip_address(address).version}"
                    yield Candidate(endpoint, True, False, (), "", family, None)

    def _checked(self, address: str, slice_: EndpointSlice) -> str:
        """The address as it is used; empty, with a complaint, where it is not to be used. Away where it is none."""
        if slice_.address_type == "FQDN":
            host = address.lower().removesuffix(".")
            found = host if _is_host(host) else ""
        else:
            parsed = _parsed(address)
            if parsed is None or f"IPv{parsed.version}" != slice_.address_type:
                raise Away(f"{address[:60]!r} is no {slice_.address_type} address ({slice_.metadata.name})")
            found = _another_hosts(parsed)
        if not found:
            self._complain(f"the endpoint {address[:260]!r} is passed over: it is not another host's")
        return found

    def _identity(self, namespace: str, pod: PodFacts | None) -> str | None:
        """Empty for one that is not meshed; None, with a complaint, for one that cannot be spoken to."""
        if pod is None or not pod.account:
            return ""
        try:
            workload = WorkloadName(check_label(namespace, "namespace"), check_label(pod.account, "service account"))
        except InvalidName as error:
            self._complain(f"pods of {namespace}/{pod.account[:260]} are passed over: {error}")
            return None
        return str(Identity.of(self._trust_domain, workload))


def number_of(port: ServicePort) -> int:
    """Where a port of a Service leads, by number; 0 where it leads to a port by its name."""
    target = port.target_port
    if isinstance(target, int):
        return target or port.port
    return 0 if target else port.port


def _port_in(slice_: EndpointSlice, wanted: Wanted) -> int:
    """The number that a slice has for a port, 0 for none."""
    ports = [port for port in slice_.ports or () if port.protocol in ("TCP", None) and port.port is not None]
    if wanted.name is not None:
        return next((port.port for port in ports if (port.name or "") == wanted.name and port.port), 0)
    if not slice_.ports:  # of a headless Service without ports: whatever is asked for
        return wanted.number
    return wanted.number if any(port.port == wanted.number for port in ports) else 0


def _opaque(service: Service, number: int, chosen: Iterable[Candidate]) -> bool | None:
    """What the Service says, else what its pods say of the ports that they listen on, where they agree."""
    said = _opaque_by_service(service, number)
    if said is not None:
        return said
    by_pods = {each.opaque for each in chosen}
    return by_pods.pop() if len(by_pods) == 1 else None


def _opaque_by_service(service: Service, number: int) -> bool | None:
    names = {port.name: port.port for port in service.spec.ports or () if port.name}
    return within(number, opaque_ports(service.metadata.annotations, names))


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _another_hosts(address: IPv4Address | IPv6Address) -> str:
    """The one spelling of an address; empty for one that could only be this host's, or of many."""
    plain = getattr(address, "ipv4_mapped", None) or address
    bad = plain.is_loopback or plain.is_unspecified or plain.is_link_local or plain.is_multicast
    return "" if bad or getattr(address, "scope_id", None) else str(plain)


def _is_host(name: str) -> bool:
    """Whether it is a host's name, and not this host's."""
    return bool(_HOST.fullmatch(name)) and len(name) <= 253 and name.rpartition(".")[2] != "localhost" and not (
        name.rpartition(".")[2].isdigit()
    )  # fmt: skip
