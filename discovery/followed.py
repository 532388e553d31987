"""One service of a registry: what was said of it, what of that is still to be believed, and who is told.

    read, with endpoints       they are what is known
    read, without any          what was last good, stale, for as long as it is kept; then that there are none
    away                       what was last known, stale, for as long as it is kept; then its emptiness
    away, and never read       nothing can be said

Pure: readings in, answers out.
"""

import math
from collections.abc import Callable
from typing import Generic

from msgspec.structs import replace

from discovery.registry import Key
from discovery.source import NOT_YET, Answer, Answered, Close, Looked, NotYet
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.followers import Followers


class Followed(Generic[Key]):
    """`source` is the name of the registry; what was good is served for keep_s seconds after it was confirmed last.
    `good` and `read_at` are what is known from before, if anything is, and when that was confirmed."""

    __slots__ = (
        "_addresses",
        "_asked",
        "_clock",
        "_keep_s",
        "_lookers",
        "_said",
        "_source",
        "_told",
        "_watchers",
        "away",
        "changed_at",
        "denied",
        "good",
        "key",
        "read_at",
        "stale_since",
    )

    def __init__(
        self,
        key: Key,
        source: str,
        keep_s: float,
        clock: Callable[[], float],
        good: EndpointSet | None = None,
        read_at: float = 0.0,
    ) -> None:
        self.key = key
        self._source, self._keep_s, self._clock = source, keep_s, clock
        self.good = good
        self.read_at = self.changed_at = read_at
        self.stale_since = math.inf if good is None else min(read_at, clock())  # a clock may have been set back
        self.away = "it was not read yet"
        self._said: Answer = NOT_YET
        self._told: tuple[Answer, ...] = () if good is None else (self.answer,)
        self._addresses: tuple[EndpointSet, dict[tuple[str, int], Endpoint]] | None = None
        self._watchers = Followers[[Answer]]()
        self._lookers = Followers[[]]()
        self._asked = self.denied = False

    # --- what the registry says -----------------------------------------------------------------------------------

    def heard(self, said: EndpointSet | None) -> bool:
        """The registry was read. Whether what was last good changed, and is worth keeping."""
        self.read_at, self.away, self.denied = self._clock(), "", False
        self._said = said
        if said is not None and said.endpoints:
            self.stale_since = math.inf
            changed = said != self.good
            if changed:
                self.good, self.changed_at = said, self.read_at
        else:
            changed = False
            self._doubt()
        self._show()
        return changed

    def lost(self, reason: str, *, denied: bool = False) -> None:
        """The registry could not be read. `denied`: it does not let this agent."""
        self.away, self.denied = reason, denied
        self._doubt()
        self._show()

    def _doubt(self) -> None:
        if self.stale_since == math.inf:
            self.stale_since = self._clock()

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def answer(self) -> Answer:
        """What is to be believed now."""
        good, said = self.good, self._said
        if not self.away and isinstance(said, EndpointSet) and said.endpoints:
            return replace(said, source=self._source)
        if good is not None and not self.lapsed:
            return replace(good, source=self._source, stale=True)
        if not isinstance(said, NotYet) and not self.away:
            return said
        if good is not None:
            return replace(good, endpoints=(), source=self._source, stale=True)
        return said if said is None else NOT_YET

    @property
    def confirmed_at(self) -> float:
        """When the registry last said what is good."""
        return min(self.read_at, self.stale_since)

    @property
    def lapsed(self) -> bool:
        """Whether what was last good has been kept for as long as it may be."""
        return self._clock() >= self.stale_since + self._keep_s

    @property
    def stale(self) -> bool:
        """Whether what is served is not what the registry says now."""
        said = self._said
        if self.good is None or (not self.away and isinstance(said, EndpointSet) and said.endpoints):
            return False
        return bool(self.away) or not self.lapsed

    @property
    def looked(self) -> Looked:
        """All of it, for one who looks."""
        away, is_stale = self.away if self._asked else "", self.stale
        doubt = "it says that nothing is left" if self._asked else self.away
        trouble = away or (doubt if is_stale else "")
        stale_since = self.stale_since if (is_stale or away) and self.stale_since < math.inf else 0.0
        return Looked(self.answer, self.read_at, self.changed_at, stale_since, trouble, self._asked)

    def at(self, address: str, port: int) -> Endpoint | None:
        """The endpoint there, of those that are believed."""
        answer = self.answer
        if not isinstance(answer, EndpointSet):
            return None
        if self._addresses is None or self._addresses[0].endpoints is not answer.endpoints:
            self._addresses = answer, {(each.address, each.port): each for each in answer.endpoints}
        return self._addresses[1].get((address, port))

    # --- who is told ----------------------------------------------------------------------------------------------

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def watch(self, answered: Answered) -> Close:
        """Tell answered what is known, at once where anything can be said, and whenever that changes."""
        close = self._watchers.follow(answered)
        if self._told:
            answered(self.answer)
        return close

    def tell(self) -> None:
        """Say to all who watch what is new, if anything is."""
        answer = self.answer
        if self._told == (answer,):
            return
        self._told = (answer,)
        self._watchers.tell(answer)

    # --- who looks ------------------------------------------------------------------------------------------------

    @property
    def is_used(self) -> bool:
        """Whether anybody watches or looks."""
        return bool(self._watchers or self._lookers)

    def look(self, changed: Callable[[], None]) -> Close:
        """Call changed whenever the registry was read, or could not be."""
        return self._lookers.follow(changed)

    def _show(self) -> None:
        self._asked = True
        self.tell()
        self._lookers.tell()
