"""Following a registry as `discovery.following` does, but for one service, and with nothing in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from discovery.registry import Away, Registry
from meshd.api.endpoints import EndpointSet
from meshd.api.tasks import Tasks
from tests.support.waiting import eventually

WITHIN_S = 45.0


class Reading:
    """What a registry said of a service, in order. `away` is why it could not be read last, empty when it could."""

    def __init__(self) -> None:
        self.said: list[EndpointSet | None] = []
        self.away = ""
        self.aways: list[str] = []

    @property
    def latest(self) -> EndpointSet | None:
        return self.said[-1]

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where the endpoints are that were said last."""
        found = self.said[-1] if self.said else None
        return [] if found is None else [(each.address, each.port) for each in found.endpoints]

    async def until(self, *places: tuple[str, int]) -> EndpointSet:
        """What is said once it is that these are the endpoints."""
        await eventually(lambda: bool(self.said) and self.places == list(places), f"endpoints {places}", WITHIN_S)
        assert self.latest is not None
        return self.latest

    async def until_away(self, *words: str) -> None:
        await eventually(lambda: all(word in self.away for word in words) and self.away, f"away: {words}", WITHIN_S)

    async def again(self) -> EndpointSet | None:
        """What is said next."""
        count = len(self.said)
        await eventually(lambda: len(self.said) > count, "another reading", WITHIN_S)
        return self.latest


@asynccontextmanager
async def reading(registry: Registry[Any], key: Any) -> AsyncIterator[Reading]:
    """Follow key; after a failure begin again soon."""
    read = Reading()

    async def follow() -> None:
        while True:
            try:
                async for said in registry.follow(key):
                    read.said.append(said)
                    read.away = ""
            except Away as error:
                read.away = str(error)
                read.aways.append(read.away)
            await asyncio.sleep(0.1)

    tasks = Tasks("test")
    tasks.start(follow(), "follow")
    try:
        yield read
    finally:
        await tasks.cancel()
