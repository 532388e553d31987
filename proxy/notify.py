"""What a service manager is told (sd_notify(3)): a datagram of lines to the socket that NOTIFY_SOCKET names.

    READY=1   RELOADING=1   STOPPING=1   MAINPID=4711

Without a manager nothing is said. That it does not hear is no reason to fail.
"""

import os
import socket
import time


def notify(*lines: str) -> None:
    """Tell the service manager."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass


def reloading() -> None:
    """Say that a reload has begun; READY=1 is its end. The time is for `Type=notify-reload`."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
