"""The master's page: those of its workers as one, what it knows of them, and its own process.

prometheus-client is not imported for the few lines that are the master's own.
"""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from proxy.workers.pages import Families, merge, merged, parse, rendered

_PAGE_BYTES: Final = resource.getpagesize()
_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")


class Seen(NamedTuple):
    """What the master sees of the worker in a place."""

    number: int
    page: str
    ready: bool
    answered: bool
    deaths: int


class Metrics:
    """The page, with what workers have counted that are no more."""

    def __init__(self) -> None:
        self._past: Families = {}
        self._started = time.time()

    def keep(self, page: str) -> None:
        """A worker has ended whose last page this is: what it counted stays."""
        merge(self._past, parse(page), counted_only=True)

    def page(self, workers: Iterable[Seen]) -> bytes:
        """All of it now."""
        seen = tuple(workers)
        pages = [parse(each.page) for each in seen]
        return rendered(merged((*pages, self._past, parse(self._own(seen))))).encode()

    def _own(self, seen: tuple[Seen, ...]) -> str:
        return "".join(
            (
                _family("meshd_proxy_worker_ready", "gauge", "Whether the worker is ready.",
                        {each.number: each.ready for each in seen}),
                _family("meshd_proxy_worker_answered", "gauge",
                        "Whether the worker's part of this page is of now; 0: it is the last that it gave.",
                        {each.number: each.answered for each in seen}),
                _family("meshd_proxy_worker_deaths_total", "counter", "Workers that have ended and were started again.",
                        {each.number: each.deaths for each in seen}),
                _process(self._started),
            )
        )  # fmt: skip


def _family(name: str, kind: str, about: str, values: dict[int, float]) -> str:
    lines = (f'{name}{{worker="{number}"}} {float(value)}\n' for number, value in values.items())
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n" + "".join(lines)


def _process(started: float) -> str:
    """What proc(5) and getrusage(2) say of this process, under prometheus-client's names."""
    size, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    times = os.times()
    now = time.time()
    values = {
        "process_cpu_seconds_total": ("counter", times.user + times.system),
        "process_resident_memory_bytes": ("gauge", int(resident) * _PAGE_BYTES),
        "process_virtual_memory_bytes": ("gauge", int(size) * _PAGE_BYTES),
        "process_start_time_seconds": ("gauge", started),
        "process_open_fds": ("gauge", len(os.listdir("/proc/self/fd"))),
        "process_max_fds": ("gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "process_uptime_seconds_total": ("counter", now - started),
        "process_clock_time_seconds": ("gauge", now),
    }
    return "".join(f"# TYPE {name} {kind}\n{name} {float(value)!r}\n" for name, (kind, value) in values.items())
