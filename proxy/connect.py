"""Opening connections to endpoints: plain TCP, or mutual TLS to the proxy before a meshed one.

A `Dialer` opens for one workload, with that workload's certificate, and never falls back: an endpoint that has an
identity is reached by mutual TLS with a peer that proves it, or not at all.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from meshd.api.endpoints import Endpoint
from meshd.api.names import Identity
from meshd.api.tasks import Tasks
from proxy.accrual import Reason, State
from proxy.destination import Destination, where
from proxy.endpoint import LiveEndpoint
from proxy.errors import Failure
from proxy.exchange import Exchange
from proxy.http1.client import ClientConnection
from proxy.http2.client import Http2Client
from proxy.mesh.denied import Denials
from proxy.mesh.header import MeshProtocol, TransportHeader, encode
from proxy.mesh.tls import CLOSE_TIMEOUT_S, IdentityMismatch, NoCertificate
from proxy.parked import MAX_PARKED, Parked
from proxy.sockets import keep_alive
from proxy.sweep import Sweep
from proxy.transports import take_over

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 2.0
"""How long the TLS handshake with another proxy may take, besides the time to connect that policy gives."""


class Opened(asyncio.Protocol):
    """What a connection for opaque bytes is opened with; its endpoint counts it as open from when it is made."""

    def not_opened(self) -> None:
        """No connection could be had for it."""
        raise NotImplementedError


E = TypeVar("E", bound=Opened)


class OwnAddress(Exception):
    """The endpoint is this proxy itself: what is sent there would come back, and go there again."""


class Credentials(Protocol):
    """Where a workload's certificate comes from (`proxy.mesh.identity`)."""

    async def client_context(self) -> ssl.SSLContext:
        """The context to open mesh connections with now; the first is waited for a while. NoCertificate where there is
        none."""


