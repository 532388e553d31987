"""Load of opaque bytes: connections that read all they can get, and let the kernel drop it unread.

python -m bench.loads.drain PORT CONNECTIONS SECONDS    # prints one line of JSON
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.loads import driven
from bench.scenario import Load, Target

_AT_ONCE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Drain:
    """A run of it, in a process of its own. Its value is in Gbit/s."""

    connections: int

    def missing(self) -> str | None:
        return None

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        seen = driven.run(__name__, core, target.port, self.connections, seconds)
        return Load(
            value=seen["bytes"] * 8 / 1e9 / seen["duration_s"],
            count=seen["bytes"] / 1e6,
            duration_s=seen["duration_s"],
            failed=seen["ended"],
        )


def drain(port: int, connections: int, seconds: float) -> dict[str, float]:
    """What so many connections read in that time, and how many of them the other side ended."""
    read = ended = 0
    untouched = bytearray(_AT_ONCE_BYTES)  # MSG_TRUNC has the kernel count bytes and drop them (tcp(7))
    with selectors.DefaultSelector() as ready:
        for _ in range(connections):
            opened = socket.create_connection(("127.0.0.1", port), timeout=10)
            opened.setblocking(False)
            ready.register(opened, selectors.EVENT_READ)
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0 and ready.get_map():
            for key, _ in ready.select(left):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                try:
                    got = one.recv_into(untouched, _AT_ONCE_BYTES, socket.MSG_TRUNC)
                except OSError:
                    got = 0
                read += got
                if not got:
                    ended += 1
                    ready.unregister(one)
                    one.close()
        duration_s = time.monotonic() - began
        for key in list(ready.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
    return {"bytes": read, "duration_s": duration_s, "ended": ended}


if __name__ == "__main__":
    print(json.dumps(drain(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
