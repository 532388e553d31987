"""Where a blocking query stands: the index that is asked to be passed, and how soon to ask again. Pure.

Consul's documentation of blocking queries has the rules: an index that goes backwards (a restored snapshot, an agent
that began anew) starts again from nothing; one that is 0 counts as 1; and who asks is to be sparing.

A server that restores a snapshot answers those who wait with the index they had, although it will be long until that is
passed again. So an answer that came before its time, and with no other index, starts from nothing too.
"""

from typing import Final

MOST_WAIT_S: Final = 60.0
"""How long Consul may hold a query: what is known is confirmed at least so often."""

TURN_S: Final = 10.0
"""When there are more services than connections, each has its turn in so long, about."""

LEAST_WAIT_S: Final = 0.25

SPACE_S: Final = 0.2
"""Between two answers for one service: what changes faster is seen so often."""

FRUITLESS_SPACE_S: Final = 2.0
"""Where the last answer came before its time, and said nothing new. Consul gives one to who waits for a service that
does not exist whenever any other changes."""


class Cursor:
    """One service's. `index` 0: the next query does not wait."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index = 0

    def heard(self, index: int, waited_s: float, wait_s: float, *, changed: bool) -> float:
        """An answer with that index came after waited_s of wait_s, and said something else than the one before it, or
        not; the seconds that are to pass before the next."""
        before, self.index = self.index, max(index, 1)
        early = waited_s < wait_s / 2
        if self.index < before or (self.index == before and early):
            self.index = 0
        fruitless = early and not changed
        return max((FRUITLESS_SPACE_S if fruitless else SPACE_S) - waited_s, 0.0)


def wait_s(services: int, connections: int) -> float:
    """How long a query may be held where so many services share so many connections."""
    return min(max(TURN_S * connections / max(services, 1), LEAST_WAIT_S), MOST_WAIT_S)
