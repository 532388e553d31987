"""What a service manager is told by every daemon of ours (sd_notify(3)): a datagram of lines to the socket that
NOTIFY_SOCKET names.

    READY=1   RELOADING=1   STOPPING=1   MAINPID=4711   WATCHDOG=1

Without a manager nothing is said. That it does not hear is no reason to fail. A library for this would want a compiler
and systemd's headers wherever the proxy is installed, for what is one call of sendmsg(2).
"""

import array
import asyncio
import os
import socket
import time
from collections.abc import Sequence


def notify(*lines: str, descriptors: Sequence[int] = ()) -> None:
    """Tell the service manager, and hand it descriptors, which are duplicated."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            handed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            manager.sendmsg(["\n".join(lines).encode()], handed, 0, address)
    except OSError:
        pass


def reloading() -> None:
    """Say that a reload has begun; READY=1 is its end. The time is for `Type=notify-reload`."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def leave_manager() -> None:
    """Say nothing more: another process speaks for the service now, or the manager is not this process's own."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
        os.environ.pop(name, None)


def watchdog_every_s() -> float:
    """How often the manager is to hear that the event loop turns: three times in what it waits for it
    (sd_watchdog_enabled(3)); 0 when it does not want to. It names one process. The environment forgets which, so that a
    later generation of the proxy, whose number the manager hears by MAINPID=, does the same."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.pop("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        os.environ.pop("WATCHDOG_USEC", None)
        return 0.0
    return int(wanted) / 3_000_000 if wanted.isascii() and wanted.isdecimal() else 0.0


async def keep_watchdog() -> None:
    """Say WATCHDOG=1 for as long as the event loop turns, where that is wanted. A loop that hangs says nothing, and the
    manager ends its process and starts another. Nothing is said at once: the manager counts from the start, and does
    not listen to a generation that has not taken over yet."""
    every_s = watchdog_every_s()
    while every_s:
        await asyncio.sleep(every_s)
        notify("WATCHDOG=1")
