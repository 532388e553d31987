"""What Consul says of a service, as endpoints. Pure: instances in, an endpoint set and complaints out.

A *place* is an address and a port. Several registrations may be of one place: that of the application's own agent,
which knows nothing of the mesh, and that of meshd beside it (`discovery.consul.publisher`). Where any of them has an
identity the place is meshed, and what the others say is only whether it is well. So a place never turns into one that
is reached in plain text because the registration with its identity is unwell, or wrong.

    key             of service meta, node meta    where it is absent
    meshd-identity       yes   no                  the place is not meshed
    meshd-inbound-port   yes   yes                 4143
    meshd-protocol       yes   no                  auto
    meshd-zone           yes   yes                 Consul's locality, of the service or else of the node
    meshd-weight         yes   yes                 Consul's weight for the state of health
    meshd-namespace      yes   no                  default
    meshd-secondary      yes   no                  `true`: it is only for callers who name its port
    all others           yes   no                  they become labels
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple, cast, get_args

from discovery.consul.answers import Instance, Status
from meshd.api.documents import Protocol
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import DEFAULT_NAMESPACE, Identity, InvalidName, canonical_address

PREFIX: Final = "meshd-"
IDENTITY: Final = "meshd-identity"
INBOUND_PORT: Final = "meshd-inbound-port"
PROTOCOL: Final = "meshd-protocol"
ZONE: Final = "meshd-zone"
WEIGHT: Final = "meshd-weight"
NAMESPACE: Final = "meshd-namespace"
SECONDARY: Final = "meshd-secondary"

DEFAULT_INBOUND_PORT: Final = 4143
HTTP_PORT: Final = 80
MAX_WEIGHT: Final = 65535

_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")
_PROTOCOLS: Final = frozenset(get_args(Protocol))


class Selection(NamedTuple):
    """Which instances of a service of Consul are meant. `namespace` empty: of any; `port` 0: each at its own."""

    namespace: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    only_passing: bool = True
    meshed_only: bool = False


class Read(NamedTuple):
    """`found` None: nothing is registered that was meant, well or not. `complaints`: what is wrong in Consul."""

    found: EndpointSet | None
    complaints: tuple[str, ...]


Place = tuple[str, int]


def read(
    instances: Iterable[Instance],
    called: tuple[str, str],
    chosen: Selection,
    trust_domain: str,
    among: Collection[Place] | None = None,
) -> Read:
    """The endpoints of those among all instances of a service that are chosen; callers know it as `called`, (name,
    namespace), of which the namespace may be empty. With `among`, only of those places."""
    places: dict[Place, list[Instance]] = {}
    complaints: list[str] = []
    for instance in instances:
        place = place_of(instance)
        if place is None:
            complaints.append(f"{_named(instance)} has no address and port that can be called")
        else:
            places.setdefault(place, []).append(instance)
    if among is not None:
        places = {place: there for place, there in places.items() if place in among}
    meant = {place: there for place, there in places.items() if _is_meant(there, chosen)}
    meant = _at_port(meant, chosen.port)
    if not meant:
        return Read(None, tuple(complaints))
    endpoints: list[Endpoint] = []
    for place, there in meant.items():
        if all(_is_well(each, chosen.only_passing) for each in there):
            try:
                endpoints += _endpoints(place, there, chosen.meshed_only, trust_domain, complaints)
            except _Wrong as error:
                complaints.append(f"{error}: it is left out")
    endpoints.sort(key=lambda each: (each.address, each.port, each.inbound_port))
    return Read(_endpoint_set(called, chosen.port, meant, endpoints), tuple(complaints))


def place_of(instance: Instance) -> Place | None:
    """Where an instance is called; None when it says no such thing."""
    address = instance.service.address or instance.node.address
    host = canonical_address(address)
    if host:
        usable = _is_somebodys(host)
    else:
        host, usable = address.lower(), _HOST.fullmatch(address) is not None
    return (host, instance.service.port) if usable and 0 < instance.service.port <= 65535 else None


def _is_somebodys(address: str) -> bool:
    """Whether an IP address is one host's; 0.0.0.0 would be this very host to connect(2)."""
    parsed = ip_address(address)
    return not (parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255")


def namespace_of(meta: dict[str, str] | None) -> str:
    """The namespace that a registration with this service meta is in."""
    return (meta or {}).get(NAMESPACE) or DEFAULT_NAMESPACE


class _Wrong(Exception):
    """An instance that cannot be used."""


def _meta(instance: Instance) -> dict[str, str]:
    return instance.service.meta or {}


def _meshed(there: list[Instance]) -> list[Instance]:
    return [each for each in there if IDENTITY in _meta(each)]


def _is_meant(there: list[Instance], chosen: Selection) -> bool:
    """Tags and meta may be on any registration of the place; its namespace is that of the meshed one."""
    namespace = namespace_of(_meta((_meshed(there) or there)[0]))
    if chosen.namespace not in ("", namespace):
        return False
    tags = {tag.lower() for each in there for tag in each.service.tags or ()}
    if not all(tag.lower() in tags for tag in chosen.tags):  # letters' case makes no difference to Consul either
        return False
    return all(any(_meta(each).get(key) == value for each in there) for key, value in chosen.meta)


def _at_port(places: dict[Place, list[Instance]], port: int) -> dict[Place, list[Instance]]:
    """Those at a port that callers named. Port 80 is also what a client of an HTTP proxy means that names none (RFC
    9112, section 3.2.2)."""
    there = {place: instances for place, instances in places.items() if port == place[1]}
    if there or port not in (0, HTTP_PORT):
        return there
    return {place: instances for place, instances in places.items() if not _is_secondary(instances)}


def _is_secondary(there: list[Instance]) -> bool:
    return any(_meta(each).get(SECONDARY) == "true" for each in there)


def _status(instance: Instance) -> Status:
    """The worst of its checks."""
    statuses = {check.status for check in instance.checks or ()}
    for status in (Status.MAINTENANCE, Status.CRITICAL, Status.WARNING):
        if status in statuses:
            return status
    return Status.PASSING


def _is_well(instance: Instance, only_passing: bool) -> bool:
    status = _status(instance)
    return status is Status.PASSING or (status is Status.WARNING and not only_passing)


def _endpoints(
    place: Place, there: list[Instance], meshed_only: bool, trust_domain: str, complaints: list[str]
) -> list[Endpoint]:
    """One for each proxy that leads there, or the one that is reached in plain text. _Wrong when there should be one,
    and it cannot be used."""
    meshed = _meshed(there)
    if not meshed:
        return [] if meshed_only else [_endpoint(place, there[0], "", 0, complaints)]
    found: dict[tuple[str, int], Endpoint] = {}
    for instance in meshed:
        identity, port = _identity(instance, trust_domain), _inbound_port(instance)
        found.setdefault((identity, port), _endpoint(place, instance, identity, port, complaints))
    return list(found.values())


def _identity(instance: Instance, trust_domain: str) -> str:
    text = _meta(instance)[IDENTITY]
    try:
        identity = Identity.parse(text)
    except InvalidName as error:
        raise _Wrong(f"{_named(instance)}: {IDENTITY}: {error}") from error
    if identity.host:
        raise _Wrong(f"{_named(instance)}: {IDENTITY}: {text} is a host's, and no workload's")
    if identity.trust_domain != trust_domain:
        raise _Wrong(f"{_named(instance)}: {IDENTITY}: {text} is not in the trust domain {trust_domain}")
    return text


def _inbound_port(instance: Instance) -> int:
    text = _either(instance, INBOUND_PORT) or str(DEFAULT_INBOUND_PORT)
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise _Wrong(f"{_named(instance)}: {INBOUND_PORT}: {text[:100]!r} is not a port, 1 to 65535")
    return int(text)


def _endpoint(place: Place, instance: Instance, identity: str, inbound_port: int, complaints: list[str]) -> Endpoint:
    locality = instance.service.locality or instance.node.locality
    zone = _either(instance, ZONE) or (locality.zone if locality else "")
    return Endpoint(
        *place,
        identity,
        inbound_port,
        _protocol(instance, complaints),
        _weight(instance, complaints),
        zone,
        {key: value for key, value in _meta(instance).items() if not key.startswith(PREFIX)},
    )


def _protocol(instance: Instance, complaints: list[str]) -> Protocol:
    said = _meta(instance).get(PROTOCOL, "auto")
    if said not in _PROTOCOLS:
        complaints.append(f"{_named(instance)}: {PROTOCOL}: {said[:100]!r} is none of {', '.join(get_args(Protocol))}")
        return "auto"
    return cast(Protocol, said)


def _weight(instance: Instance, complaints: list[str]) -> int:
    said = _either(instance, WEIGHT)
    if said:
        if _NUMBER.fullmatch(said) and int(said) <= MAX_WEIGHT:
            return int(said)
        complaints.append(f"{_named(instance)}: {WEIGHT}: {said[:100]!r} is not a number from 1 to {MAX_WEIGHT}")
    weights = instance.service.weights
    if weights is None:
        return 1
    weight = weights.warning if _status(instance) is Status.WARNING else weights.passing
    return min(max(weight, 1), MAX_WEIGHT)


def _either(instance: Instance, key: str) -> str:
    """What the service's meta says, or else the node's."""
    return _meta(instance).get(key) or (instance.node.meta or {}).get(key, "")


def _endpoint_set(
    called: tuple[str, str], port: int, meant: dict[Place, list[Instance]], endpoints: list[Endpoint]
) -> EndpointSet:
    namespaces = {namespace_of(_meta((_meshed(there) or there)[0])) for there in meant.values()}
    name, namespace = called
    namespace = namespace or (namespaces.pop() if len(namespaces) == 1 else DEFAULT_NAMESPACE)
    protocols = {endpoint.protocol for endpoint in endpoints}
    return EndpointSet(
        ServiceName(name, namespace, port or min(port for _, port in meant)),
        tuple(endpoints),
        protocols.pop() if len(protocols) == 1 else "auto",
    )


def _named(instance: Instance) -> str:
    """An instance, to a person; names are others' to choose, and Consul puts no bound on them."""
    return f"{instance.service.id[:100]!r} on {instance.node.node[:100]!r}"
