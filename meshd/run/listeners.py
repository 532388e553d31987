"""The proxy's listening sockets. They are bound here and inherited by the proxy, so that while it is started again
after a crash the kernel holds the connections that come, instead of refusing them.

The counterpart is the proxy, which knows an inherited socket by the address it is bound to.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from meshd.api.documents import Upstream
from meshd.api.names import Address
from meshd.api.problems import Problem

BACKLOG = 4096
"""Connections that may wait for a proxy that is being started; the kernel caps it at net.core.somaxconn."""


class Listeners:
    """Bound and listening from the start until `close`. The addresses are the real ones, where port 0 was asked for."""

    def __init__(self, outbound: Address, inbound: Address, admin: Address, upstreams: Sequence[Upstream]) -> None:
        """Problem when an address cannot be had; then none is held."""
        with ExitStack() as held:
            self.outbound = _listen(outbound, "--outbound", held)
            self.inbound = _listen(inbound, "--inbound", held)
            self.admin = _listen(admin, "--admin", held)
            listening = [_listen(Address.parse(each.listen), "--upstream", held) for each in upstreams]
            self.sockets = (self.outbound, self.inbound, self.admin, *listening)
            self.upstreams = tuple(
                msgspec.structs.replace(each, listen=str(address_of(sock)))
                for each, sock in zip(upstreams, listening, strict=True)
            )
            self._held = held.pop_all()

    def close(self) -> None:
        self._held.close()


def address_of(listening: socket.socket) -> Address:
    """Where a socket is bound."""
    host, port = listening.getsockname()[:2]
    return Address(host, port)


def _listen(address: Address, flag: str, held: ExitStack) -> socket.socket:
    try:
        family, kind, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = held.enter_context(socket.socket(family, kind))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Problem(f"{flag}: cannot listen on {address}: {reason}; give another address, or port 0") from error
    return listening
