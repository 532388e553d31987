"""Listening sockets: inherited from whoever started the proxy, handed over by the generation before, or bound here.

What is inherited (systemd's socket units, `meshd run`) outlives the proxy, so that connections made while it restarts
wait in the kernel instead of failing. It is matched by its address: systemd's protocol, sd_listen_fds(3). What the
proxy bound itself is its own to close when it is no longer wanted, and is what `proxy.handover` passes on.
"""

import socket
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from meshd.api.names import Address
from meshd.api.problems import Problem
from proxy.kept import keep, let_go

BACKLOG: Final = 4096
KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A peer whose host is gone is found out 90 s after its last word, where there is nothing to send to it. No
TCP_USER_TIMEOUT: it would cut a peer that merely does not read, and of opaque bytes anyone may (`proxy.stalls`)."""


class Listening(Protocol):
    """Where listeners get their sockets."""

    def listen(self, text: str) -> socket.socket:
        """A socket that listens at HOST:PORT, for the caller to close. Problem where it cannot be had."""

    def release(self, text: str) -> None:
        """Nobody here is to accept connections at HOST:PORT any more."""


class Sockets:
    """The listening sockets of this process. `kept` are inherited, and stay open; `own` were bound by the generation
    before, by the address (HOST:PORT) as it was written."""

    def __init__(self, kept: Iterable[socket.socket], own: Mapping[str, socket.socket] | None = None) -> None:
        self._kept = {_address(listener): listener for listener in kept}
        self._own = dict(own or {})

    def listen(self, text: str) -> socket.socket:
        """A socket that listens at HOST:PORT, for the caller to close. Problem where it cannot be had."""
        held = self._kept.get(Address.parse(text)) or self._own.get(text)
        if held is None:
            held = self._own[text] = bound(text)
            keep(text, held)
        return held.dup()

    def release(self, text: str) -> None:
        """Nobody here is to accept connections at HOST:PORT any more."""
        listener = self._own.pop(text, None)
        if listener is not None:
            let_go(text, listener)
            listener.close()

    @property
    def kept(self) -> list[socket.socket]:
        """What was inherited."""
        return list(self._kept.values())

    @property
    def own(self) -> dict[str, socket.socket]:
        """What this program bound."""
        return dict(self._own)


def keep_alive(one: socket.socket) -> None:
    """Have the kernel find out whether the peer is still there; what a listening socket accepts inherits it."""
    for level, option, value in KEEP_ALIVE:
        one.setsockopt(level, option, value)


def bound(text: str, *, shared: bool = False) -> socket.socket:
    """A new socket that listens at HOST:PORT, where nobody did. `shared`: others may be bound beside it. Problem where
    it cannot be had."""
    return _bind(text, after=shared)


def bound_beside(text: str) -> socket.socket:
    """A new socket that listens at HOST:PORT beside one that is shared, for the kernel to spread connections over both
    (SO_REUSEPORT, socket(7)). Problem."""
    return _bind(text, before=True)


def _bind(text: str, *, before: bool = False, after: bool = False) -> socket.socket:
    """`before`, `after`: when the socket says that it shares. One that says so after the bind has found the port free,
    even of those who would have shared it: two proxies of one user never take turns by mistake."""
    address = Address.parse(text)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if before:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        if after:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Problem(f"cannot listen at {text}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def has_ipv6() -> bool:
    """Whether the loopback address of IPv6 is there to be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def _address(listener: socket.socket) -> Address:
    host, port = listener.getsockname()[:2]
    return Address(host, port)
