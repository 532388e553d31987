"""Names to destinations, for one workload: what is asked for is looked up once, and followed for as long as it is used.

What answers the look-ups is a `Resolver`: the agent (`proxy.control`) or a file (`proxy.static`).
"""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, Protocol

from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import WorkloadName
from proxy.destination import Destination
from proxy.endpoint import LiveEndpoint
from proxy.exchange import Route
from proxy.seams import Connector
from proxy.stats import Labels, Stats

MAX_DESTINATIONS: Final = 1000
"""Names one workload may have followed at a time; the one unused longest makes room. Callers choose the names."""
IDLE_S: Final = 60.0
"""A name not asked for in this time is not followed any longer."""
PATIENCE_S: Final = 3.0
"""How long a request waits for an endpoint that can be reached; Linkerd's outbound failfast."""

_MESH_ENDINGS: Final = (".mesh", ".svc", ".svc.cluster.local")

Found = Callable[[EndpointSet | None], None]


class Resolver(Protocol):
    """What knows the services."""

    def watch(self, authority: str, namespace: str, found: Found) -> Callable[[], None]:
        """Tell found where authority (NAME[.NAMESPACE…][:PORT]) leads for a caller in namespace, now and whenever it
        changes; None where it is no service. The function returned ends it."""


class Destinations:
    """See the module. `call_later` is the loop's; `own` tells whether an address is one of this proxy's listeners."""

    def __init__(
        self,
        workload: WorkloadName,
        resolver: Resolver,
        stats: Stats,
        connector: Connector,
        call_later: Callable[[float, Callable[[], None]], object],
        own: Callable[[str, int], bool],
        zone: str = "",
    ) -> None:
        self._workload = workload
        self._resolver = resolver
        self._stats = stats
        self._connector = connector
        self._call_later = call_later
        self._own = own
        self._zone = zone
        self._followed: dict[str, Followed] = {}
        self._destinations: dict[Destination, str] = {}

    def get(self, authority: str) -> Route:
        """The route to authority, for one who names it in a request: outside the mesh where it is no service of it."""
        followed = self._followed.get(authority)
        if followed is None:
            if len(self._followed) >= MAX_DESTINATIONS:
                self._drop(min(self._followed, key=lambda name: self._followed[name].route.destination.used_at))
            followed = self._followed[authority] = self.follow(authority, passthrough=True)
        return followed.route

    def follow(self, authority: str, *, passthrough: bool) -> "Followed":
        """The route to authority, followed until its `end`. `passthrough`: where it is no service of the mesh, it is a
        host and port outside."""
        destination = Destination(
            authority,
            lambda endpoint: self._live(destination.name, endpoint),
            self._call_later,
            zone=self._zone,
            workload=str(self._workload),
        )

        def found(endpoints: EndpointSet | None) -> None:
            if endpoints is not None:
                destination.name = destination.service = str(endpoints.service)
            elif passthrough:
                endpoints = self._outside(authority)
            destination.update(endpoints)

        labels = Labels("outbound", str(self._workload), authority)
        route = Route(destination, self._connector, self._stats, b"", PATIENCE_S, labels)
        unwatch = self._resolver.watch(authority, self._workload.namespace, found)
        self._destinations[destination] = authority

        def end() -> None:
            self._destinations.pop(destination, None)
            unwatch()

        return Followed(route, end)

    @property
    def followed(self) -> Iterator[tuple[str, Destination]]:
        """What is asked for now, and where it leads."""
        return ((authority, destination) for destination, authority in self._destinations.items())

    def _outside(self, authority: str) -> EndpointSet | None:
        """authority as a place outside the mesh, reached in plain text; None where it is this proxy itself, or a name
        that can only be the mesh's: a service that is gone must not be asked for somewhere else, unencrypted."""
        host, colon, port_text = authority.rpartition(":")
        if not colon or authority.endswith("]"):
            host, port_text = authority, "80"
        host, port = host.strip("[]"), int(port_text)
        if not host or not 0 < port <= 65535 or self._own(host, port) or host.rstrip(".").endswith(_MESH_ENDINGS):
            return None
        return EndpointSet(ServiceName(host, "", port), (Endpoint(host, port),))

    def _live(self, service: str, endpoint: Endpoint) -> LiveEndpoint:
        meshed = bool(endpoint.identity)
        labels = Labels(
            "outbound", str(self._workload), service, f"{endpoint.address}:{endpoint.port}", endpoint.identity, meshed
        )
        stats = self._stats
        return LiveEndpoint(
            endpoint, monotonic(), stats.http(labels), stats.tcp(labels, "dst"), stats.tcp(labels, "dst", relays=True)
        )

    def sweep(self, now: float) -> None:
        """Follow no longer what was not asked for in `IDLE_S`."""
        for authority, followed in tuple(self._followed.items()):
            if followed.route.destination.idle(now, IDLE_S):
                self._drop(authority)

    def _drop(self, authority: str) -> None:
        self._followed.pop(authority).end()

    def close(self) -> None:
        for authority in tuple(self._followed):
            self._drop(authority)


class Followed:
    """A route that is kept up to date until it is ended."""

    __slots__ = ("_unwatch", "route")

    def __init__(self, route: Route, unwatch: Callable[[], None]) -> None:
        self.route = route
        self._unwatch = unwatch

    def end(self) -> None:
        self._unwatch()
        self.route.destination.close()
