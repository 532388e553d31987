"""The way in: what other proxies send, to the workloads beside this one.

Only mutual TLS comes in here (for plain text that was redirected see `proxy.capture.inbound`). A peer shows a
certificate of the trust domain before its first byte is read, opens with a transport header, and reaches no port but
those its workload declares, or in a pod any but the proxy's own (`proxy.ports`). The application learns who calls from
`l5d-client-id`.
"""

import asyncio
import logging
from time import monotonic
from typing import Final, TypeVar, cast

from meshd.api.logs import about
from meshd.api.names import Address, WorkloadName
from meshd.api.tasks import Tasks
from proxy.caller import Again, CallerEnd, CallerTraffic, Turned
from proxy.detect import TIMEOUT_S, RequestLine, detect
from proxy.errors import Bound, Failure
from proxy.exchange import Route
from proxy.http1.heads import RequestHead
from proxy.http1.server import Drained, ServerConnection
from proxy.http2.server import Http2Server
from proxy.mesh.denied import Denials, DeniedPeer
from proxy.mesh.header import BadTransportHeader, TransportHeader, decode
from proxy.mesh.records import LAST
from proxy.mesh.tls import HANDSHAKE_TIMEOUT_S, IdentityMismatch, WorkloadContext
from proxy.ports import AnyPort, LocalPort
from proxy.stats import Labels, Stats
from proxy.sweep import Overdue, Sweep
from proxy.tcp import relay
from proxy.transports import take_over

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Drained)

PATIENCE_S: Final = 1.0
"""How long a request waits for its application to accept connections; Linkerd's inbound failfast."""
HEADER_S: Final = 10.0
"""How long a peer may take to say its transport header."""

WAIT_S: Final = 30.0
"""How long a connection that has carried a relay is kept for the next: longer than any proxy keeps one to us."""
LAST_S: Final = 1.0
"""How long a header may be on its way when the proxy drains, and how long a handshake may have taken."""

OPAQUE: Final = frozenset(("auto", "tcp"))
"""Protocols of ports that take opaque bytes; every other is HTTP. `auto` takes those that are no HTTP."""


class Inbound:
    """The inbound listener's side of the mesh: the ports it serves, and the connections to them."""

    def __init__(self, trust_domain: str, stats: Stats, sweep: Sweep, tasks: Tasks) -> None:
        self.trust_domain = trust_domain
        self.stats = stats
        self.sweep = sweep
        self.tasks = tasks
        self.ports: dict[tuple[WorkloadName, int], LocalPort] = {}
        self.any_port: dict[WorkloadName, AnyPort] = {}  # those whose every port is to be asked for
        self.accepted = 0
        self.established = 0  # of those accepted: the TLS handshake is done, and the peer is of the trust domain
        self.draining = False
        self.detect_timeout_s = TIMEOUT_S
        self.waiting: set[_Opening] = set()  # connections whose transport header is to come, the next one's too
        self._accepted_at = 0.0  # the latest
        self._open: set[Drained] = set()
        self._strangers = Strangers(self)
        self.denials = Denials(stats)
        sweep.add(self._strangers)
        sweep.add(self.denials)

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was accepted; it hears of it when the TLS handshake is done."""
        self.accepted += 1
        self._accepted_at = monotonic()
        return _Opening(self)

    def local(self, workload: WorkloadName, where: Address) -> LocalPort | None:
        """What a connection made to `where` asks for; None where its port is none that others may ask for. Where the
        application listens on a declared port, its document says; on any other it is to listen at that very address."""
        any_port = self.any_port.get(workload)
        return self.ports.get((workload, where.port)) if any_port is None else any_port.at(where)

    def opened(self, connection: C) -> C:
        """connection itself, kept until it is closed."""
        self._open.add(connection)
        return connection

    def closed(self, connection: Drained) -> None:
        self._open.discard(connection)

    def drain(self) -> None:
        """Let each connection end after the request under way."""
        self.draining = True
        for connection in (*self._open, *self.waiting):
            connection.drain()

    @property
    def open(self) -> int:
        return len(self._open) + len(self.waiting) + self._proving()

    def _proving(self) -> bool:
        """Whether a drain is to wait for a TLS handshake: where all that there were have not ended, none may be under
        way, but of one that fails nobody is told. The peer may have sent its request with the last of it."""
        return self.draining and self.accepted > self.established and monotonic() < self._accepted_at + LAST_S


class Strangers:
    """Says how many connections did not prove themselves: a TLS handshake that fails is told to no protocol. A
    connection counts when the time that a handshake may take is over."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._overdue = Overdue(HANDSHAKE_TIMEOUT_S + 1.0)

    def sweep(self, now: float) -> None:
        """See `proxy.sweep.Swept`."""
        unproved = self._overdue.count(now, self._inbound.accepted, self._inbound.established)
        if unproved:
            log.warning("%d connections to the inbound listener were no peers of the mesh", unproved)


