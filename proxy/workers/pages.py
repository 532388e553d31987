"""Pages of metrics of several workers made one: counters and histograms added, gauges as it is right for each.

Pure: text in Prometheus' format (`proxy.exposition`) to text. What a worker counted that has
ended stays in the sums, so that no counter goes back while the master lives.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

Rule = Callable[[float, float], float]

ADDED: Final = frozenset(
    (
        "tcp_open_connections",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    )
)
"""Gauges whose sum is what all workers have together."""

LOWEST: Final = frozenset(
    (
        "meshd_ca_healthy",
        "meshd_control_connected",
        "meshd_proxy_ready",
        "control_identity_cert_expiration_timestamp_seconds",
        "control_identity_cert_refresh_timestamp_seconds",
        "meshd_listener_cert_expiration_timestamp_seconds",
        "process_start_time_seconds",
    )
)
"""Those of which the worst says how all are: each worker holds a certificate of its own, say."""

HIGHEST: Final = frozenset(("process_clock_time_seconds", "process_uptime_seconds_total", "proxy_build_info"))


def rule(name: str, kind: str) -> Rule:
    """How two values of a family become one."""
    if name in HIGHEST:
        return max
    return min if kind == "gauge" and name in LOWEST else lambda one, other: one + other


class Family:
    """The samples of one name: `NAME{LABELS}`, as it is written, to the value."""

    __slots__ = ("about", "kind", "samples")

    def __init__(self, kind: str, about: str, samples: dict[str, float]) -> None:
        self.kind = kind
        self.about = about
        self.samples = samples


Families = dict[str, Family]


def parse(text: str) -> Families:
    """The families of a page. ValueError where it is none."""
    families: Families = {}
    about = ""
    samples: dict[str, float] = {}
    for line in text.split("\n"):
        if line.startswith("# HELP "):
            about = line[len("# HELP ") :].partition(" ")[2]
        elif line.startswith("# TYPE "):
            name, _, kind = line[len("# TYPE ") :].partition(" ")
            samples = families.setdefault(name, Family(kind, about, {})).samples
        elif line and line[0] != "#":
            key, _, value = line.rpartition(" ")
            samples[key] = float(value)
    return families


def merge(into: Families, page: Families) -> None:
    """Take page into the sums."""
    for name, family in page.items():
        known = into.setdefault(name, Family(family.kind, family.about, {})).samples
        both = rule(name, family.kind)
        for key, value in family.samples.items():
            before = known.get(key)
            known[key] = value if before is None else both(before, value)


def keep(past: Families, page: Families, most: int) -> None:
    """Take into the past what the worker counted whose last page this is; what was only a state went with it. Of new
    samples only as many as make `most` of all: each worker may have met others."""
    room = most - sum(len(family.samples) for family in past.values())
    for name, family in page.items():
        if family.kind == "gauge" or name in HIGHEST:
            continue
        known = past.setdefault(name, Family(family.kind, family.about, {})).samples
        for key, value in family.samples.items():
            if key in known:
                known[key] += value
            elif room > 0:
                known[key] = value
                room -= 1


def merged(pages: Iterable[Families]) -> Families:
    """All pages as one."""
    families: Families = {}
    for page in pages:
        merge(families, page)
    return families


def rendered(families: Families) -> str:
    """The page."""
    return "".join(_lines(families))


def _lines(families: Families) -> Iterator[str]:
    for name, family in families.items():
        yield f"# HELP {name} {family.about}\n# TYPE {name} {family.kind}\n"
        for key, value in family.samples.items():
            yield f"{key} {value!r}\n"
