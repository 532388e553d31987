"""The way out: what a workload sends, to the services it asks for.

Two kinds of listener. An *upstream* is a local address that leads to one service, for any TCP client: HTTP and
opaque bytes are told apart by their first bytes, or by what TLS agreed on where it has TLS for callers outside the mesh
(`proxy.edge`). The *forward proxy* is what `http_proxy` names: each request
says where it goes, in an absolute target or a CONNECT.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from meshd.api.detection import Detection
from meshd.api.documents import Protocol, Upstream
from meshd.api.tasks import Tasks
from proxy.caller import CallerEnd, CallerTraffic, ServerNames, Turned
from proxy.connect import Dialer
from proxy.detect import Detected, Detecting
from proxy.edge import EdgeTls
from proxy.errors import Bound, Failure
from proxy.exchange import Route
from proxy.http1.heads import RequestHead
from proxy.http1.server import Drained, ServerConnection, Service
from proxy.http2.server import Http2Server
from proxy.resolve import PATIENCE_S, Destinations
from proxy.stats import Labels, Stats
from proxy.sweep import Sweep
from proxy.tcp import RelayEnd, open_end, relay
from proxy.transports import take_over

C = TypeVar("C", bound=Drained)


class Outbound:
    """What the listeners of one workload share."""

    def __init__(
        self, workload: str, destinations: Destinations, dialer: Dialer, stats: Stats, sweep: Sweep, tasks: Tasks
    ) -> None:
        self.workload = workload
        self.destinations = destinations
        self.dialer = dialer
        self.stats = stats
        self.sweep = sweep
        self.tasks = tasks
        self.detection = Detection()
        self.names = ServerNames()  # of connections that were captured


class Connections:
    """The HTTP connections of a listener, so that it can drain them."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._open: set[Drained] = set()
        self._draining = False

    def opened(self, connection: C) -> C:
        """connection itself, kept until it is closed."""
        self._open.add(connection)
        return connection

    def serve(self, transport: asyncio.Transport, connection: ServerConnection | Http2Server, data: bytes) -> None:
        """Let connection have the transport, and the bytes that were read from it."""
        take_over(transport, self.opened(connection), data)
        if self._draining:
            connection.drain()

    def refused(self, bound: Bound, reason: str) -> None:  # noqa: ARG002 - the seam's signature
        self._stats.count_error("outbound", "http", bound)

    def closed(self, connection: Drained) -> None:
        self._open.discard(connection)

    def drain(self) -> None:
        """Let each connection end after the request under way."""
        self._draining = True
        for connection in tuple(self._open):
            connection.drain()

    @property
    def open(self) -> int:
        return len(self._open)


class UpstreamListener(Connections):
    """A local address that leads to one service. `renew` gives its listener a new TLS context, where it has TLS."""

    def __init__(self, upstream: Upstream, outbound: Outbound, renew: Callable[[ssl.SSLContext], None]) -> None:
        super().__init__(outbound.stats)
        self._upstream = upstream
        self._outbound = outbound
        self._followed = outbound.destinations.follow(upstream.service, passthrough=False)
        self.edge: EdgeTls | None = None
        if upstream.tls is not None:
            opaque = upstream.protocol == "tcp"
            self.edge = EdgeTls(upstream.listen, upstream.tls, outbound.stats, outbound.tasks, renew, opaque=opaque)
            outbound.sweep.add(self.edge)
        self._labels = Labels("outbound", outbound.workload, upstream.service, tls=self.edge is not None)
        self._http_tcp = outbound.stats.tcp(self._labels, "src")
        self._relayed = CallerTraffic(outbound.stats, self._labels, ServerNames())

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was accepted."""
        return self._unknown() if self.edge is None else self.edge.accept(self._secured)

    @property
    def _speaks(self) -> Protocol:
        if self._upstream.protocol != "auto":
            return self._upstream.protocol
        return self._followed.route.destination.speaks(self._outbound.detection)

    def _unknown(self) -> asyncio.Protocol:
        """The protocol for a connection of which nothing is known but what configuration says."""
        speaks, outbound = self._speaks, self._outbound
        if speaks == "tcp":
            return Relayed(self._relayed, self._relay)
        opaque, timeout_s = speaks == "auto", outbound.detection.timeout_s
        return self.opened(Detecting(outbound.sweep, self._detected, self.closed, opaque=opaque, timeout_s=timeout_s))

    def _secured(self, transport: asyncio.Transport, agreed: str | None) -> None:
        """A TLS handshake is done. What was agreed on in it needs no detection; configuration goes before it."""
        if agreed is not None and self._speaks != "tcp":
            self._detected(transport, "http2" if agreed == "h2" else "http1", b"")
        else:
            unknown = self._unknown()
            take_over(transport, unknown, b"")
            if self._draining and isinstance(unknown, Detecting):
                unknown.drain()

    def _detected(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        if found == "tcp":
            turned = None if data else self._detected  # a caller that has said nothing may yet speak HTTP
            take_over(transport, Relayed(self._relayed, self._relay, turned), data)
        else:
            kind = Http2Server if found == "http2" else ServerConnection
            self.serve(transport, kind(self, self._http_tcp, self._outbound.sweep), data)

    def _relay(self, end: RelayEnd) -> None:
        outbound, destination = self._outbound, self._followed.route.destination
        work = relay(end, "outbound", destination, outbound.dialer, PATIENCE_S, outbound.stats)
        outbound.tasks.start(work, f"relay to {destination.name}")

    def route(self, head: RequestHead) -> Route | Failure:  # noqa: ARG002 - all requests go one way
        return self._followed.route

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:  # noqa: ARG002
        return Failure.BAD_REQUEST  # an upstream is a service, not a proxy

    def close(self) -> None:
        """No connection will be accepted any more."""
        if self.edge is not None:
            self._outbound.sweep.discard(self.edge)
        self._followed.end()


class Relayed(CallerEnd):
    """A caller's end of a relay that begins when the connection does."""

    def __init__(self, traffic: CallerTraffic, begin: Callable[[RelayEnd], None], turned: Turned | None = None) -> None:
        super().__init__(traffic, turned=turned)
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._begin(self)


