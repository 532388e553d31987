"""Who waits for news of the mesh's trust: the bundle, and what is denied. One look at the store a second serves all.

The store is changed by other processes too (`meshd ca issued revoke`, other daemons), so it is looked at, and not told
from within. The counterpart is `Signer.follow` of the agent, which asks again when its answer has come.

A connection that waits takes 54 KB, 20 of them OpenSSL's, so there are places for some hundred; whoever finds none is
told when to come again. That is sooner the fewer they are: all of them together ask POLLS_PER_S times a second at most.
"""

import asyncio
import logging
from typing import Final

from meshd.ca.source import Unreachable
from meshd.ca.store import Store

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0

GIVE_UP_AFTER: Final = 3
"""Looks that fail in a row: then who waits is told so, and may ask another CA that can look."""

POLLS_PER_S: Final = 200.0
"""Of those without a place: a handshake each, 1 to 2 ms of a core."""

OF_THE_WAY: Final = 0.1

SOONEST_S: Final = 1.0

LONGEST_WAIT_S: Final = 20.0
"""Below what a connection may live (`meshd.ca.limits`), with time for its handshake and its answer."""


class Pace:
    """How long those who find no place are to stay away."""

    def __init__(self) -> None:
        self._came = 0
        self._again_s = SOONEST_S

    def turn_away(self) -> float:
        """In how many seconds one who came is to come again."""
        self._came += 1
        return self._again_s

    def reckon(self, over_s: float) -> None:
        """To be called every over_s seconds. As many as come in a second, times the seconds that each of them stays
        away, are all there are (Little's law). A part of the way each time: who comes now was told some time ago,
        and where each was told at once what the last second's came to, they would come in waves."""
        there_are = self._came / over_s * self._again_s
        again_s = self._again_s + (there_are / POLLS_PER_S - self._again_s) * OF_THE_WAY
        self._again_s = min(max(again_s, SOONEST_S), LONGEST_WAIT_S)
        self._came = 0


class Following:
    """The store's sequence number, followed. `run` is to run for as long as anyone may wait."""

    def __init__(self, store: Store, max_waiting: int, look_every_s: float = LOOK_EVERY_S) -> None:
        self._store, self._look_every_s, self._max = store, look_every_s, max_waiting
        self._sequence = self._failed = 0
        self._is_known = self._is_over = False
        self._waiting: set[asyncio.Event] = set()
        self.pace = Pace()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._look_every_s)
            self.pace.reckon(self._look_every_s)
            await self._look()

    def is_unchanged(self, after: int) -> bool:
        """Whether there was nothing newer than `after` when it was looked at last."""
        return self._is_known and self._sequence == after

    async def newer(self, after: int, wait_s: float) -> float:
        """Returns when the sequence number is another than `after`, or after wait_s, LONGEST_WAIT_S at most. The answer
        is in how many seconds to come again, where there was no place to wait, or is none any more; else 0."""
        if self._sequence != after:
            await self._look()
        if self._sequence != after:
            return 0.0
        if self._is_over or len(self._waiting) >= self._max:
            return self.pace.turn_away()
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout(min(wait_s, LONGEST_WAIT_S)):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(changed)
        return self.pace.turn_away() if self._is_over else 0.0

    def end(self) -> None:
        """Nobody is to wait here any more: they are answered, and come again where another listens."""
        self._is_over = True
        self._wake()

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._store.sequence)
        except Unreachable as error:
            if not self._failed:
                log.error("what is denied cannot be looked at: %s", error)
            self._is_known = False
            self._failed += 1
            if self._failed == GIVE_UP_AFTER:
                self._wake()
            return
        self._is_known, self._failed = True, 0
        if found != self._sequence:
            self._sequence = found
            self._wake()

    def _wake(self) -> None:
        for changed in self._waiting:
            changed.set()
