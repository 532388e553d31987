"""Those who watch a source that always knows everything it will answer from: files, this host's workloads.

Such a source gives its look-up function, and calls `refresh` when the look-up's answers may have changed; who hears of
it is decided here.
"""

from collections.abc import Callable

from discovery.names import Authority
from discovery.source import Answered, Close
from meshd.api.endpoints import EndpointSet


class Watchers:
    """Open watches over `find`; each is told at once, and then only what differs from what it was told last."""

    def __init__(self, find: Callable[[Authority], EndpointSet | None]) -> None:
        self._find = find
        self._open: dict[object, tuple[Authority, Answered]] = {}
        self._told: dict[object, EndpointSet | None] = {}

    def watch(self, authority: Authority, answered: Answered) -> Close:
        watch = object()
        self._open[watch] = (authority, answered)
        self._told[watch] = found = self._find(authority)

        def close() -> None:
            self._open.pop(watch, None)
            self._told.pop(watch, None)

        answered(found)
        return close

    def refresh(self) -> None:
        for watch, (authority, answered) in list(self._open.items()):
            if watch not in self._open:  # closed by a callback earlier in this round
                continue
            found = self._find(authority)
            if found != self._told[watch]:
                self._told[watch] = found
                answered(found)
