"""Those who watch a source whose answers come from a look-up: files, this host's workloads.

Such a source gives its look-up function, and calls `refresh` when the look-up's answers may have changed; who hears of
it is decided here.
"""

from collections.abc import Callable

from discovery.names import Authority
from discovery.source import NOT_YET, Answer, Answered, Close, NotYet


class Watchers:
    """Open watches over `find`; each is told as soon as there is an answer, and then only what is new."""

    def __init__(self, find: Callable[[Authority], Answer]) -> None:
        self._find = find
        self._open: dict[object, tuple[Authority, Answered]] = {}
        self._told: dict[object, Answer] = {}

    def watch(self, authority: Authority, answered: Answered) -> Close:
        watch = object()
        self._open[watch] = (authority, answered)
        self._told[watch] = NOT_YET

        def close() -> None:
            self._open.pop(watch, None)
            self._told.pop(watch, None)

        self._tell(watch)
        return close

    def refresh(self) -> None:
        for watch in list(self._open):
            if watch in self._open:  # not closed by a callback earlier in this round
                self._tell(watch)

    def _tell(self, watch: object) -> None:
        authority, answered = self._open[watch]
        found = self._find(authority)
        if not isinstance(found, NotYet) and found != self._told[watch]:
            self._told[watch] = found
            answered(found)
