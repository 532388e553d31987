"""Ports on loopback."""

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on 127.0.0.1 that nothing listens on now.

    They are bound all at once and let go of together, so they differ; another program can still take one before the
    test does. Where the program under test can listen on port 0 and tell which it got, that is better.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def accepts(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections at `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
