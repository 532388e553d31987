"""Where a connection was going before the kernel redirected it to this proxy.

The kernel's connection tracking remembers (`SO_ORIGINAL_DST`, linux/netfilter_ipv4.h; `IP6T_SO_ORIGINAL_DST`,
linux/netfilter_ipv6/ip6_tables.h). A connection that was redirected from nowhere was made to the listener itself.

A listener that was inherited may take IPv4 too where it is one of IPv6. The kernel shows the addresses of such
connections as ::ffff:192.0.2.1, and remembers them as what they are, of IPv4: so does all that asks further.
"""

import socket
import sys
from typing import Any, Final

from meshd.api.names import Address

SO_ORIGINAL_DST: Final = 80
IP6T_SO_ORIGINAL_DST: Final = 80

_MAPPED: Final = "::ffff:"
_IN4_BYTES: Final = 16  # struct sockaddr_in
_IN6_BYTES: Final = 28  # struct sockaddr_in6


def original_destination(accepted: Any) -> Address | None:
    """Where the one who connected to `accepted` (a socket, or what uvloop shows of one) wanted to go; None where that
    is here."""
    try:
        here = plain(accepted.getsockname())
        if ":" in here.host:
            found = decoded6(accepted.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, _IN6_BYTES))
        else:
            found = decoded4(accepted.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _IN4_BYTES))
    except OSError:  # it is not tracked (ENOENT), or nothing here is (ENOPROTOOPT)
        return None
    return None if found is None or found == here else found


def plain(name: tuple[Any, ...]) -> Address:
    """The address of one end, as the kernel shows it of a socket, where one of IPv4 is as it is in IPv4."""
    host: str = name[0]
    if "." in host and host.startswith(_MAPPED):  # both: ::ffff:0:1 is an address of IPv6
        host = host[len(_MAPPED) :]
    return Address(host, name[1])


def decoded4(address: bytes) -> Address | None:
    """A struct sockaddr_in; None where it is none."""
    if len(address) != _IN4_BYTES or int.from_bytes(address[:2], sys.byteorder) != socket.AF_INET:
        return None
    return Address(socket.inet_ntop(socket.AF_INET, address[4:8]), int.from_bytes(address[2:4]))


def decoded6(address: bytes) -> Address | None:
    """A struct sockaddr_in6; None where it is none."""
    if len(address) != _IN6_BYTES or int.from_bytes(address[:2], sys.byteorder) != socket.AF_INET6:
        return None
    return Address(socket.inet_ntop(socket.AF_INET6, address[8:24]), int.from_bytes(address[2:4]))
