"""Which service has an endpoint at an address: asked of a registry once for each address, and followed from there.

An application that connects to an address means the one endpoint there, and gets the service reduced to it; an address
that stands for a whole service (a virtual one) gives all of it. An endpoint that its service does not have at present
(it is not ready, say) is one that cannot be reached, rather than one outside the mesh: to that, callers would speak in
plain text.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic

from msgspec.structs import replace

from discovery.registry import Away, Key, Located
from discovery.source import NOT_YET, Answer, Answered, Close, NotYet
from meshd.api.endpoints import EndpointSet
from meshd.api.followers import Followers
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

AGAIN_S = 60.0
"""How often an address is looked up again at which there was nothing, or nothing any more."""

AWAY_S = 5.0
"""How often it is while the registry is away."""

MAX_LOOKUPS = 10_000
"""Addresses that are watched at a time; applications choose them."""


class Lookups(Generic[Key]):
    """`locate` asks the registry, `known` what is known anyway, `watch` follows a service."""

    def __init__(
        self,
        locate: Callable[[str, int], Awaitable[Located[Key] | None]],
        known: Callable[[str, int], Key | None],
        watch: Callable[[Key, Answered], Close],
    ) -> None:
        self._locate, self._known, self._watch = locate, known, watch
        self._open: dict[tuple[str, int], Lookup[Key]] = {}
        self._tasks = Tasks("look-up")

    def watch(self, address: str, port: int, answered: Answered) -> Close:
        """Tell answered which service is at the address, reduced as the module says, now and whenever that changes."""
        lookup = self._open.get((address, port))
        if lookup is None:
            if len(self._open) >= MAX_LOOKUPS:
                log.error("more than %d addresses are asked for: %s:%d is not looked up", MAX_LOOKUPS, address, port)
                answered(NOT_YET)
                return lambda: None
            lookup = self._open[address, port] = Lookup(address, port, self._watch)
            lookup.task = self._tasks.start(self._ask(lookup), f"{address}:{port}")
        leave = lookup.watchers.follow(answered)
        if lookup.told:
            answered(lookup.told[0])

        def close() -> None:
            leave()
            if not lookup.watchers and self._open.get((address, port)) is lookup:  # it is not when all are closed
                del self._open[address, port]
                lookup.end()

        return close

    def look(
        self, address: str, port: int, watch: Callable[[Key, Answered], Close], changed: Callable[[], None]
    ) -> "Lookup[Key]":
        """A look-up of its own, for its `end` to close, that follows the service at the address by `watch`."""
        lookup = Lookup(address, port, watch)
        lookup.watchers.follow(lambda _: changed())
        lookup.task = self._tasks.start(self._ask(lookup), f"look at {address}:{port}")
        return lookup

    async def close(self) -> None:
        await self._tasks.cancel()
        for lookup in self._open.values():
            lookup.end()
        self._open.clear()

    async def _ask(self, lookup: "Lookup[Key]") -> None:
        """Until the look-up is ended: find the service, and look again when it is not, or no longer, there."""
        address, port = lookup.address, lookup.port
        while True:
            pause_s = AGAIN_S
            try:
                key = self._known(address, port)
                found = Located(key) if key is not None else await self._locate(address, port)
            except Away as error:
                lookup.trouble = str(error)
                lookup.say(NOT_YET)
                pause_s = AWAY_S
            except Exception:
                log.exception("looking for %s:%d failed", address, port)
                lookup.trouble = "of an error within: see the log"
                lookup.say(NOT_YET)
                pause_s = AWAY_S
            else:
                lookup.trouble = ""
                lookup.follow(found)
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause_s)  # noqa: S311 - to spread load
            await lookup.absent.wait()


class Lookup(Generic[Key]):
    """One address. `told` is what was said last, if anything; `found` the service there, if one is known; `trouble` why
    it could not be asked; `absent` is set while there is nothing at the address."""

    __slots__ = ("_unwatch", "_watch", "absent", "address", "found", "port", "task", "told", "trouble", "watchers")

    def __init__(self, address: str, port: int, watch: Callable[[Key, Answered], Close]) -> None:
        self.address, self.port, self._watch = address, port, watch
        self.watchers = Followers[[Answer]]()
        self.told: list[Answer] = []
        self.absent = asyncio.Event()
        self.absent.set()
        self.task: asyncio.Task[None] | None = None
        self.trouble = ""
        self.found: Located[Key] | None = None
        self._unwatch: Close | None = None

    def follow(self, found: Located[Key] | None) -> None:
        """The address is that of the service found; None: of none."""
        if self._unwatch is not None and found == self.found:
            return
        unwatch, self._unwatch = self._unwatch, None
        self.found = found
        if found is None:
            self.absent.set()
            self.say(None)
        else:
            self._unwatch = self._watch(found.key, self._heard)
        if unwatch is not None:
            unwatch()

    def _heard(self, answer: Answer) -> None:
        if isinstance(answer, NotYet) or answer is None:
            self.absent.set()
            self.say(answer)
            return
        reduced = self._reduced(answer)
        if reduced.endpoints:
            self.absent.clear()
        else:
            self.absent.set()
        self.say(reduced)

    def _reduced(self, answer: EndpointSet) -> EndpointSet:
        if self.found is not None and self.found.whole:
            return answer
        here = (self.address, self.port)
        return replace(answer, endpoints=tuple(each for each in answer.endpoints if (each.address, each.port) == here))

    def say(self, answer: Answer) -> None:
        """Tell those who watch; that nothing can be said is no news to those who know something."""
        if self.told == [answer] or (isinstance(answer, NotYet) and self.told):
            return
        self.told = [answer]
        self.watchers.tell(answer)

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
