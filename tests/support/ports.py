"""Ports on loopback, and what this machine is called beyond it."""

import itertools
import random
import socket
from pathlib import Path

_SPAN = range(10_000, 30_000)
"""Below what the kernel gives to those who ask for any port, or call others (net.ipv4.ip_local_port_range: from 32768
on): nothing but a test takes one of these by chance between the choice and the use, nor while what listens there is
down, when a caller from that same port would even reach itself."""

_turns = itertools.count(random.randrange(len(_SPAN)))


def free_ports(count: int) -> list[int]:
    """`count` different ports on 127.0.0.1 that nothing listens on now, and that this process did not have of late.

    Another run of the tests could still take one. Where the program under test can listen on port 0 and tell which it
    got, that is better.
    """
    turns = (_SPAN[next(_turns) % len(_SPAN)] for _ in _SPAN)
    return list(itertools.islice((port for port in turns if _is_free(port)), count))


def _is_free(port: int) -> bool:
    with socket.socket() as tried, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        try:
            tried.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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