class _Opening(asyncio.Protocol):
    """A connection up to its transport header: who calls, and which port of which workload. One that has carried a
    relay `waits` for the next: of that one it is known who calls, and it may stay away."""

    def __init__(self, inbound: Inbound, waits: tuple[WorkloadName, str] | None = None) -> None:
        self._inbound = inbound
        self._waits = waits is not None
        self._said_last = False
        self._data = b""
        self._deadline = 0.0
        self._transport: asyncio.Transport
        self._peer = ""  # and no workload, until both are known
        if waits is not None:
            self._workload, self._peer = waits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        if self._waits:
            self._expect(WAIT_S)
            if self._inbound.draining:
                self.drain()
        elif self._meet(transport):
            self._expect(LAST_S if self._inbound.draining else HEADER_S)

    def _expect(self, within_s: float) -> None:
        self._inbound.waiting.add(self)
        self._inbound.sweep.add(self)
        self._deadline = monotonic() + within_s

    def _meet(self, transport: asyncio.BaseTransport) -> bool:
        """Find out who calls, and whom. False where it is refused."""
        connection = transport.get_extra_info("ssl_object")
        try:
            peer = self._inbound.denials.admit("inbound", self._transport)
        except DeniedPeer:  # which is counted and logged
            self._inbound.established += 1
            self._transport.abort()
            return False
        except IdentityMismatch as error:
            self._refuse(str(error))
            return False
        if peer.trust_domain != self._inbound.trust_domain:
            self._refuse(f"the peer is {peer}, of another trust domain")
            return False
        context = connection.context
        assert isinstance(context, WorkloadContext)  # the server name chose it, or the handshake failed
        self._inbound.established += 1
        self._workload = context.workload
        self._peer = str(peer)
        return True

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._data += data
        try:
            opened = decode(self._data)
        except BadTransportHeader as error:
            self._refuse(f"{self._peer} sent no transport header: {error}")
            return
        if opened is not None:
            self._forget()
            self._serve(*opened)

    def _again(self, transport: asyncio.Transport, rest: bytes) -> bool:
        """A relay on the connection is over: wait for another on it, whose header may have begun with rest. False where
        it is to be closed."""
        if self._said_last or transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.resume_reading()
        take_over(transport, _Opening(self._inbound, (self._workload, self._peer)), rest)
        return True

    def drain(self) -> None:
        """Take nothing but what has a header on its way."""
        if self._waits:
            self._said_last = True
            self._transport.write(LAST)
        self._deadline = monotonic() + LAST_S

    def _forget(self) -> None:
        self._inbound.sweep.discard(self)
        self._inbound.waiting.discard(self)

    def _serve(self, header: TransportHeader, rest: bytes) -> None:
        inbound = self._inbound
        here = self._transport.get_extra_info("sockname")
        local = inbound.local(self._workload, Address(here[0], header.port))
        if local is None:
            whose = "is the proxy's own" if self._workload in inbound.any_port else f"{self._workload} does not declare"
            self._refuse(f"{self._peer} asked for port {header.port}, which {whose}")
            return
        if header.protocol == "tcp" and local.port.protocol not in OPAQUE:
            # Opaque bytes are not looked into, so what they say in l5d-client-id would be believed.
            self._refuse(f"{self._peer} sent opaque bytes for port {header.port} of {self._workload}, which is HTTP")
            return
        labels = local.labels(self._peer, True)
        if header.protocol == "tcp":
            traffic = CallerTraffic(inbound.stats, labels, local.names)
            watched = local.port.protocol == "auto"
            end = Watched(traffic, self._again, local) if watched else CallerEnd(traffic, again=self._again)
            take_over(self._transport, end, rest)
            if self._transport.is_closing():
                return  # what came with the header was enough
            work = relay(end, "inbound", local.destination, local.dialer, PATIENCE_S, inbound.stats)
            inbound.tasks.start(work, f"relay from {self._peer}")
        else:
            service = LocalService(inbound, local, labels)
            connection = Http2Server(service, inbound.stats.tcp(labels, "src"), inbound.sweep, from_proxy=True)
            take_over(self._transport, inbound.opened(connection), rest)
            if inbound.draining:
                connection.drain()

    def _refuse(self, reason: str) -> None:
        known = about(workload=self._workload, peer=self._peer) if self._peer else None
        log.warning("refused a connection: %s", reason, extra=known)
        self._inbound.stats.count_error("inbound", "tcp", "unexpected")
        self._transport.abort()

    def sweep(self, now: float) -> None:
        if now < self._deadline:
            return
        if (self._waits or self._inbound.draining) and not self._data:
            self._transport.close()
        else:
            self._refuse(f"{self._peer} sent no transport header in time")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._forget()


