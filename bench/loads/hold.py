"""Load that only is there: connections that each have had one answer, and then say nothing more. What is measured is
the memory of whoever holds their other ends."""

import resource
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import cost
from bench.scenario import Load, Target

SETTLE_S = 1.0
"""How long all of them are idle before the memory is read, at most."""

_REQUEST = b"GET / HTTP/1.1\r\nHost: origin.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n"
_SPARE_FILES = 1_000


@dataclass(frozen=True, slots=True)
class Hold:
    """So many connections, opened one after the other by this process. The value is in MB."""

    connections: int

    def missing(self) -> str | None:
        """Proxies inherit the limit, and need a descriptor for each too."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < self.connections + _SPARE_FILES:
            return f"{self.connections + _SPARE_FILES} open files, and the limit is {hard} (ulimit -Hn)"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return None

    def drive(self, target: Target, seconds: float, core: int, directory: Path) -> Load:  # noqa: ARG002
        failed, began = 0, time.monotonic()
        with ExitStack() as stack:
            for _ in range(self.connections):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=10))
                one.sendall(_REQUEST)
                failed += not _answered(one)
            time.sleep(min(seconds, SETTLE_S))
            held_bytes = sum(cost.rss_bytes(pid) for pid in target.pids)
        return Load(value=held_bytes / 1e6, count=self.connections, duration_s=time.monotonic() - began, failed=failed)


def _answered(connection: socket.socket) -> bool:
    """Whether an answer of status 200 came, whole."""
    head, body = b"", b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return False
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    left = int(fields[b"content-length"]) - len(body)
    while left > 0 and (data := connection.recv(65536)):
        left -= len(data)
    return head.startswith(b"HTTP/1.1 200") and left == 0
