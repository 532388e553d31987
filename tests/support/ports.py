"""Ports on loopback, and what this machine is called beyond it."""

import socket
from contextlib import ExitStack
from pathlib import Path


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


def own_address() -> str:
    """An IPv4 address of this machine besides those of loopback, by the kernel's own table; empty where it has none."""
    found = ""
    for line in Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines():
        if "|--" in line:
            found = line.split()[-1]
        elif line.strip() == "/32 host LOCAL" and not found.startswith("127."):
            return found
    return ""
