"""Whether what processes of this pod send is led to its proxy: a connection is made to where nobody is, and is to
arrive at the proxy's port, which this process has meanwhile. It needs no capability, and must not run as the proxy's
user.

Linkerd's counterpart is its network validator; like it, this is for rules that somebody else put in force too.
"""

import errno
import select
import socket
import struct
import time
from typing import Final

from k8s.init.plan import PodPlan
from meshd.api.problems import Problem

NOWHERE: Final = ("192.0.2.1", 20001)
"""Of the addresses for documentation (RFC 5737): no pod has it. The port is the one that Linkerd's validator asks."""

LOOK_AGAIN_S: Final = 0.2
_SO_ORIGINAL_DST: Final = 80
_IN4_BYTES: Final = 16


def check(plan: PodPlan, within_s: float) -> None:
    """Return when it is so; Problem when it is not within so many seconds."""
    deadline = time.monotonic() + within_s
    try:
        listening = socket.create_server(("127.0.0.1", plan.outbound_port))
    except OSError as error:
        raise Problem(
            f"cannot see whether connections are led to 127.0.0.1:{plan.outbound_port}: {error.strerror} there (the "
            "proxy may be running already)"
        ) from error
    with listening:
        while not _arrives(listening):
            if time.monotonic() >= deadline:
                raise Problem(
                    f"connections of this pod are not led to its proxy at port {plan.outbound_port}: no rules are in "
                    f"force for it, and none came within {within_s:g} s"
                )
            time.sleep(min(LOOK_AGAIN_S, max(0.0, deadline - time.monotonic())))


def _arrives(listening: socket.socket) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        if _refused(caller.connect_ex(NOWHERE)):
            return False
        readable, _, _ = select.select([listening], [], [], LOOK_AGAIN_S)
        if not readable:
            return False
        accepted, _ = listening.accept()
        with accepted:
            return _was_going(accepted) == NOWHERE


def _refused(number: int) -> bool:
    """Whether the kernel would not even try. Without a route there is nothing that could be led anywhere."""
    return number not in (0, errno.EINPROGRESS)


def _was_going(accepted: socket.socket) -> tuple[str, int] | None:
    try:
        found = accepted.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _IN4_BYTES)
    except OSError:
        return None
    family, port, address = struct.unpack_from("=H2s4s", found)
    if family != socket.AF_INET:
        return None
    return socket.inet_ntop(socket.AF_INET, address), int.from_bytes(port)
