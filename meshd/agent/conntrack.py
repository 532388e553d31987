"""From which port a redirected connection was made, where the kernel has given it another.

    CTA_TUPLE_REPLY   the connection as the proxy sees it, from its listener to the caller     (linux/netfilter/
    CTA_TUPLE_ORIG    the connection as the caller made it                                      nfnetlink_conntrack.h)

Two connections from one address and port, to different destinations, are the same when both are redirected to one
listener: the second then comes from a port that is nobody's, and `sock_diag` finds no socket for it. The kernel's
connection tracking has both; it answers those that have CAP_NET_ADMIN, as the agent has, and the proxy has not.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

from meshd.api.names import Address

NETLINK_NETFILTER: Final = 12
CT_GET: Final = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
CT_NEW: Final = 1 << 8  # what it is answered with
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
NESTED: Final = 0x8000

TUPLE_ORIG, TUPLE_REPLY = 1, 2
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FAMILY_BYTES: Final = 4  # nfgenmsg
_READ_BYTES: Final = 16 << 10


class Untold(Exception):
    """The kernel does not say."""


def source_port(here: Address, peer: Address) -> int:
    """The port from which the connection was made that was accepted at here, from peer. Untold."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        ) as kernel:
            kernel.connect((0, 0))
            kernel.send(request(here, peer))
            return answered(kernel.recv(_READ_BYTES))  # it is there before `send` returns
    except OSError as error:
        raise Untold(f"the kernel's connection tracking cannot be asked: {error.strerror or error}") from error


def request(here: Address, peer: Address) -> bytes:
    """The question for the connection whose answers go from here to peer. OSError where they are no addresses."""
    v6 = ":" in here.host
    family = socket.AF_INET6 if v6 else socket.AF_INET
    source, destination = (3, 4) if v6 else (1, 2)  # CTA_IP_V6_SRC and so on
    addresses = _attribute(source, socket.inet_pton(family, here.host)) + _attribute(
        destination, socket.inet_pton(family, peer.host)
    )
    ports = (
        _attribute(PROTO_NUM, bytes((socket.IPPROTO_TCP,)))
        + _attribute(PROTO_SRC_PORT, here.port.to_bytes(2))
        + _attribute(PROTO_DST_PORT, peer.port.to_bytes(2))
    )
    tuple_ = _attribute(TUPLE_IP | NESTED, addresses) + _attribute(TUPLE_PROTO | NESTED, ports)
    body = bytes((family, 0, 0, 0)) + _attribute(TUPLE_REPLY | NESTED, tuple_)
    return _HEADER.pack(_HEADER.size + len(body), CT_GET, NLM_F_REQUEST, 1, 0) + body


def answered(data: bytes) -> int:
    """The port in the answer. Untold."""
    if len(data) < _HEADER.size + _FAMILY_BYTES:
        raise Untold("the kernel's answer is too short")
    length, kind, _, _, _ = _HEADER.unpack_from(data)
    if kind == NLMSG_ERROR:
        number = -int.from_bytes(data[_HEADER.size : _HEADER.size + 4], sys.byteorder, signed=True)
        raise Untold(
            "it is not tracked" if number == errno.ENOENT else os.strerror(number) if number > 0 else "no error"
        )
    if kind != CT_NEW or not _HEADER.size + _FAMILY_BYTES <= length <= len(data):
        raise Untold(f"the kernel answered with a message of type {kind}")
    original = _found(_found(data[_HEADER.size + _FAMILY_BYTES : length], TUPLE_ORIG), TUPLE_PROTO)
    port = _found(original, PROTO_SRC_PORT)
    if len(port) != 2:
        raise Untold("the kernel's answer has no port")
    return int.from_bytes(port)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _found(attributes: bytes, wanted: int) -> bytes:
    """The value of an attribute, empty where it is not there."""
    return next((value for kind, value in _attributes(attributes) if kind == wanted), b"")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise Untold("the kernel's answer is cut short")
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
