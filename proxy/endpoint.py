"""An endpoint as this proxy knows it: what it measured, how it fares, and the connections it holds open to it."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, Final

from meshd.api.endpoints import Endpoint
from proxy.accrual import Accrual
from proxy.balance import PeakEwma
from proxy.seams import Client, Shared
from proxy.stats import HttpTraffic, TcpTraffic

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.parked import Parked

SLOW_START_S: Final = 10.0
"""How long an endpoint that joins others is given less than its share: caches fill, and code warms up."""
LEAST_SHARE: Final = 0.1
PASSED_OVER_S: Final = 1e6
"""What is added to the load of one that is warming up, but for its share of the times that it is drawn: it is chance
that gives it less. Were its load made greater, it would get nothing as long as others were idle, however many asked."""


class LiveEndpoint:
    """See the module."""

    __slots__ = (
        "accrual", "endpoint", "ewma", "http", "idle", "open", "opening", "parked", "relayed", "retired", "shared",
        "speaks_h2", "tcp", "warm_at", "weight",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, now: float, http: HttpTraffic, tcp: TcpTraffic, relayed: TcpTraffic) -> None:
        """`tcp` counts the connections that carry requests, `relayed` those that carry opaque bytes."""
        self.endpoint = endpoint
        # To another proxy all requests go as streams of HTTP/2; None: to this one they go as they were made.
        h2 = True if endpoint.protocol in ("http2", "grpc") else None
        self.speaks_h2 = True if endpoint.identity else False if endpoint.protocol == "http1" else h2
        self.weight = endpoint.weight
        self.ewma = PeakEwma(now)
        self.accrual = Accrual()
        self.http = http
        self.tcp = tcp
        self.relayed = relayed
        self.idle: list[Client] = []
        self.shared: list[Shared] = []  # connections that carry many requests at once
        self.opening: list[Exchange] | None = None  # who waits for one of those, while it is being opened
        self.open = 0  # opaque connections that are open or being opened
        self.parked: list[Parked] = []  # connections to its proxy that carried opaque bytes, and may again
        self.warm_at = 0.0
        self.retired = False

    def load(self, now: float) -> float:
        """See `proxy.balance.Loaded`."""
        load = self.ewma.load(now) / self.weight
        if now < self.warm_at:
            share = max(LEAST_SHARE, 1.0 - (self.warm_at - now) / SLOW_START_S)
            if random() >= share:  # noqa: S311 - to share load
                return load + PASSED_OVER_S
        return load

    def connections(self) -> float:
        """See `proxy.balance.Loaded`."""
        return (self.open + 1) / self.weight

    def retire(self) -> None:
        """It left the service: what is under way goes on, nothing new begins."""
        self.retired = True
        for connection in tuple(self.idle):
            connection.close()
        self.idle.clear()
        for parked in tuple(self.parked):
            parked.close()
        for shared in tuple(self.shared):
            self.unshare(shared)
            shared.close()

    def unshare(self, connection: Shared) -> None:
        """connection takes no more requests."""
        if connection in self.shared:
            self.shared.remove(connection)
