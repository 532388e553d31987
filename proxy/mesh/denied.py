"""Who is not believed any more, though the CA's signature on their certificate is good: the deny list, kept to.

The list comes with the proxy's configuration; the agent has it from the CA. Each peer of the mesh is looked up in it
once its handshake is done and before anything is sent to it or taken from it, whichever side opened the connection. The
connections that are open are known here too: those with a peer that comes on to the list are cut at once. A revoked
peer is one that somebody else may be, so that what is under way with it is not worth finishing.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Final, Literal, NamedTuple

from meshd.api.complaints import Dam
from meshd.api.logs import about
from meshd.api.names import Identity
from proxy.errors import Bound
from proxy.mesh.tls import IdentityMismatch, Peer, peer_of
from proxy.stats import Stats

log = logging.getLogger(__name__)

complaints = logging.getLogger(f"{__name__}.complaints")
"""What a peer can cause as often as it likes."""
complaints.addFilter(Dam())

Direction = Literal["inbound", "outbound"]


class DeniedPeer(IdentityMismatch):
    """The peer is on the deny list."""


class _Open(NamedTuple):
    """A connection with a peer that was believed when it was opened."""

    direction: Direction
    transport: asyncio.Transport
    peer: Peer


class Denials:
    """See the module. One for a whole proxy; `sweep` lets go of connections that have ended."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._denied: Final[set[str]] = set()
        self._open: list[_Open] = []

    def admit(self, direction: Direction, transport: asyncio.Transport) -> Identity:
        """Who the other end of a TLS connection is, that now counts as open. IdentityMismatch where it is nobody of the
        mesh's, DeniedPeer where it is denied."""
        peer = peer_of(transport.get_extra_info("ssl_object"))
        if why := self._why(peer):
            self._stats.count_error(direction, "tcp", Bound.DENIED)
            complaints.warning("refused a connection: %s", why, extra=about(peer=peer.identity))
            raise DeniedPeer(why)
        self._open.append(_Open(direction, transport, peer))
        return peer.identity

    def use(self, denied: Collection[str]) -> None:
        """Believe none of these from now on: serial numbers as in `Peer.serial`, and SPIFFE IDs."""
        if self._denied == set(denied):
            return
        self._denied.clear()
        self._denied.update(denied)
        for each in self._open:
            if (why := self._why(each.peer)) and not each.transport.is_closing():
                self._stats.count_error(each.direction, "tcp", Bound.DENIED)
                log.warning("cut an open connection: %s", why, extra=about(peer=each.peer.identity))
                each.transport.abort()
        self.sweep(0.0)

    def sweep(self, now: float) -> None:  # noqa: ARG002 - see `proxy.sweep.Swept`
        self._open = [each for each in self._open if not each.transport.is_closing()]

    def _why(self, peer: Peer) -> str:
        """Why the peer is not to be believed; empty when it may be."""
        if peer.serial in self._denied:
            return f"the certificate of {peer.identity} with the serial number {peer.serial} is revoked"
        return f"{peer.identity} is revoked" if str(peer.identity) in self._denied else ""
