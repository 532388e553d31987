"""Those who watch a source whose answers come from a look-up: files, this host's workloads.

Such a source gives its look-up function, and calls `refresh` when the look-up's answers may have changed; who hears of
it is decided here.
"""

from collections import Counter
from collections.abc import Callable

from discovery.names import Authority
from discovery.source import Answer, Answered, Close, NotYet
from meshd.api.endpoints import EndpointSet, ServiceName


class Watchers:
    """Open watches over `find`; each is told as soon as there is an answer, and then only what is new.

    With `remote`, nothing is told before `begin`; from then on those who have no answer are told NOT_YET, so that
    others may be asked.
    """

    def __init__(self, find: Callable[[Authority], Answer], *, remote: bool = False) -> None:
        self._find, self._remote, self._begun = find, remote, not remote
        self._open: dict[object, tuple[Authority, Answered]] = {}
        self._told: dict[object, Answer] = {}

    def watch(self, authority: Authority, answered: Answered) -> Close:
        watch = object()
        self._open[watch] = (authority, answered)

        def close() -> None:
            self._open.pop(watch, None)
            self._told.pop(watch, None)

        self._tell(watch)
        return close

    def begin(self) -> None:
        """There is something to be told, once it is refreshed."""
        self._begun = True

    def refresh(self) -> None:
        for watch in list(self._open):
            if watch in self._open:  # not closed by a callback earlier in this round
                self._tell(watch)

    def count(self) -> Counter[ServiceName]:
        """How many watch each service."""
        return Counter(told.service for told in self._told.values() if isinstance(told, EndpointSet))

    def _tell(self, watch: object) -> None:
        if not self._begun:
            return
        authority, answered = self._open[watch]
        found = self._find(authority)
        is_news = watch not in self._told or found != self._told[watch]
        if isinstance(found, NotYet):
            is_news = self._remote and watch not in self._told
        if is_news:
            self._told[watch] = found
            answered(found)
