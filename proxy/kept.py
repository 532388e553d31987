"""What systemd keeps for the proxy while it is restarted: the listening sockets that it bound itself (sd_notify(3),
FDSTORE=1), which are those of upstreams. Connections that are made meanwhile wait in them.

They come back among the sockets that the next process is started with, told from those of socket units by their name:
the address as it was written, and the kernel's number of the socket, since workers have several at one address. `:` has
a meaning between names, so `+` stands for it. Where no manager is, nothing of this happens.
"""

import socket
from typing import Final

from meshd.api.notify import notify

SO_COOKIE: Final = 57
"""asm-generic/socket.h; Python has no name for it yet."""

_PREFIX: Final = "meshd-at-"


def keep(text: str, listener: socket.socket) -> None:
    """Have the manager keep a socket that listens at HOST:PORT."""
    notify("FDSTORE=1", f"FDNAME={name_of(text, listener)}", descriptors=(listener.fileno(),))


def let_go(text: str, listener: socket.socket) -> None:
    """Nobody is to wait there any more: have the manager close its own, too."""
    notify("FDSTOREREMOVE=1", f"FDNAME={name_of(text, listener)}")


def name_of(text: str, listener: socket.socket) -> str:
    """What the manager is to call it."""
    cookie = int.from_bytes(listener.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
    return f"{_PREFIX}{text.replace(':', '+')}#{cookie:x}"


def address_of(name: str) -> str | None:
    """HOST:PORT, where the socket of that name is one that the proxy had kept."""
    return name.removeprefix(_PREFIX).partition("#")[0].replace("+", ":") if name.startswith(_PREFIX) else None
