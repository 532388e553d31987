"""Listening sockets of the daemons: for every address that a name stands for, and by both families where one is meant.

Who listens at 0.0.0.0 is reached at every address of the host: `[::]` is listened at beside it, by a socket of its own
that takes IPv6 alone. So the peers of IPv4 are never seen as ::ffff:192.0.2.1, and what counts or compares addresses
needs not to know of such. Where the kernel has no IPv6, the first is alone. The proxy's are `proxy.sockets`.
"""

import asyncio
import errno
import socket
from contextlib import ExitStack
from typing import Final

from meshd.api.names import Address

_NO_IPV6: Final = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
_TRIES: Final = 16
"""For a port that is free in both families, where any will do."""


async def listen_at(listen: Address, backlog: int) -> list[socket.socket]:
    """Sockets that listen, for the caller to close. OSError where one cannot be had."""
    found = await asyncio.get_running_loop().getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    first = dict.fromkeys((family, Address(str(address[0]), int(address[1]))) for family, *_, address in found)
    for _ in range(_TRIES - 1):
        try:
            return _bound(list(first), listen.everywhere[1:], backlog)
        except OSError as error:
            if listen.port or error.errno != errno.EADDRINUSE:
                raise
    return _bound(list(first), listen.everywhere[1:], backlog)


def _bound(first: list[tuple[int, Address]], beside: tuple[Address, ...], backlog: int) -> list[socket.socket]:
    with ExitStack() as held:
        made = [held.enter_context(_listening(family, address, backlog)) for family, address in first]
        port = int(made[0].getsockname()[1])
        for address in beside:
            try:
                made.append(held.enter_context(_listening(socket.AF_INET6, address._replace(port=port), backlog)))
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
        held.pop_all()
    return made


def _listening(family: int, address: Address, backlog: int) -> socket.socket:
    listener = socket.create_server(address, family=family, backlog=backlog)  # which takes no IPv4 where it is of IPv6
    listener.setblocking(False)
    return listener
