r"""Prometheus' text format, version 0.0.4: families of samples as the page that is scraped.

    # HELP request_total Requests.
    # TYPE request_total counter
    request_total{direction="inbound",workload="default/web"} 3.0

prometheus-client could write it, and reads it in the tests; but in every proxy it would hold 4 MB for these few lines,
most of that for servers and clients of HTTP that it brings along.
"""

import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_PAGE_BYTES: Final = resource.getpagesize()


class Family:
    """The samples of one name. `labels` are in the order in which `add` gets their values."""

    __slots__ = ("_labels", "_lines", "about", "kind", "name")

    def __init__(
        self, kind: Literal["counter", "gauge", "histogram"], name: str, about: str, labels: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self.name = name
        self.about = about
        self._labels = labels
        self._lines: list[str] = []

    def add(self, values: Sequence[str], value: float) -> None:
        """One sample."""
        self._add("", zip(self._labels, values, strict=True), value)

    def add_histogram(self, values: Sequence[str], buckets: Sequence[tuple[str, float]], total: float) -> None:
        """One histogram: of each bucket its upper bound and the count up to there; `total` is the sum observed."""
        labels = tuple(zip(self._labels, values, strict=True))
        for bound, count in buckets:
            self._add("_bucket", (*labels, ("le", bound)), count)
        self._add("_count", labels, buckets[-1][1])
        self._add("_sum", labels, total)

    def _add(self, suffix: str, labels: Iterable[tuple[str, str]], value: float) -> None:
        text = ",".join(f'{name}="{each.translate(_ESCAPED)}"' for name, each in sorted(labels))
        self._lines.append(f"{self.name}{suffix}{{{text}}}" if text else self.name + suffix)
        self._lines.append(f" {float(value)!r}\n")

    def text(self) -> str:
        """Its part of the page."""
        return f"# HELP {self.name} {self.about}\n# TYPE {self.name} {self.kind}\n" + "".join(self._lines)


def counter(name: str, about: str, value: float) -> Family:
    """A counter of one sample without labels."""
    family = Family("counter", name, about)
    family.add((), value)
    return family


def gauge(name: str, about: str, value: float) -> Family:
    """A gauge of one sample without labels."""
    family = Family("gauge", name, about)
    family.add((), value)
    return family


def page(families: Iterable[Family]) -> bytes:
    """The page."""
    return "".join(family.text() for family in families).encode()


def process(started: float) -> Iterator[Family]:
    """What proc(5) and getrusage(2) say of this process, `started` then (seconds since the epoch), under the names
    that Prometheus' clients agree on."""
    size, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    times, now = os.times(), time.time()
    yield counter("process_cpu_seconds_total", "Processor time, user and system.", times.user + times.system)
    yield gauge("process_resident_memory_bytes", "Resident memory.", int(resident) * _PAGE_BYTES)
    yield gauge("process_virtual_memory_bytes", "Virtual memory.", int(size) * _PAGE_BYTES)
    yield gauge("process_start_time_seconds", "When it started.", started)
    yield gauge("process_open_fds", "Open descriptors.", len(os.listdir("/proc/self/fd")))
    yield gauge("process_max_fds", "How many it may open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield counter("process_uptime_seconds_total", "Since the start.", now - started)
    yield gauge("process_clock_time_seconds", "The clock.", now)