class ForwardProxy(Connections):
    """What `http_proxy` names. It works for the only workload there is; which process calls it cannot tell."""

    def __init__(self, callers: Callable[[], tuple[Outbound, ...]], stats: Stats, sweep: Sweep) -> None:
        super().__init__(stats)
        self._callers = callers
        self._sweep = sweep
        self._tcp = stats.tcp(Labels("outbound"), "src")
        self._names = ServerNames()

    def accept(self) -> asyncio.Protocol:
        return self.opened(Detecting(self._sweep, self._detected, self.closed, opaque=False))

    def _detected(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        self.serve_http(self, transport, found, data)

    def serve_http(self, service: Service, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        """Answer for service the requests of a connection, data being the first that came of them."""
        kind = Http2Server if found == "http2" else ServerConnection
        self.serve(transport, kind(service, self._tcp, self._sweep), data)

    def route(self, head: RequestHead) -> Route | Failure:
        callers = self._callers()
        if len(callers) == 1 and head.authority:
            return callers[0].destinations.get(head.authority)
        failure = Failure.BAD_REQUEST if len(callers) == 1 else Failure.NO_CALLER
        self._stats.count_error("outbound", "http", failure.value.label)
        return failure

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:
        callers = self._callers()
        if len(callers) != 1:
            return Failure.NO_CALLER
        caller = callers[0]
        caller.tasks.start(self._tunnel(connection, authority, caller), f"tunnel to {authority}")
        return None

    async def _tunnel(self, connection: ServerConnection, authority: str, caller: Outbound) -> None:
        destination = caller.destinations.get(authority).destination
        endpoint = await open_end(destination, caller.dialer, PATIENCE_S)
        if isinstance(endpoint, Failure):
            self._stats.count_error("outbound", "tcp", endpoint.value.label)
            if not connection.transport.is_closing():
                connection.fail(endpoint, unsent=True)
        elif connection.transport.is_closing():
            endpoint.abort(None)
        else:
            labels = Labels("outbound", caller.workload, destination.name)
            # Outside the mesh nobody is told who calls: what goes on in such a tunnel is its two ends' business.
            auto = endpoint.meshed and destination.speaks(caller.detection) == "auto"
            turned = _Tunnelled(self, caller, authority).serve if auto else None
            end = CallerEnd(CallerTraffic(self._stats, labels, self._names), turned=turned)
            connection.hand_over(end)
            end.join(endpoint)


class _Tunnelled:
    """HTTP in the clear in a tunnel to a service of the mesh: every request goes where the CONNECT went. Some clients
    use tunnels for everything (Node's are such), and the service is to know who calls."""

    def __init__(self, proxy: ForwardProxy, caller: Outbound, authority: str) -> None:
        self._proxy = proxy
        self._caller = caller
        self._authority = authority

    def serve(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        """See `proxy.caller.Turned`."""
        self._proxy.serve_http(self, transport, found, data)

    def route(self, head: RequestHead) -> Route | Failure:  # noqa: ARG002 - all requests go one way
        return self._caller.destinations.get(self._authority)

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:  # noqa: ARG002
        return Failure.BAD_REQUEST  # one is enough

    def refused(self, bound: Bound, reason: str) -> None:
        self._proxy.refused(bound, reason)

    def closed(self, connection: Drained) -> None:
        self._proxy.closed(connection)
