"""The name server's two sockets, for datagrams and for connections. systemd keeps them while the agent is restarted
(sd_notify(3), FDSTORE=1): what is asked meanwhile waits in them, where it would be refused, and callers with it.

They come back among the sockets that the next process is started with, known by their names. Where no manager is,
nothing of this happens.
"""

import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from meshd.api.names import Address
from meshd.api.notify import notify

KINDS: Final = {"meshd-names-tcp": socket.SOCK_STREAM, "meshd-names-udp": socket.SOCK_DGRAM}
"""What the manager calls them. The stream is first: where any port will do it draws one."""

BACKLOG: Final = 128


class Opened(NamedTuple):
    """Both are at one address, and the caller's to close."""

    stream: socket.socket
    datagrams: socket.socket


Named = Iterable[tuple[str, socket.socket]]
"""What a process was started with (`meshd.api.inherited`)."""


def opened(address: Address, started_with: Named) -> Opened:
    """Sockets at that address: those that were kept for this process, or others, which will be for the next. Those that
    were kept and are of another address are let go. OSError where it cannot be had."""
    kept = _kept(started_with)
    found: dict[str, socket.socket] = {}
    try:
        for name, kind in KINDS.items():
            if name in kept and _is_at(kept[name], kind, address):
                found[name] = kept.pop(name)
            else:
                _let_go(kept, name)
                found[name] = _bound(address, kind)
                notify("FDSTORE=1", "FDPOLL=0", f"FDNAME={name}", descriptors=(found[name].fileno(),))
            address = Address(*found[name].getsockname()[:2])
    except OSError:
        for name, each in found.items():
            notify("FDSTOREREMOVE=1", f"FDNAME={name}")
            each.close()
        raise
    return Opened(*found.values())


def let_go(started_with: Named) -> None:
    """Nobody is to ask here any more, for the name server is off: who does is to be refused, and not to wait."""
    kept = _kept(started_with)
    for name in KINDS:
        _let_go(kept, name)


def _kept(started_with: Named) -> dict[str, socket.socket]:
    """Those of ours, by name; the others are nobody's."""
    found = {}
    for name, each in started_with:
        if name in KINDS:
            found[name] = each
        else:
            each.close()
    return found


def _let_go(kept: dict[str, socket.socket], name: str) -> None:
    if name in kept:
        notify("FDSTOREREMOVE=1", f"FDNAME={name}")
        kept.pop(name).close()


def _is_at(held: socket.socket, kind: socket.SocketKind, address: Address) -> bool:
    return held.type == kind and Address(*held.getsockname()[:2]) == address


def _bound(address: Address, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
