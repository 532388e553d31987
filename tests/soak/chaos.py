"""What goes wrong, at random: processes are killed, or ended, and come back; configurations are reloaded.

At most two of the three endpoints are away at a time, and one counts as away until web's proxy can be expected to have
found it again: it leaves what refuses connections alone for longer and longer. So there is always an endpoint to be
had, and no request fails for want of one.
"""

import asyncio
import random
import signal
from collections import Counter
from time import monotonic
from typing import Final, Literal

from tests.soak.verdict import Damage
from tests.soak.world import ENDPOINTS, Endpoint, Process, World

SETTLED_S: Final = 1.0
CUT_S: Final = 0.5
"""Before a proxy that drained is seen to be gone: it cuts what is left, and then ends."""
RELOADED_S: Final = 1.0
"""Between a reload and the next thing: a removed endpoint's connections are let go of."""


class Chaos:
    """See the module. `pause_s` is between two events, about. `done` is the damage; `counts` what was done."""

    def __init__(self, world: World, chance: random.Random, pause_s: float) -> None:
        self._world = world
        self._chance = chance
        self._pause_s = pause_s
        self._away: set[str] = set()
        self._weights = dict.fromkeys(ENDPOINTS, 1)
        self._under_way: list[Damage] = []
        self._done: list[Damage] = []
        self.counts: Counter[str] = Counter()

    @property
    def done(self) -> list[Damage]:
        """The damage, that which is still being done too."""
        return [*self._done, *self._under_way]

    async def run(self) -> None:
        """Until cancelled. SoakFailed."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._next(group)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _next(self, group: asyncio.TaskGroup) -> None:
        await asyncio.sleep(self._pause_s * self._chance.uniform(0.5, 1.5))
        if self._chance.random() < 0.25:
            await self._reload()
        elif len(self._away) < len(ENDPOINTS) - 1:
            name = self._chance.choice([name for name in ENDPOINTS if name not in self._away])
            self._away.add(name)
            group.create_task(self._strike(self._world.endpoints[name]), name=f"striking {name}")

    async def _strike(self, endpoint: Endpoint) -> None:
        """End the application, the proxy, or both at once; start them again a little later."""
        parts: list[Literal["application", "proxy"]] = ["application"]
        if endpoint.name != ENDPOINTS[0]:  # whose proxy is to live through it all
            parts = self._chance.choice([["application"], ["proxy"], ["application", "proxy"]])
        began = monotonic()
        await asyncio.gather(*(self._end_and_start(endpoint, part) for part in parts))
        # An endpoint that refuses is left alone for twice as long each time, so for about as long as it was away.
        await asyncio.sleep((monotonic() - began) * 1.3 + SETTLED_S)
        self._away.discard(endpoint.name)

    async def _end_and_start(self, endpoint: Endpoint, part: Literal["application", "proxy"]) -> None:
        process: Process = getattr(endpoint, part)
        number = self._chance.choice([signal.SIGKILL, signal.SIGTERM])
        how: Literal["killed", "ended"] = "killed" if number is signal.SIGKILL else "ended"
        self.counts[f"{part} {how}"] += 1
        began = monotonic()
        # What drains cuts nothing until it is gone; an application that ends closes its idle connections.
        drains = part == "proxy" and how == "ended"
        far = float("inf")
        damage = Damage(endpoint.name, part, how, began, far, far)
        if not drains:
            self._under_way.append(damage)
        await process.end(number)
        gone = monotonic()
        if drains:
            damage = Damage(endpoint.name, part, how, gone - CUT_S, gone, far)
            self._under_way.append(damage)
        await asyncio.sleep(self._chance.uniform(0.1, 2.5))
        await process.start()
        self._under_way.remove(damage)
        self._done.append(Damage(endpoint.name, part, how, damage.cut_at, gone, monotonic()))

    async def _reload(self) -> None:
        """New weights, perhaps an endpoint fewer, or new certificates: proxies read their files again."""
        world = self._world
        # While one is away, it may be starting, and would read a file that is being written.
        kind = "weights" if self._away else self._chance.choice(["weights", "endpoints", "certificates"])
        if kind == "certificates":
            world.certify("web")
            world.certify("api")
            proxies = [world.web, *(one.proxy for one in world.endpoints.values())]
        else:
            self._weights = {name: self._chance.choice([1, 1, 2, 5]) for name in ENDPOINTS}
            if kind == "endpoints":
                del self._weights[self._chance.choice(ENDPOINTS)]
            proxies = [world.web]
            world.write_web(self._weights)
        self.counts[f"reloaded: {kind}"] += 1
        for proxy in proxies:
            proxy.signal(signal.SIGHUP)
        await asyncio.sleep(RELOADED_S)
        if len(self._weights) < len(ENDPOINTS):
            self._weights = dict.fromkeys(ENDPOINTS, 1)
            world.write_web(self._weights)
            world.web.signal(signal.SIGHUP)
            await asyncio.sleep(RELOADED_S)
