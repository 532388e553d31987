"""How often the rules of this network have been changed, by whomever: the kernel counts transactions.

    NFT_MSG_GETGEN → NFT_MSG_NEWGEN, NFTA_GEN_ID        linux/netfilter/nf_tables.h

One that is one more than before a transaction of ours says that nobody else had one since. It is for the comparison of
two numbers, a moment apart, and for nothing else. Its counterpart is `meshd.capture.keeper`.
"""

import os
import socket
import struct
import sys
from typing import Final

from meshd.api.problems import Problem

NETLINK_NETFILTER: Final = 12
NEW_GENERATION: Final = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
GET_GENERATION: Final = 10 << 8 | 16
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
GENERATION_ID: Final = 1

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_FAMILY: Final = bytes(4)  # nfgenmsg: rules of all families
_ATTRIBUTE: Final = struct.Struct("=HH")
_READ_BYTES: Final = 4096


class Unnumbered(Problem):
    """The kernel does not say."""


def generation() -> int:
    """The number; it needs CAP_NET_ADMIN, and takes microseconds. Unnumbered."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        ) as kernel:
            kernel.connect((0, 0))
            kernel.send(_HEADER.pack(_HEADER.size + len(_FAMILY), GET_GENERATION, NLM_F_REQUEST, 1, 0) + _FAMILY)
            return answered(kernel.recv(_READ_BYTES))  # it is there before `send` returns
    except OSError as error:
        raise Unnumbered(f"the kernel does not say which rules are the latest: {error.strerror or error}") from error


def answered(data: bytes) -> int:
    """The number in the answer. Unnumbered."""
    at = _HEADER.size + len(_FAMILY)
    if len(data) < at:
        raise Unnumbered("the kernel's answer is too short")
    length, kind, _, _, _ = _HEADER.unpack_from(data)
    if kind == NLMSG_ERROR:
        number = -int.from_bytes(data[_HEADER.size : at], sys.byteorder, signed=True)
        raise Unnumbered(f"the kernel does not say which rules are the latest: {os.strerror(max(number, 0))}")
    if kind != NEW_GENERATION or length > len(data):
        raise Unnumbered(f"the kernel answered with a message of type {kind}")
    while at + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= length - at:
            break
        if attribute == GENERATION_ID and size == _ATTRIBUTE.size + 4:
            return int.from_bytes(data[at + _ATTRIBUTE.size : at + size])
        at += (size + 3) & ~3
    raise Unnumbered("the kernel's answer has no number")