class Watched(CallerEnd):
    """A caller's end of a relay to a port of which it is not known that it is not HTTP. A request that came this way
    could say in l5d-client-id who sent it, and would be believed."""

    def __init__(
        self, traffic: CallerTraffic, again: Again | None, local: LocalPort, turned: Turned | None = None
    ) -> None:
        super().__init__(traffic, again=again, turned=turned)
        self._local = local
        self._line: RequestLine | None = RequestLine()

    def _pass_on(self, data: bytes) -> None:
        if self._turned is not None and detect(data) in ("http1", "http2"):
            super()._pass_on(data)  # for whoever can speak it
            return
        if self._line is not None:
            if self.transport.is_closing():
                return
            found = self._line.feed(data)
            if found:
                self._refuse()
                return
            if found is False:
                self._line = None
        super()._pass_on(data)

    def _refuse(self) -> None:
        local = self._local
        log.warning(
            "refused HTTP that %s sent as opaque bytes for port %d of %s: if its application does not ask who calls, "
            "declare the port `tcp`",
            self._traffic.plain.labels.peer or "somebody outside the mesh",
            local.port.port,
            local.workload,
            extra=about(workload=local.workload, peer=self._traffic.plain.labels.peer),
        )
        local.stats.count_error("inbound", "tcp", Bound.DISGUISED)
        self.abort(ConnectionError("HTTP as opaque bytes"))


class LocalService:
    """What one inbound HTTP connection is for: every request goes to the port that the header asked for."""

    def __init__(self, inbound: Inbound, local: LocalPort, labels: Labels) -> None:
        self._inbound = inbound
        extra = b"l5d-client-id: " + labels.peer.encode() + b"\r\n" if labels.peer else b""
        stats = inbound.stats
        self._route = Route(local.destination, local.dialer, stats, extra, PATIENCE_S, labels, stats.http(labels))

    def route(self, head: RequestHead) -> Route | Failure:  # noqa: ARG002 - all requests go one way
        return self._route

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:  # noqa: ARG002
        return Failure.BAD_REQUEST

    def refused(self, bound: Bound, reason: str) -> None:  # noqa: ARG002 - the seam's signature
        self._inbound.stats.count_error("inbound", "http", bound)

    def closed(self, connection: Drained) -> None:
        self._inbound.closed(connection)
