"""A destination: one service as one workload calls it, its endpoints, and who waits for one of them.

`Destination` swaps its endpoints when discovery says so, keeps each one's latency and idle connections across the
swap, benches those that cannot be connected to, and answers `pick`. A request that finds no endpoint waits here, until
there is one or until its own patience ends. It opens no connection; `proxy.connect` does.

Destinations are per workload because connections are: each is opened with the caller's certificate.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from meshd.api.documents import Protocol as PortProtocol
from meshd.api.endpoints import Endpoint, EndpointSet
from proxy import balance
from proxy.balance import PeakEwma
from proxy.seams import Client, Shared
from proxy.stats import HttpTraffic, TcpTraffic

if TYPE_CHECKING:
    from proxy.exchange import Exchange

MAX_WAITING: Final = 10_000
"""Requests that may wait on one destination; further ones are shed at once. Linkerd's queue."""

BENCH_MIN_S: Final = 0.1
BENCH_MAX_S: Final = 60.0
"""How long an endpoint that refused a connection is left alone; doubled at each failure, with jitter. Linkerd's."""
LOCAL_BENCH_MAX_S: Final = 0.5
"""The longest that an application beside the proxy is left alone: to try costs nothing there, and when it is back after
a restart its callers have `proxy.inbound.PATIENCE_S` to find it so."""


class LiveEndpoint:
    """An endpoint as this proxy knows it: what it measured, and the connections it holds open to it."""

    __slots__ = (
        "bench_s", "benched_until", "endpoint", "ewma", "http", "idle", "open", "opening", "relayed", "retired",
        "shared", "tcp", "weight",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, now: float, http: HttpTraffic, tcp: TcpTraffic, relayed: TcpTraffic) -> None:
        """`tcp` counts the connections that carry requests, `relayed` those that carry opaque bytes."""
        self.endpoint = endpoint
        self.weight = endpoint.weight
        self.ewma = PeakEwma(now)
        self.http = http
        self.tcp = tcp
        self.relayed = relayed
        self.idle: list[Client] = []
        self.shared: list[Shared] = []  # connections that carry many requests at once
        self.opening: list[Exchange] | None = None  # who waits for one of those, while it is being opened
        self.open = 0  # opaque connections that are open or being opened
        self.benched_until = 0.0
        self.bench_s = 0.0
        self.retired = False

    def load(self, now: float) -> float:
        return self.ewma.load(now) / self.weight

    def connections(self) -> float:
        return (self.open + 1) / self.weight

    def retire(self) -> None:
        """It left the service: what is under way goes on, nothing new begins."""
        self.retired = True
        for connection in tuple(self.idle):
            connection.close()
        self.idle.clear()
        for shared in tuple(self.shared):
            self.unshare(shared)
            shared.close()

    def unshare(self, connection: Shared) -> None:
        """connection takes no more requests."""
        if connection in self.shared:
            self.shared.remove(connection)


class Waiter(Protocol):
    """Something that waits for an endpoint."""

    def resume(self) -> None:
        """There may be one now: pick again."""


class Destination:
    """See the module. `known` is None until discovery has answered, then whether such a service exists."""

    def __init__(
        self,
        name: str,
        make: Callable[[Endpoint], LiveEndpoint],
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = monotonic,
        bench_max_s: float = BENCH_MAX_S,
    ) -> None:
        self.name = name
        self.known: bool | None = None
        self.protocol: PortProtocol = "auto"
        self.used_at = clock()
        self._make = make
        self._call_later = call_later
        self._clock = clock
        self._bench_max_s = bench_max_s
        self._live: dict[tuple[str, int, str, int], LiveEndpoint] = {}
        self._ready: list[LiveEndpoint] = []
        self._waiting: deque[Waiter] = deque()

    def update(self, found: EndpointSet | None) -> None:
        """Take the endpoints discovery knows now; None: there is no such service."""
        before = self._live
        self.known = found is not None
        self.protocol = "auto" if found is None else found.protocol
        self._live = {}
        for endpoint in () if found is None else found.endpoints:
            key = (endpoint.address, endpoint.port, endpoint.identity, endpoint.inbound_port)
            live = self._live.get(key) or before.pop(key, None) or self._make(endpoint)
            live.endpoint = endpoint
            live.weight = endpoint.weight
            self._live[key] = live
        for gone in before.values():
            gone.retire()
        self._refresh()
        self._wake()

    def _refresh(self) -> None:
        now = self._clock()
        self._ready = [live for live in self._live.values() if live.benched_until <= now]

    def pick(self, now: float) -> LiveEndpoint | None:
        """The endpoint for a request; None when none can be asked now."""
        self.used_at = now
        ready = self._ready
        if not ready:
            return None
        return ready[0] if len(ready) == 1 else balance.pick(ready, now, random.random)

    def pick_least(self) -> LiveEndpoint | None:
        """The endpoint for a connection of opaque bytes; None when none can be asked now."""
        self.used_at = self._clock()
        return balance.pick_least(self._ready, random.random) if self._ready else None

    def failed(self, live: LiveEndpoint) -> None:
        """No connection to it could be had: leave it alone for a while."""
        now = self._clock()
        if live.benched_until > now:
            return  # one of many tries that failed together, and were one failure
        live.bench_s = min(max(live.bench_s * 2, BENCH_MIN_S), self._bench_max_s)
        pause = live.bench_s * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        live.benched_until = now + pause
        self._refresh()
        self._call_later(pause, self._unbench)

    def succeeded(self, live: LiveEndpoint) -> None:
        """A connection to it was opened."""
        if live.bench_s:
            live.bench_s = 0.0
            live.benched_until = 0.0
            self._refresh()
            self._wake()

    def _unbench(self) -> None:
        # The loop's timer may fire a little before the float it was computed from.
        now = self._clock() + 0.002
        for live in self._live.values():
            if live.benched_until <= now:
                live.benched_until = 0.0
        self._refresh()
        self._wake()

    def wait(self, waiter: Waiter) -> bool:
        """Have waiter resumed when there may be an endpoint. False where too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(waiter)
        return True

    def leave(self, waiter: Waiter) -> None:
        """waiter waits no longer."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _wake(self) -> None:
        if self._ready or self.known is False:
            waiting, self._waiting = self._waiting, deque()
            for waiter in waiting:
                waiter.resume()

    def idle(self, now: float, after_s: float) -> bool:
        """Whether nothing was sent its way for after_s, and nothing is open or waiting."""
        if now - self.used_at < after_s or self._waiting:
            return False
        return not any(live.open or live.ewma.pending for live in self._live.values())

    @property
    def endpoints(self) -> tuple[LiveEndpoint, ...]:
        return tuple(self._live.values())

    def close(self) -> None:
        """Nobody asks for it any more."""
        for live in self._live.values():
            live.retire()
        self._live = {}
        self._ready = []
