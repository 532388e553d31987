"""Whether what processes of this pod send is led to its proxy: a connection is made to where nobody is, and is to
arrive at the proxy's port, which this process has meanwhile; so by IPv4 and by IPv6, as far as the pod has a way there.
It needs no capability, and must not run as the proxy's user.

Linkerd's counterpart is its network validator; like it, this is for rules that somebody else put in force too.
"""

import errno
import select
import socket
import struct
import time
from contextlib import ExitStack
from typing import Final, NamedTuple

from k8s.init.plan import PodPlan
from meshd.api.problems import Problem


class _Family(NamedTuple):
    """`nowhere` is of the addresses for documentation (RFC 5737, RFC 3849): no pod has it. The port is the one that
    Linkerd's validator asks. What a connection was for is asked at the protocol `level`: a `sockaddr` of `size` bytes,
    with the address from and to the bytes of `address`."""

    name: str
    number: int
    loopback: str
    nowhere: tuple[str, int]
    level: int
    size: int
    address: tuple[int, int]


IPV4: Final = _Family("IPv4", socket.AF_INET, "127.0.0.1", ("192.0.2.1", 20001), socket.IPPROTO_IP, 16, (4, 8))
IPV6: Final = _Family("IPv6", socket.AF_INET6, "::1", ("2001:db8::1", 20001), socket.IPPROTO_IPV6, 28, (8, 24))

LOOK_AGAIN_S: Final = 0.2
_ORIGINAL_DST: Final = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST


def check(plan: PodPlan, within_s: float) -> None:
    """Return when it is so; Problem when it is not within so many seconds."""
    deadline = time.monotonic() + within_s
    with ExitStack() as held:
        listening = {
            family: held.enter_context(listener)
            for family in (IPV4, IPV6)
            if (listener := _listening(family, plan.outbound_port)) is not None
        }
        while (missing := _missing(listening)) is not None:
            if time.monotonic() >= deadline:
                raise Problem(
                    f"connections of this pod are not led to its proxy at port {plan.outbound_port}: no rules are in "
                    f"force for {missing}, and none came within {within_s:g} s"
                )
            time.sleep(min(LOOK_AGAIN_S, max(0.0, deadline - time.monotonic())))


def _listening(family: _Family, port: int) -> socket.socket | None:
    """None where there is no IPv6."""
    try:
        return socket.create_server((family.loopback, port), family=family.number)
    except OSError as error:
        if family is IPV6 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise Problem(
            f"cannot see whether connections are led to {family.loopback}:{port}: {error.strerror} there (the "
            "proxy may be running already)"
        ) from error


def _missing(listening: dict[_Family, socket.socket]) -> str | None:
    """By what connections are not led there; None where all are that can be made."""
    found = {family.name: _arrives(family, listener) for family, listener in listening.items()}
    made = {name: arrives for name, arrives in found.items() if arrives is not None}
    missing = [name for name, arrives in made.items() if not arrives]
    return None if made and not missing else " and ".join(missing) or "it"


def _arrives(family: _Family, listening: socket.socket) -> bool | None:
    """None where there is no way there, and so nothing that could be led anywhere."""
    with socket.socket(family.number, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        if caller.connect_ex(family.nowhere) not in (0, errno.EINPROGRESS):
            return None
        readable, _, _ = select.select([listening], [], [], LOOK_AGAIN_S)
        if not readable:
            return False
        accepted, _ = listening.accept()
        with accepted:
            return _was_going(family, accepted) == family.nowhere


def _was_going(family: _Family, accepted: socket.socket) -> tuple[str, int] | None:
    try:
        found = accepted.getsockopt(family.level, _ORIGINAL_DST, family.size)
    except OSError:
        return None
    number, port = struct.unpack_from("=H2s", found)
    if number != family.number:
        return None
    return socket.inet_ntop(family.number, found[slice(*family.address)]), int.from_bytes(port)
