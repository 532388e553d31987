"""Who waits for news of the mesh's trust: the bundle, and what is denied. One look at the store a second serves all.

The store is changed by other processes too (`meshd ca issued revoke`, other daemons), so it is looked at, and not told
from within. The counterpart is `Signer.follow` of the agent, which asks again when its answer has come.
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

LONGEST_WAIT_S: Final = 20.0
"""Below what a connection may live (`meshd.ca.limits`), with time for its handshake and its answer."""


class Following:
    """The store's sequence number, followed. `run` is to run for as long as anyone may wait."""

    def __init__(self, store: Store, max_waiting: int, look_every_s: float = LOOK_EVERY_S) -> None:
        self._store, self._look_every_s, self._max = store, look_every_s, max_waiting
        self._sequence = self._failed = 0
        self._waiting: set[asyncio.Event] = set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._look_every_s)
            if self._waiting:
                await self._look()

    async def newer(self, after: int, wait_s: float) -> None:
        """Returns when the sequence number is another than `after`, or after wait_s, LONGEST_WAIT_S at most."""
        if self._sequence != after:
            await self._look()
        if self._sequence != after or len(self._waiting) >= self._max:
            return
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout(min(wait_s, LONGEST_WAIT_S)):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(changed)

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._store.sequence)
        except Unreachable as error:
            log.error("what is denied cannot be looked at: %s", error)
            self._failed += 1
            if self._failed == GIVE_UP_AFTER:
                self._wake()
            return
        self._failed = 0
        if found != self._sequence:
            self._sequence = found
            self._wake()

    def _wake(self) -> None:
        for changed in self._waiting:
            changed.set()
