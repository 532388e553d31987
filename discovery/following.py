"""A registry across the network as a source of services: each one followed once, however many ask.

    asked for     a service is followed from the first who watches it until `IDLE_S` after the last
    last good     what was good is served while the registry is away, marked stale, and so it is when the registry says
                  that nothing is left: one that lost its data says the same as one whose service ended, and callers
                  would be cut off from what still runs. How long, is set
    on disk       what was good outlasts the process (`discovery.keeping`)
    addresses     the service with an endpoint at an address, reduced to it (`discovery.lookup`)

What the registry is, is the affair of `discovery.registry.Registry`.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, suppress
from typing import Generic

from discovery.followed import Followed
from discovery.keeping import Keeper, Kept
from discovery.lookup import Lookups
from discovery.names import Authority
from discovery.registry import MAX_ENDPOINTS, Away, Denied, Key, Registry
from discovery.source import NOT_YET, Answered, Close, Known, Listed, Look, Looked
from meshd.api.backoff import Backoff
from meshd.api.control import Health
from meshd.api.endpoints import EndpointSet
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

IDLE_S = 60.0
"""A service that nobody watches is followed for so long."""

MAX_SERVICES = 4096
"""Services that are followed at a time, and remembered."""

PROBE_S = 10.0
"""How often it is asked whether the registry is there, when nothing else was."""

FIRST_RETRY_S, MOST_RETRY_S = 0.5, 15.0

AWAY_TRIES_PER_S = 20.0
"""While the registry as a whole is away, all services together are tried so often at most: thousands of them would
keep an agent busy, and it is the probe that finds out that the registry is back."""

SOON_S, SAVE_S = 0.2, 5.0
"""What is new is on disk so soon, and at most so late where there is much to write."""

REST = 20.0
"""After writing there is a rest of so many times its time."""

MOST_SAVED_S = 3600.0
"""And so soon, at most, that what is known was confirmed, for the file's times say how old it is."""


