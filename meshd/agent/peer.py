"""Who is at the other end of a Unix socket, and what that user may ask of the agent.

    anybody on this host                         read the status, and where documents are
    root, the agent's user, `control.users`      declare workloads, attach the proxies of those, read documents
    root, the agent's user, `meshd-proxy`        attach the host's proxy

The kernel says who the peer is (SO_PEERCRED, unix(7)): the user that called connect(2), whatever it says of itself.
"""

import asyncio
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from meshd.api.loading import Finding

PROXY_USER = "meshd-proxy"
"""The user that the host's proxy runs as, when there is one of that name."""

_UCRED = struct.Struct("3i")


class Peer(NamedTuple):
    """The process that connected, as it was when it did."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connected: socket.socket) -> "Peer":
        return cls._make(_UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))

    @classmethod
    def at(cls, transport: asyncio.BaseTransport) -> "Peer":
        return cls.of(transport.get_extra_info("socket"))

    def __str__(self) -> str:
        return f"pid {self.pid} of uid {self.uid}"


class Access(NamedTuple):
    """Which users may do what. `proxy_uids`: those that may be the host's proxy."""

    user_uids: frozenset[int]
    proxy_uids: frozenset[int]

    @classmethod
    def of(cls, users: Iterable[str], settings_file: str) -> tuple["Access", list[Finding]]:
        """Access for the agent's own user, root and the named users; what is wrong with the names."""
        own = frozenset((0, os.geteuid()))
        named, findings = set(), []
        for number, user in enumerate(users):
            try:
                named.add(pwd.getpwnam(user).pw_uid)
            except KeyError:
                findings.append(Finding(settings_file, f"no user is called {user!r} here", f"control.users[{number}]"))
        try:
            proxy = frozenset((pwd.getpwnam(PROXY_USER).pw_uid,))
        except KeyError:
            proxy = frozenset()
        return cls(own | named, own | proxy), findings

    def may_declare(self, peer: Peer) -> bool:
        return peer.uid in self.user_uids

    def may_be_host_proxy(self, peer: Peer) -> bool:
        return peer.uid in self.proxy_uids