class Dialer:
    """See the module. `own` tells whether an address is one of this proxy's listeners."""

    def __init__(
        self,
        tasks: Tasks,
        sweep: Sweep,
        credentials: Credentials,
        own: Callable[[str, int], bool],
        denials: Denials,
    ) -> None:
        self._tasks = tasks
        self._sweep = sweep
        self._credentials = credentials
        self._own = own
        self._denials = denials

    def connect(self, exchange: Exchange, live: LiveEndpoint) -> None:
        """The exchange's connection: an idle one or one that has room, or a new one."""
        h2 = live.speaks_h2
        if h2 or (h2 is None and exchange.head.h2):
            self._connect_shared(exchange, live)
        elif live.idle:
            exchange.connected(live.idle.pop())
        else:
            self._tasks.start(self._connect(exchange, live), f"connect {live.endpoint.address}:{live.endpoint.port}")

    def _connect_shared(self, exchange: Exchange, live: LiveEndpoint) -> None:
        for connection in live.shared:
            if connection.room > 0:
                exchange.connected(connection.stream())
                return
        if live.opening is not None:
            live.opening.append(exchange)
        else:
            live.opening = [exchange]
            self._tasks.start(self._open_shared(live, exchange.route.destination), f"connect {live.endpoint.address}")

    async def _open_shared(self, live: LiveEndpoint, destination: Destination) -> None:
        """Open one connection for all that wait; those it has no room for open the next."""
        opening = self._opening(live.endpoint, "h2", destination.name)
        client = Http2Client(live, self._sweep, live.tcp, opening)
        failure: Failure | None = Failure.NOT_CONNECTED
        try:
            failure = await self.dial(destination, live, lambda: client)
        finally:  # cancelled too: those that wait are to know
            waiting, live.opening = live.opening or [], None
            if failure is not None:
                for exchange in waiting:
                    exchange.not_connected(failure)
        if failure is not None:
            return
        if not live.retired:
            live.shared.append(client)
        for exchange in waiting:
            if client.room > 0:
                exchange.connected(client.stream())
            else:
                self._connect_shared(exchange, live)
        if live.retired:
            client.close()

    async def _connect(self, exchange: Exchange, live: LiveEndpoint) -> None:
        destination = exchange.route.destination
        client = ClientConnection(live, self._sweep, live.tcp)
        failure: Failure | None = Failure.NOT_CONNECTED
        try:
            failure = await self.dial(destination, live, lambda: client)
        finally:  # cancelled too: the exchange is to know
            if failure is not None:
                exchange.not_connected(failure)
        if failure is None and not exchange.connected(client):
            client.park()

    def _opening(self, endpoint: Endpoint, protocol: MeshProtocol, service: str) -> bytes:
        return encode(TransportHeader(endpoint.port, protocol, service)) if endpoint.identity else b""

    async def dial(
        self, destination: Destination, live: LiveEndpoint, make: Callable[[], asyncio.Protocol], opaque: bool = False
    ) -> Failure | None:
        """Open a connection to live with the protocol that `make` makes, and tell destination how it went. `opaque`: of
        a meshed endpoint the protocol tells that itself, later."""
        endpoint = live.endpoint
        try:
            await self._open(endpoint, destination.rules.connect_s, make)
        except OwnAddress:
            about = destination.about(endpoint)
            log.warning("%s: %s is this proxy itself", destination.name, where(endpoint), extra=about)
            return Failure.LOOP
        except (NoCertificate, OSError, TimeoutError, IdentityMismatch, ValueError) as error:
            # ssl.SSLError is an OSError; a host that cannot be a name (a..b) is a ValueError.
            if live.accrual.state is State.IN:
                about = destination.about(endpoint)
                log.warning("%s: %s", destination.name, _describe(endpoint, error), extra=about)
            destination.failed(live)
            return Failure.IDENTITY if isinstance(error, NoCertificate) else Failure.NOT_CONNECTED
        if opaque and endpoint.identity:
            destination.inconclusive(live)  # whether there is an application, the first bytes will tell
            return None
        if live.accrual.reason is Reason.CONNECTION:
            about = destination.about(endpoint)
            log.info("%s: %s accepts connections again", destination.name, where(endpoint), extra=about)
        destination.succeeded(live)
        return None

    async def open_tcp(
        self, destination: Destination, patience_s: float, make: Callable[[LiveEndpoint, bytes], E]
    ) -> E | Failure:
        """A connection for opaque bytes to the least loaded endpoint. Waits and tries for patience_s.

        `make` gets the endpoint and what to send first.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            live = destination.pick_least()
            if live is None:
                refused = await _waited(destination, deadline - loop.time())
                if refused is not None:
                    return refused
                continue
            protocol = make(live, self._opening(live.endpoint, "tcp", destination.name))
            if any(parked.take(protocol) for parked in reversed(tuple(live.parked))):
                destination.inconclusive(live)
                return protocol
            outcome = await self.dial(destination, live, lambda made=protocol: made, opaque=True)  # type: ignore[misc]
            if outcome is None:
                return protocol
            protocol.not_opened()
            if outcome in (Failure.IDENTITY, Failure.LOOP) or loop.time() >= deadline:
                return outcome

    def park(self, live: LiveEndpoint, transport: asyncio.Transport) -> bool:
        """Keep a connection to another proxy for the next relay to live; False where it is to be closed instead."""
        if live.retired or len(live.parked) >= MAX_PARKED or transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            return False  # the peer does not read
        transport.resume_reading()
        take_over(transport, Parked(live, self._sweep))
        return True

    async def _open(self, endpoint: Endpoint, connect_s: float, make: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        if not endpoint.identity:
            async with asyncio.timeout(connect_s):
                opened, _ = await loop.create_connection(make, endpoint.address, endpoint.port)
            keep_alive(opened.get_extra_info("socket"))
            # Only now is it known: a host has many names, and addresses too.
            here, there = opened.get_extra_info("sockname"), opened.get_extra_info("peername")
            if there and self._own("127.0.0.1" if here[0] == there[0] else there[0], there[1]):
                opened.abort()
                raise OwnAddress
            return
        expected = Identity.parse(endpoint.identity)
        credentials = await self._credentials.client_context()
        # One after the other: a host that is away costs the time to connect, and leaves some for another endpoint.
        async with asyncio.timeout(connect_s):
            plain, waiting = await loop.create_connection(asyncio.Protocol, endpoint.address, endpoint.inbound_port)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                transport = await loop.start_tls(
                    plain,
                    waiting,
                    credentials,
                    server_hostname=expected.server_name,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
                )
        except BaseException:
            plain.abort()
            raise
        assert transport is not None  # as it is for a transport that is closed already, on other loops
        keep_alive(transport.get_extra_info("socket"))
        try:
            self._check_server(transport, expected)
        except BaseException:
            transport.abort()
            raise
        take_over(transport, make())

    def _check_server(self, transport: asyncio.Transport, expected: Identity) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed in the handshake")
        found = self._denials.admit("outbound", transport)
        if found != expected:
            raise IdentityMismatch(f"the peer is {found}, expected {expected}")


class _Wakened(asyncio.Event):
    """A waiter of a destination that a coroutine waits with."""

    def resume(self) -> None:
        self.set()


async def _waited(destination: Destination, patience_s: float) -> Failure | None:
    """Wait until destination may have an endpoint; or why it is not to be had within patience_s."""
    waiter = _Wakened()
    if patience_s <= 0:
        return Failure.NO_ENDPOINT
    refused = destination.wait(waiter)
    if refused is not None:
        return refused
    try:
        async with asyncio.timeout(patience_s):
            await waiter.wait()
    except TimeoutError:
        return destination.leave(waiter, in_vain=True)
    except BaseException:
        destination.leave(waiter)
        raise
    return None


def _describe(endpoint: Endpoint, error: BaseException) -> str:
    """What went wrong with whom, for the operator."""
    meshed = bool(endpoint.identity)
    where = f"{endpoint.address}:{endpoint.inbound_port if meshed else endpoint.port}"
    who = f"{endpoint.identity} at {where}" if meshed else where
    if isinstance(error, TimeoutError):
        return f"{who} did not accept a connection in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {who} failed: {error.reason or error}"
    return f"no connection to {who}: {error}"
