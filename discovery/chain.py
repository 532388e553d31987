"""Several sources as one, in a given order: the first that knows a service is the one that answers for it.

A source that has not answered yet holds back those after it, so that a caller is never sent elsewhere in the moment
before the registry that it should have been sent by has spoken. One that says that it cannot answer now is passed over;
but where none of the others knows the service, nothing is said rather than that there is no such service.

A rule (`discovery.rules`) may have another order for a service, have all that its sources know taken together, and say
how the service is to be treated whoever knows it.

Addresses that stand for services (`discovery.virtual`) are asked of no source: what they stand for is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from discovery.choice import first, together
from discovery.looks import ChainLook
from discovery.names import Authority, mesh_name
from discovery.rules import NO_RULE, Rule, Treated
from discovery.source import Answer, Answered, Close, Known, Listed, NotYet, Source
from discovery.virtual import Standing, Virtual
from meshd.api.control import Health
from meshd.api.endpoints import EndpointSet

Found = Callable[[EndpointSet | None], None]
"""Takes where an authority leads, whole; None: nobody knows such a service."""


class Named(NamedTuple):
    """A source, and how settings and documents call it."""

    name: str
    source: Source


class Chain:
    """Sources in the order in which they are believed; which addresses stand for services says `virtual`."""

    def __init__(self, sources: Sequence[Named], virtual: Virtual | None = None) -> None:
        self._sources, self._virtual = tuple(sources), virtual
        self._rules: Mapping[tuple[str, str], Rule] = {}
        self._open: set[_Watch] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of `health`."""
        return tuple(each.name for each in self._sources)

    def watch(self, authority: Authority, answered: Found) -> Close:
        """Tell answered where authority leads, now and whenever that changes; nothing as long as it cannot be said."""
        if authority.address and self._virtual is not None and self._virtual.owns(authority.address):
            return Standing(self._virtual, authority, self.watch, answered).close
        watch = _Watch(authority, answered)
        self._open.add(watch)
        self._follow(watch)

        def close() -> None:
            self._open.discard(watch)
            watch.close()

        return close

    def use(self, rules: Mapping[tuple[str, str], Rule]) -> None:
        """What is so from now on of services by (name, namespace)."""
        self._rules = rules
        for watch in tuple(self._open):
            if watch in self._open:
                self._follow(watch)

    def look(self, authority: Authority, changed: Callable[[], None]) -> ChainLook:
        """What each source that answers for authority says of it, and what callers get, until closed; as things are
        configured now. `changed` is called when there is more to see, also before this returns."""
        if authority.address and self._virtual is not None and self._virtual.owns(authority.address):
            host = self._virtual.host(authority.address)
            if not host:
                return ChainLook(authority, (), self._treated, changed, merge=False)
            authority = Authority(host, authority.port, authority.namespace)
        rule = self._rule(authority)
        return ChainLook(authority, self._ordered(rule.order), self._treated, changed, merge=rule.merge)

    def _follow(self, watch: "_Watch") -> None:
        rule = self._rule(watch.authority)
        sources = tuple(each.source for each in self._ordered(rule.order))
        watch.follow(sources, rule.merge, self._treated)

    def _rule(self, authority: Authority) -> Rule:
        name = mesh_name(authority)
        return NO_RULE if name is None else self._rules.get(name, NO_RULE)

    def _ordered(self, names: tuple[str, ...]) -> tuple[Named, ...]:
        if not names:
            return self._sources
        return tuple(each for name in names for each in self._sources if each.name == name)

    def _treated(self, found: EndpointSet) -> EndpointSet:
        rule = self._rules.get((found.service.name, found.service.namespace))
        return found if rule is None else rule.treat(found)

    def health(self) -> tuple[Health, ...]:
        return tuple(each.source.health() for each in self._sources)

    def listed(self) -> Iterator[tuple[str, Listed]]:
        """What each source knows or is asked for, with the source's name."""
        return ((each.name, listed) for each in self._sources for listed in each.source.listed())

    def known(self) -> tuple[Known, ...]:
        """In the order of `health`."""
        return tuple(each.source.known() for each in self._sources)


class _Watch:
    """One authority over its sources; `answered` hears only what differs from the last."""

    def __init__(self, authority: Authority, answered: Found) -> None:
        self.authority = authority
        self._answered = answered
        self._sources: tuple[Source, ...] | None = None
        self._merge = False
        self._treated: Treated = lambda found: found
        self._heard: dict[int, Answer] = {}
        self._told: list[EndpointSet | None] = []  # empty: nothing yet, which is not the same as None
        self._closing: list[Close] = []

    def follow(self, sources: tuple[Source, ...], merge: bool, treated: Treated) -> None:
        """Ask these from now on. What was told stands until they have answered."""
        self._merge, self._treated = merge, treated
        if sources != self._sources:
            before, self._closing = self._closing, []
            self._sources, self._heard = sources, {}
            for place, source in enumerate(sources):
                self._closing.append(source.watch(self.authority, self._hears(place, sources)))
            for close in before:  # after the new ones have begun, so that what both ask of is not given up between
                close()
        self._decide()

    def _hears(self, place: int, sources: tuple[Source, ...]) -> Answered:
        def heard(answer: Answer) -> None:
            if self._sources is sources:
                self._heard[place] = answer
                self._decide()

        return heard

    def _decide(self) -> None:
        answer = (together if self._merge else first)(len(self._sources or ()), self._heard)
        if isinstance(answer, NotYet):
            return
        found = None if answer is None else self._treated(answer)
        if self._told != [found]:
            self._told = [found]
            self._answered(found)

    def close(self) -> None:
        self._sources = None
        for close in self._closing:
            close()
        self._closing.clear()
