"""The master's page: those of its workers as one, what it knows of them, and its own process."""

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxy import exposition
from proxy.exposition import Family
from proxy.workers.pages import Families, keep, merged, parse, rendered

MAX_PAST: Final = 300_000
"""Samples kept of workers that have ended: 10,000 series with their buckets, some 100 MB."""


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
        keep(self._past, parse(page), MAX_PAST)

    def page(self, workers: Iterable[Seen]) -> bytes:
        """All of it now."""
        seen = tuple(workers)
        pages = [parse(each.page) for each in seen]
        own = exposition.page((*_workers(seen), *exposition.process(self._started))).decode()
        return rendered(merged((*pages, self._past, parse(own)))).encode()


def _workers(seen: tuple[Seen, ...]) -> Iterator[Family]:
    ready = Family("gauge", "meshd_proxy_worker_ready", "Whether the worker is ready.", ("worker",))
    answered = Family(
        "gauge",
        "meshd_proxy_worker_answered",
        "Whether the worker's part of this page is of now; 0: it is the last that it gave.",
        ("worker",),
    )
    deaths = Family(
        "counter", "meshd_proxy_worker_deaths_total", "Workers that have ended and were started again.", ("worker",)
    )
    for each in seen:
        worker = (str(each.number),)
        ready.add(worker, each.ready)
        answered.add(worker, each.answered)
        deaths.add(worker, each.deaths)
    yield from (ready, answered, deaths)
