"""Several sources as one, in a given order: the first that knows a service is the one that answers for it.

A source that has not answered yet holds back those after it, so that a caller is never sent elsewhere in the moment
before the registry that it should have been sent by has spoken.
"""

from collections.abc import Sequence

from discovery.names import Authority
from discovery.source import Answered, Close, Known, Source
from meshd.api.control import Health
from meshd.api.endpoints import EndpointSet


class Chain:
    """Sources in the order in which they are believed."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    def watch(self, authority: Authority, answered: Answered) -> Close:
        return _Watch(self._sources, authority, answered).close

    def health(self) -> tuple[Health, ...]:
        return tuple(source.health() for source in self._sources)

    def known(self) -> tuple[Known, ...]:
        """In the order of `health`."""
        return tuple(source.known() for source in self._sources)


class _Watch:
    """One authority over all sources; `answered` hears only what differs from the last."""

    def __init__(self, sources: Sequence[Source], authority: Authority, answered: Answered) -> None:
        self._answered = answered
        self._places = range(len(sources))
        self._heard: dict[int, EndpointSet | None] = {}
        self._told: list[EndpointSet | None] = []  # empty: nothing yet, which is not the same as None
        self._closing = [sources[place].watch(authority, self._hears(place)) for place in self._places]
        self._decide()  # where there are no sources, nobody else does

    def _hears(self, place: int) -> Answered:
        def heard(found: EndpointSet | None) -> None:
            self._heard[place] = found
            self._decide()

        return heard

    def _decide(self) -> None:
        found = None
        for place in self._places:
            if place not in self._heard:
                return
            if (found := self._heard[place]) is not None:
                break
        if self._told != [found]:
            self._told = [found]
            self._answered(found)

    def close(self) -> None:
        for close in self._closing:
            close()
