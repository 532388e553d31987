"""Whose socket is at the other end of a connection of this host: one exact question to the kernel.

    SOCK_DIAG_BY_FAMILY, inet_diag_req_v2 with the caller's address and where it wanted to go     sock_diag(7)
    → inet_diag_msg, and the id of the control group that the socket was made in                  linux/inet_diag.h

The same question without a destination finds who listens (`listens`).

It is no dump: the kernel finds the one socket by its four-tuple, and answers before `send` returns, so that nothing is
waited for; it takes some microseconds, and no privilege. What is asked for as IPv4 is found too where the application
made it with an IPv6 socket (::ffff:192.0.2.1).

A port is used again when its connection is over, so what is found has to be one that is open: `FULL` are the states
that a caller's socket can be in while this proxy has not closed its end. A caller that has closed its socket has no
process to it any more, and is nobody.

The kernel gives a captured connection another source port where two of one address have the same to different
destinations (nf_nat). No socket is found then, and the agent knows which port it was (`meshd.agent.conntrack`).
"""

import errno
import os
import socket
import struct
import sys
from time import perf_counter
from typing import Final, NamedTuple

from meshd.api.names import Address

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
INET_DIAG_NOCOOKIE: Final = 0xFFFFFFFF
INET_DIAG_CGROUP_ID: Final = 21

TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LISTEN = 1, 4, 5, 10
FULL: Final = frozenset((TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2))
"""A caller may have ended its direction; until this proxy ends the other it is in no further state."""

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2 up to its id
_SOCKET_ID: Final = struct.Struct("!HH16s16s")  # inet_diag_sockid up to its interface
_REST: Final = struct.Struct("=III")  # the interface, and the cookie
_ATTRIBUTE: Final = struct.Struct("=HH")
_MESSAGE_BYTES: Final = 72  # inet_diag_msg
_OWNER: Final = struct.Struct("=II")  # uid and inode, its last
_ANY: Final = _REST.pack(0, INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE)
_READ_BYTES: Final = 8192
_LENGTH: Final = _HEADER.size + _REQUEST.size + _SOCKET_ID.size + _REST.size
_ASKED_ID: Final = _HEADER.size + _REQUEST.size
_ANSWERED_ID: Final = _HEADER.size + 4  # after family, state, timer and retransmissions
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Process(NamedTuple):
    """Where a socket was made: the id of the control group (version 2), and the user whose it is."""

    cgroup: int
    uid: int


class Undecided(Exception):
    """The kernel could not be asked, or its answer is none that we read."""


def request(source: Address, destination: Address, sequence: int) -> bytes:
    """The question for the TCP socket that has source for its own address and destination for its peer's."""
    family = socket.AF_INET6 if ":" in source.host else socket.AF_INET
    return b"".join(
        (
            _HEADER.pack(_LENGTH, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0),
            _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF),
            _SOCKET_ID.pack(
                source.port,
                destination.port,
                socket.inet_pton(family, source.host),
                socket.inet_pton(family, destination.host),
            ),
            _ANY,
        )
    )


def _message(data: bytes, asked: bytes) -> int:
    """How long the answer to `asked` is, with its header; 0 where there is no such socket. Undecided."""
    if len(data) < _HEADER.size:
        raise Undecided("the kernel's answer is too short")
    length, kind, _, sequence, _ = _HEADER.unpack_from(data)
    if sequence != _HEADER.unpack_from(asked)[3] or not _HEADER.size <= length <= len(data):
        raise Undecided("the kernel's answer is to another question")
    if kind == NLMSG_ERROR:
        _check_none(data)
        return 0
    if kind != SOCK_DIAG_BY_FAMILY or length < _HEADER.size + _MESSAGE_BYTES:
        raise Undecided(f"the kernel answered with a message of type {kind}")
    return int(length)


def listening(data: bytes, asked: bytes) -> bool:
    """Whether the answer to `asked`, of which the source is where somebody may listen and the destination nowhere, is
    that somebody does. Undecided."""
    if not _message(data, asked):
        return False
    if _SOCKET_ID.unpack_from(data, _ANSWERED_ID)[0] != _SOCKET_ID.unpack_from(asked, _ASKED_ID)[0]:
        raise Undecided("the kernel's answer is of another port")
    return data[_HEADER.size + 1] == TCP_LISTEN


