"""A look at where an authority leads, for people: what each source says of it, how old that is, and what callers get.

To look is not to use: a service that nobody watches is followed for as long as somebody looks at it, and no longer.
"""

from collections.abc import Callable, Sequence

from discovery.choice import first, together
from discovery.names import Authority
from discovery.rules import Treated
from discovery.source import NOT_YET, Answer, Asking, Close, Look, Looked, Source
from meshd.api.endpoints import EndpointSet

UNSETTLED = Looked(NOT_YET, settled=False)


class ChainLook:
    """One authority over the sources that answer for it, in their order. `changed` is called when any of them says
    more. Ended by `close`."""

    def __init__(
        self,
        authority: Authority,
        sources: Sequence[tuple[str, Source]],
        treated: Treated,
        changed: Callable[[], None],
        *,
        merge: bool,
    ) -> None:
        self._treated, self._merge = treated, merge
        self._looks = [(name, look(source, authority, changed)) for name, source in sources]

    @property
    def sources(self) -> tuple[tuple[str, Looked], ...]:
        """What each says now, by its name."""
        return tuple((name, each.now()) for name, each in self._looks)

    @property
    def settled(self) -> bool:
        """Whether none of them is about to say more."""
        return all(looked.settled for _, looked in self.sources)

    @property
    def found(self) -> Answer:
        """What callers get of it now."""
        looked = [each for _, each in self.sources]
        heard = {place: each.answer for place, each in enumerate(looked) if each.settled or each.answer is not NOT_YET}
        answer = (together if self._merge else first)(len(looked), heard)
        return self._treated(answer) if isinstance(answer, EndpointSet) else answer

    def close(self) -> None:
        for _, each in self._looks:
            each.close()


def look(source: Source, authority: Authority, changed: Callable[[], None]) -> Look:
    """A look at what one source says. Of a source that knows all it has at any time, it is what those who watch get."""
    if isinstance(source, Asking):
        return source.look(authority, changed)
    heard: list[Answer] = []

    def answered(answer: Answer) -> None:
        heard[:] = [answer]
        changed()

    close: Close = source.watch(authority, answered)

    def now() -> Looked:
        known, health = source.known(), source.health()
        if not heard:
            return UNSETTLED
        stale_since, trouble = (health.since, health.message) if known.stale else (0.0, "")
        return Looked(heard[0], known.read_at, stale_since=stale_since, trouble=trouble)

    return Look(now, close)
