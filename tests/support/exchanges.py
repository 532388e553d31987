"""A caller's connection, exchanges and endpoints' connections, all real, on recorded wires instead of sockets."""

from collections.abc import Callable
from time import monotonic

from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.policy import Policy
from proxy.destination import Destination
from proxy.endpoint import LiveEndpoint
from proxy.errors import Bound, Failure
from proxy.exchange import Exchange, Route
from proxy.http1.client import ClientConnection
from proxy.http1.heads import RequestHead
from proxy.http1.server import Drained, ServerConnection
from proxy.stats import Labels, Stats
from proxy.sweep import Sweep
from tests.support.wire import Wire

DEFAULT = Policy()
PLAIN = Endpoint("192.0.2.1", 80)
OUTBOUND = Labels("outbound", "default/web", "api.default:80")


class Rig:
    """A listener with one route. What is asked of the connector waits in `asked` until the test answers it; idle
    connections are used again at once, as by `proxy.connect.Dialer`."""

    def __init__(
        self,
        *endpoints: Endpoint,
        extra: bytes = b"",
        patience_s: float = 30.0,
        known: bool = True,
        policy: Policy = DEFAULT,
    ) -> None:
        self.stats = Stats()
        self.sweep = Sweep()
        self.asked: list[tuple[Exchange, LiveEndpoint]] = []
        self.opened: list[Wire] = []
        self.refusals: list[tuple[Bound, str]] = []
        self.tunnels: list[str] = []
        self.ended: list[Drained] = []
        self.unroutable: Failure | None = None
        self._timers: list[Callable[[], None]] = []
        self.destination = Destination("api", self._live, self._call_later)
        if known:
            self.destination.update(
                EndpointSet(ServiceName("api", "default", 80), endpoints or (PLAIN,), policy=policy)
            )
        self._route = Route(self.destination, self, self.stats, extra, patience_s, OUTBOUND)

    def _live(self, endpoint: Endpoint) -> LiveEndpoint:
        labels = OUTBOUND._replace(target=f"{endpoint.address}:{endpoint.port}")
        tcp, relayed = self.stats.tcp(labels, "dst"), self.stats.tcp(labels, "dst", relays=True)
        return LiveEndpoint(endpoint, monotonic(), self.stats.http(labels), tcp, relayed)

    def _call_later(self, _delay: float, call: Callable[[], None]) -> None:
        self._timers.append(call)

    # --- the connector's seam

    def connect(self, exchange: Exchange, live: LiveEndpoint) -> None:
        if live.idle:
            exchange.connected(live.idle.pop())
        else:
            self.asked.append((exchange, live))

    def open(self, clogged: bool = False) -> Wire:
        """The first connection that was asked for is made."""
        exchange, live = self.asked.pop(0)
        client = ClientConnection(live, self.sweep, live.tcp)
        wire = Wire(client, clogged)
        self.opened.append(wire)
        self.destination.succeeded(live)
        if not exchange.connected(client):
            client.park()
        return wire

    def refuse(self, failure: Failure = Failure.NOT_CONNECTED) -> None:
        """The first connection that was asked for cannot be made."""
        exchange, live = self.asked.pop(0)
        self.destination.failed(live)
        exchange.not_connected(failure)

    # --- the listener's seam

    def call(self, clogged: bool = False, tls: bool = False) -> Wire:
        """A new connection from a caller."""
        return Wire(ServerConnection(self, self.stats.tcp(OUTBOUND, "src"), self.sweep), clogged, tls)

    def route(self, head: RequestHead) -> Route | Failure:
        return self.unroutable or self._route

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:
        self.tunnels.append(authority)
        return self.unroutable

    def refused(self, bound: Bound, reason: str) -> None:
        self.refusals.append((bound, reason))

    def closed(self, connection: Drained) -> None:
        self.ended.append(connection)

    # --- what became of it

    @property
    def pending(self) -> int:
        """Requests that endpoints are thought to work on."""
        return sum(live.ewma.pending for live in self.destination.endpoints)

    @property
    def idle(self) -> int:
        return sum(len(live.idle) for live in self.destination.endpoints)

    def counted(self) -> tuple[int, dict[int, int]]:
        """(requests, responses by status) over all series."""
        responses: dict[int, int] = {}
        for series in self.stats.http_series:
            for (status, _), its in series.responses.items():
                responses[status] = responses.get(status, 0) + sum(its.buckets)
        return sum(series.requests for series in self.stats.http_series), responses

    def tick(self, after_s: float) -> None:
        """Every deadline is looked at, as if after_s had passed."""
        for _ in range(Sweep.BUCKETS):
            self.sweep.tick(monotonic() + after_s)

    def ring(self) -> None:
        """Every timer that the destination set is over."""
        timers, self._timers = self._timers, []
        for call in timers:
            call()