def answered(data: bytes, asked: bytes) -> Process | None:
    """Who the answer to `asked` says it is; None where there is no such socket, or none that is open. Undecided."""
    length = _message(data, asked)
    if not length:
        return None
    uid, inode = _OWNER.unpack_from(data, _HEADER.size + _MESSAGE_BYTES - _OWNER.size)
    if data[_HEADER.size + 1] not in FULL or not inode:  # where there is no connection, one who listens is found
        return None
    if _four_tuple(data, _ANSWERED_ID) != _four_tuple(asked, _ASKED_ID):
        raise Undecided("the kernel's answer is of another connection")
    cgroup = _cgroup(data[_HEADER.size + _MESSAGE_BYTES : length])
    if not cgroup:
        raise Undecided("the kernel does not say in which control group a socket was made: it is older than 5.8")
    return Process(cgroup, uid)


def _check_none(data: bytes) -> None:
    """That an error is the one for that there is no such socket."""
    if len(data) < _HEADER.size + 4:
        raise Undecided("the kernel's answer is too short")
    number = -int.from_bytes(data[_HEADER.size : _HEADER.size + 4], sys.byteorder, signed=True)
    if number != errno.ENOENT:
        raise Undecided(f"the kernel refused to say whose a socket is: {os.strerror(number) if number else 'no error'}")


def _four_tuple(message: bytes, at: int) -> tuple[int, int, bytes, bytes]:
    """Ports and addresses of a question or an answer, where an IPv4 address in an IPv6 one is as it is in IPv4."""
    sport, dport, source, destination = _SOCKET_ID.unpack_from(message, at)
    return sport, dport, _bare(source), _bare(destination)


def _bare(address: bytes) -> bytes:
    return address[12:] + bytes(12) if address.startswith(_MAPPED) else address


def _cgroup(attributes: bytes) -> int:
    """The id among the attributes (struct nlattr), 0 where it is not."""
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if not _ATTRIBUTE.size <= length <= len(attributes) - at:
            raise Undecided("the kernel's answer is cut short")
        if kind == INET_DIAG_CGROUP_ID:
            if length != _ATTRIBUTE.size + 8:
                raise Undecided(f"the kernel's id of a control group has {length - _ATTRIBUTE.size} bytes")
            return int.from_bytes(attributes[at + _ATTRIBUTE.size : at + length], sys.byteorder)
        at += (length + 3) & ~3
    return 0


class SocketDiag:
    """Asks the kernel. `found`, `unknown` and `failed` count its answers, `spent_s` the time that they took."""

    def __init__(self) -> None:
        self.found = self.unknown = self.failed = 0
        self.spent_s = 0.0
        self._socket: socket.socket | None = None
        self._sequence = 0

    def whose(self, source: Address, destination: Address) -> Process | None:
        """Who on this host connected from source to destination; None where nobody did. Undecided."""
        begun = perf_counter()
        try:
            process = self._ask(source, destination)
        except Undecided:
            self.failed += 1
            self.close()  # whatever else the kernel had to say goes with it
            raise
        finally:
            self.spent_s += perf_counter() - begun
        if process is None:
            self.unknown += 1
        else:
            self.found += 1
        return process

    def listens(self, where: Address) -> bool:
        """Whether a connection to `where`, of this host, would be accepted. Undecided."""
        nowhere = Address("::" if ":" in where.host else "0.0.0.0", 0)  # noqa: S104 - asked about, not bound
        try:
            return listening(*self._exchanged(where, nowhere))
        except Undecided:
            self.close()
            raise

    def _ask(self, source: Address, destination: Address) -> Process | None:
        return answered(*self._exchanged(source, destination))

    def _exchanged(self, source: Address, destination: Address) -> tuple[bytes, bytes]:
        """The kernel's answer, and the question."""
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_SOCK_DIAG
                )
                self._socket.connect((0, 0))  # the kernel, and nobody else
            self._sequence = self._sequence % 0xFFFFFFFF + 1
            asked = request(source, destination, self._sequence)
            self._socket.send(asked)
            answer = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise Undecided(f"the kernel cannot be asked whose a socket is: {error.strerror}") from error
        return answer, asked

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