class Following(Generic[Key]):
    """`registry` as a source. What was good is served for keep_s after it was last confirmed, and kept by `keeper`."""

    def __init__(
        self,
        registry: Registry[Key],
        keeper: Keeper,
        *,
        keep_s: float,
        idle_s: float = IDLE_S,
        max_services: int = MAX_SERVICES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry, self._keeper, self._clock = registry, keeper, clock
        self._keep_s, self._idle_s, self._max_services = keep_s, idle_s, max_services
        self._services: dict[Key, Followed[Key]] = {}
        self._following: dict[Key, asyncio.Task[None]] = {}
        self._idle: dict[Key, asyncio.TimerHandle] = {}
        self._kept: dict[Key, Kept] = {}
        self._saving: asyncio.TimerHandle | None = None
        self._saves_from = 0.0  # by the loop's clock
        self._saved_at, self._confirmed = clock(), False  # since then, whether anything was
        self._lookups = Lookups(registry.locate, self._at, self._watch_service)
        self._away = "it was not asked yet"
        self._denied = False
        self._read_at = 0.0
        self._updates = 0
        self._answers = asyncio.Event()  # replaced when it is set: who waits to try again is woken
        self._health = Health(registry.name, healthy=False, message=self._away, since=clock())
        self._tasks = Tasks(f"discovery {registry.name}")

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def services(self) -> Iterable[Followed[Key]]:
        """What is followed now."""
        return self._services.values()

    def health(self) -> Health:
        return self._health

    def known(self) -> Known:
        services = self._services.values()
        return Known(
            self._read_at,
            stale=bool(self._away) or any(each.away for each in services),
            services=len(services),
            stale_services=sum(each.stale for each in services),
            oldest_read_at=min((each.read_at for each in services if each.read_at), default=0.0),
            updates=self._updates,
            denied=self._denied or any(each.denied for each in services),
        )

    def listed(self) -> Iterator[Listed]:
        for each in self._services.values():
            looked = each.looked
            found = looked.answer
            called = "/".join(str(part) for part in each.key if part)
            yield Listed(str(found.service) if isinstance(found, EndpointSet) else called, looked, each.watchers)

    def watch(self, authority: Authority, answered: Answered) -> Close:
        if authority.address:
            return self._lookups.watch(authority.address, authority.port or 80, answered)
        key = self.registry.claim(authority)
        if key is None:
            answered(None)
            return lambda: None
        return self._watch_service(key, answered)

    def look(self, authority: Authority, changed: Callable[[], None]) -> Look:
        """See `discovery.source.Asking`."""
        if authority.address:
            return self._look_at(authority.address, authority.port or 80, changed)
        key = self.registry.claim(authority)
        if key is None:
            return Look(lambda: Looked(None), lambda: None)
        if key not in self._services and len(self._services) >= self._max_services:
            full = Looked(NOT_YET, trouble=f"{self._max_services} services are followed already, which is the most")
            return Look(lambda: full, lambda: None)
        service = self._services.get(key) or self._begin(key)
        return Look(lambda: service.looked, self._looking(service, changed))

    def _look_at(self, address: str, port: int, changed: Callable[[], None]) -> Look:
        def watch(key: Key, answered: Answered) -> Close:
            service = self._services.get(key) or self._begin(key)

            def seen() -> None:
                answered(service.answer)
                changed()

            close = self._looking(service, seen)
            seen()
            return close

        lookup = self._lookups.look(address, port, watch, changed)

        def now() -> Looked:
            if not lookup.told:
                return Looked(NOT_YET, settled=False)
            service = None if lookup.found is None else self._services.get(lookup.found.key)
            if service is None:
                return Looked(lookup.told[0], trouble=lookup.trouble)
            return service.looked._replace(answer=lookup.told[0])

        return Look(now, lookup.end)

    def _looking(self, service: Followed[Key], changed: Callable[[], None]) -> Close:
        """A look at the service, until closed; of one that nobody used otherwise nothing is left then."""
        unlook = service.look(changed)

        def close() -> None:
            unlook()
            key = service.key
            if not service.is_used and self._services.get(key) is service and key not in self._idle:
                self._end(key, keep=key in self._kept)

        return close

    def _at(self, address: str, port: int) -> Key | None:
        """The service, of those that are followed, with an endpoint there."""
        return next((each.key for each in self._services.values() if each.at(address, port) is not None), None)

    # --- following ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recall what was known, and see whether the registry is there."""
        self._kept = self._keeper.load(self.registry.key, self._clock())
        self._tasks.start(self._probe(), "probe")

    async def close(self) -> None:
        """End all of it; nobody is told anything any more."""
        for timer in self._idle.values():
            timer.cancel()
        await self._lookups.close()
        await self._tasks.cancel()
        if self._saving is not None:
            self._saving.cancel()
        if self._saving is not None or self._confirmed:
            self._save()
        await self.registry.close()

    def _watch_service(self, key: Key, answered: Answered) -> Close:
        service = self._services.get(key)
        if service is None:
            if len(self._services) >= self._max_services and not self._drop_an_idle_one():
                log.error(
                    "%s: more than %d services are asked for: %s is not followed",
                    self.registry.name, self._max_services, key,
                )  # fmt: skip
                answered(NOT_YET)
                return lambda: None
            service = self._begin(key)
        if (timer := self._idle.pop(key, None)) is not None:
            timer.cancel()
        unwatch = service.watch(answered)

        def close() -> None:
            unwatch()
            if not service.watchers and self._services.get(key) is service and key not in self._idle:
                self._idle[key] = asyncio.get_running_loop().call_later(self._idle_s, self._end, key)

        return close

    def _begin(self, key: Key) -> Followed[Key]:
        kept = self._kept.get(key)
        service = Followed(
            key,
            self.registry.name,
            self._keep_s,
            self._clock,
            *(kept or ()),
        )
        self._services[key] = service
        self._following[key] = self._tasks.start(self._follow(service), f"follow {'/'.join(map(str, key))}")
        return service

    def _end(self, key: Key, *, keep: bool = True) -> None:
        """Nobody asked for the service any more. `keep` what was good of it."""
        if (timer := self._idle.pop(key, None)) is not None:
            timer.cancel()
        self._following.pop(key).cancel()
        service = self._services.pop(key)
        if keep and (kept := _kept(service)) is not None:
            self._kept.pop(key, None)  # in the order in which they were let go
            self._kept[key] = kept
        while len(self._kept) > self._max_services:
            del self._kept[next(iter(self._kept))]
        self._judge()

    def _drop_an_idle_one(self) -> bool:
        for key in self._idle:
            self._end(key)
            return True
        return False

    async def _follow(self, service: Followed[Key]) -> None:
        backoff = Backoff(FIRST_RETRY_S, MOST_RETRY_S)
        lapse: asyncio.TimerHandle | None = None
        try:
            while True:
                try:
                    async with aclosing(self.registry.follow(service.key)) as readings:
                        async for said in readings:
                            backoff.reset()
                            self._heard(service, said)
                            lapse = self._lapse_timer(service, lapse)
                    reason, denied = "it ended without a reason", False
                except Away as error:
                    reason, denied = str(error), isinstance(error, Denied)
                except Exception:
                    log.exception("%s: following %s failed", self.registry.name, service.key)
                    reason, denied = "of an error within: see the log", False
                service.lost(reason, denied=denied)
                lapse = self._lapse_timer(service, lapse)
                self._judge()
                await self._pause(backoff.next_s())
        finally:
            if lapse is not None:
                lapse.cancel()

    def _lapse_timer(self, service: Followed[Key], timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
        """Where what is stale is not kept for ever, tell those who watch when it is over."""
        ends_in_s = service.stale_since + self._keep_s - self._clock()
        if timer is not None:
            timer.cancel()
        if not 0 < ends_in_s < 1e9:  # it is fresh, or kept for ever, or over
            return None
        return asyncio.get_running_loop().call_later(ends_in_s + 0.01, service.tell)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until the registry is found to be there again, and then a moment, not all at once."""
        if self._away:
            tried_in_s = len(self._services) / AWAY_TRIES_PER_S
            seconds = max(seconds, random.uniform(1.0, 1.5) * tried_in_s)  # noqa: S311 - to spread load
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._answers.wait()
            await asyncio.sleep(random.uniform(0, 0.5))  # noqa: S311 - to spread load

    def _heard(self, service: Followed[Key], said: EndpointSet | None) -> None:
        if said is not None and len(said.endpoints) > MAX_ENDPOINTS:
            raise Away(f"{len(said.endpoints)} endpoints of {said.service}, more than {MAX_ENDPOINTS}")
        was_away = bool(service.away)
        if service.heard(said):
            self._updates += 1
            self._save_soon()
        self._confirmed |= not service.stale
        self._read_at = service.read_at
        if self._away:
            self._there("")
        elif was_away:
            self._judge()

    # --- whether the registry is there ----------------------------------------------------------------------------

    async def _probe(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, PROBE_S)
        while True:
            if self._away or self._clock() - self._read_at >= PROBE_S:
                try:
                    await self.registry.probe()
                except Away as error:
                    self._there(str(error), denied=isinstance(error, Denied))
                except Exception:
                    log.exception("%s: looking whether it is there failed", self.registry.name)
                    self._there("an error within: see the log")
                else:
                    self._read_at = self._clock()
                    self._there("")
            if self._confirmed and abs(self._clock() - self._saved_at) >= min(self._keep_s / 4, MOST_SAVED_S):
                self._save_soon()
            if self._away:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(random.uniform(0.5, 1.0) * PROBE_S)  # noqa: S311 - to spread load

    def _there(self, away: str, *, denied: bool = False) -> None:
        returned = self._away and not away
        self._away, self._denied = away, denied
        if returned:
            self._answers.set()
            self._answers = asyncio.Event()
        self._judge()

    def _judge(self) -> None:
        """Health anew, and a line in the log when it turns."""
        message = self._away
        lost = [] if message else [each for each in self._services.values() if each.away and each.read_at]
        if lost:
            message = f"{len(lost)} of {len(self._services)} services cannot be read: {lost[0].away}"
        before, healthy = self._health, not message
        if healthy != before.healthy or message != before.message:
            since = before.since if healthy == before.healthy else self._clock()
            self._health = Health(self.registry.name, healthy, message, since)
        if healthy and not before.healthy:
            log.info("discovery: %s can be read", self.registry.name)
        elif not healthy and (before.healthy or before.message == "it was not asked yet"):
            log.error("discovery: %s cannot be read, what was last good is served: %s", self.registry.name, message)

    # --- what is kept ---------------------------------------------------------------------------------------------

    def _save_soon(self) -> None:
        if self._saving is None:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_at(max(loop.time() + SOON_S, self._saves_from), self._save)

    def _save(self) -> None:
        began = time.perf_counter()
        self._saving, self._saved_at, self._confirmed = None, self._clock(), False
        followed = {key: kept for key, each in self._services.items() if (kept := _kept(each)) is not None}
        self._keeper.save((self._kept | followed).items())
        rest_s = min(REST * (time.perf_counter() - began), SAVE_S)
        self._saves_from = asyncio.get_running_loop().time() + rest_s


def _kept(service: Followed[Key]) -> Kept | None:
    """What is worth keeping of it."""
    return None if service.good is None else Kept(service.good, service.confirmed_at)
