"""Who has a port of this host, by what /proc says. The files of other users' processes are for root alone to look into:
anybody else learns that a port is taken, and not by whom."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, NamedTuple

from meshd.api.names import Address

Protocol = Literal["tcp", "udp"]

PROC: Final = Path("/proc")
WAITS: Final = {"tcp": "0A", "udp": "07"}
"""The state of a socket that waits for whoever comes (proc_net_tcp): TCP_LISTEN, and of UDP one with no peer."""

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_PROGRAMS: Final = frozenset(("meshd", "meshd-proxy"))
_MODULES: Final = frozenset(("meshd.cli", "proxy", "proxy.program", "proxy.main"))


class Holder(NamedTuple):
    """A process that has the port: its name, and whether it is one of ours, or systemd, which holds sockets for us."""

    pid: int
    name: str
    is_ours: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def trouble(address: Address, protocol: Protocol = "tcp") -> OSError | None:
    """Why nobody could be bound there now; None where somebody could."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, _KINDS[protocol]) as probe:
            if protocol == "tcp":  # what ended a moment ago is in nobody's way
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def is_taken(error: OSError) -> bool:
    return error.errno == errno.EADDRINUSE


def holders(address: Address, protocol: Protocol = "tcp") -> list[Holder]:
    """Those who have the port, at that address or at one that is in its way, as far as one may know."""
    inodes = set(_inodes(address, protocol))
    found = {holder.pid: holder for holder in _of_sockets(inodes)} if inodes else {}
    return [found[pid] for pid in sorted(found)]


def is_listened_at(port: int) -> bool:
    """Whether anybody listens at a port, at whatever address."""
    return any(_inodes(Address("0.0.0.0", port), "tcp"))  # noqa: S104 - it stands for every address


def said(found: list[Holder]) -> str:
    """Who they are, for a person."""
    others = [str(each) for each in found if not each.is_ours] or [str(each) for each in found]
    return ", ".join(others[:3]) or "somebody (who, is for root to see)"


def _inodes(address: Address, protocol: Protocol) -> Iterator[str]:
    """The sockets' numbers. Lines as of proc_net_tcp: sl, local address, remote address, state, …, inode."""
    try:
        asked = ipaddress.ip_address(address.host)
    except ValueError:  # a name
        asked = ipaddress.ip_address("0.0.0.0")  # noqa: S104 - it stands for every address
    for name in (protocol, f"{protocol}6"):
        try:
            lines = Path(PROC, "net", name).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            host, port = _address(fields[1])
            is_in_the_way = host == asked or host.is_unspecified or asked.is_unspecified
            if port == address.port and fields[3] == WAITS[protocol] and is_in_the_way:
                yield fields[9]


def _address(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """As /proc/net/tcp writes it: each 32 bits of the address as the host orders bytes, and a port, in hexadecimal."""
    host, port = text.split(":")
    words = (int(host[at : at + 8], 16).to_bytes(4, _ORDER) for at in range(0, len(host), 8))
    return ipaddress.ip_address(b"".join(words)), int(port, 16)


_ORDER: Final[Literal["little", "big"]] = "little" if socket.htons(1) != 1 else "big"


def _of_sockets(inodes: set[str]) -> Iterator[Holder]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            with os.scandir(process / "fd") as descriptors:
                if any(os.readlink(each.path) in wanted for each in descriptors):
                    yield _holder(process)
        except OSError:  # it ended, or is somebody else's
            continue


def _holder(process: Path) -> Holder:
    name = (process / "comm").read_text().strip()
    words = [os.path.basename(os.fsdecode(each)) for each in (process / "cmdline").read_bytes().split(b"\0")]
    is_module = any(flag == "-m" and module in _MODULES for flag, module in pairwise(words))
    is_ours = process.name == "1" or is_module or bool(_PROGRAMS & {name, *words[:2]})
    return Holder(int(process.name), name, is_ours)
