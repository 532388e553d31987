"""Connections to other proxies that have carried opaque bytes and wait to carry more.

A relay whose two directions have both ended in order leaves its connection as it was after the handshake, so that the
next relay to that endpoint begins with a transport header and no handshake: of mutual TLS that is most of a millisecond
of processor time on either side, and a round trip or two. The counterpart on the way in waits longer
(`proxy.inbound.WAIT_S`) and says so before it goes (`proxy.mesh.records.LAST`): nothing is sent to one that has gone.
"""

import asyncio
from time import monotonic
from typing import Final, cast

from proxy.endpoint import LiveEndpoint
from proxy.sweep import Sweep
from proxy.transports import take_over

KEEP_S: Final = 5.0
"""How long one waits. It holds an endpoint that went silent for new relays no longer than that."""
MAX_PARKED: Final = 64
"""Of one endpoint."""


class Parked(asyncio.Protocol):
    """See the module. It is in its endpoint's list from when it is made until it is taken or gone."""

    def __init__(self, live: LiveEndpoint, sweep: Sweep) -> None:
        self._live = live
        self._sweep = sweep
        self._until = monotonic() + KEEP_S
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._live.parked.append(self)
        self._sweep.add(self)

    def take(self, protocol: asyncio.Protocol) -> bool:
        """Let protocol have the connection; False where it is lost, and that has just not been told."""
        self._forget()
        if self._transport.is_closing():
            return False
        take_over(self._transport, protocol)
        return True

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - it can only say that it goes
        self.close()

    def eof_received(self) -> bool:
        self._forget()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._forget()

    def sweep(self, now: float) -> None:
        if now >= self._until:
            self.close()

    def close(self) -> None:
        """It is not wanted any more."""
        self._forget()
        self._transport.close()

    def _forget(self) -> None:
        self._sweep.discard(self)
        if self in self._live.parked:
            self._live.parked.remove(self)
