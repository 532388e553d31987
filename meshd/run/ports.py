"""Whether a port is listened on, asked of the kernel (/proc/net/tcp, proc_net(5)) and not by connecting: a program that
accepts one connection and ends, or logs each, is not disturbed."""

import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path

from meshd.api.documents import WorkloadPort
from meshd.api.names import Address

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


def not_listening(ports: Iterable[WorkloadPort]) -> tuple[str, ...]:
    """Those of the ports where nothing accepts connections, as `port N`."""
    bound = set(listening())
    return tuple(f"port {each.port}" for each in ports if not _reached(each, bound))


def listening() -> Iterable[Address]:
    """Where anything in this network namespace listens."""
    for table in _TABLES:
        if table.exists():
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    yield _address(local)


def _reached(port: WorkloadPort, bound: set[Address]) -> bool:
    """Whether a connection to the port finds one of `bound`: that very address, or all addresses."""
    address = ipaddress.ip_address(port.address)
    everywhere = ("0.0.0.0", "::") if address.version == 4 else ("::",)  # noqa: S104 - to compare with
    return any(Address(host, port.port) in bound for host in (str(address), *everywhere))


def _address(local: str) -> Address:
    """`0100007F:1F90` as 127.0.0.1:8080: words of the host's byte order, the port as a number."""
    host, port = local.split(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Address(str(mapped or address), int(port, 16))
