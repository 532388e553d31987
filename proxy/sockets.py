"""Listening sockets: inherited from whoever started the proxy, or bound here.

What is inherited (systemd's socket units, `meshd run`) outlives the proxy, so that connections made while it restarts
wait in the kernel instead of failing. They are matched by their address: systemd's protocol, sd_listen_fds(3).
"""

import os
import socket
from typing import Final

from meshd.api.names import Address
from meshd.api.problems import Problem

FIRST_DESCRIPTOR: Final = 3
BACKLOG: Final = 4096


class Sockets:
    """The listening sockets this process may use. `inherited` are taken as they are."""

    def __init__(self, inherited: list[socket.socket]) -> None:
        self._inherited: dict[Address, socket.socket] = {}
        for listener in inherited:
            self._inherited[_address(listener)] = listener

    def listen(self, text: str) -> socket.socket:
        """A socket that listens at HOST:PORT, for the caller to close. Problem where it cannot be had."""
        address = Address.parse(text)
        kept = self._inherited.get(address)
        if kept is not None:
            return kept.dup()
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise Problem(f"cannot listen at {text}: {error.strerror or error}") from error
        listener.setblocking(False)
        return listener


def _address(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def inherited() -> list[socket.socket]:
    """The sockets that this process was started with, as LISTEN_PID and LISTEN_FDS tell; both are then forgotten."""
    owner, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if owner != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        sockets.append(listener)
    return sockets
