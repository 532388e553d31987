"""The sockets that a daemon of ours was started with, by systemd or by `meshd run` (sd_listen_fds(3))."""

import os
import socket
from typing import Final

FIRST_DESCRIPTOR: Final = 3


def inherited() -> list[tuple[str, socket.socket]]:
    """The sockets that this process was started with, as LISTEN_PID and LISTEN_FDS tell, each with its name
    (LISTEN_FDNAMES); all three are then forgotten."""
    owner, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if owner != str(os.getpid()) or not count.isdigit():
        return []
    names += [""] * int(count)
    return [(names[number], adopted(FIRST_DESCRIPTOR + number)) for number in range(int(count))]


def adopted(descriptor: int) -> socket.socket:
    """The socket behind a descriptor that this process was started with; its own children do not get it."""
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener
