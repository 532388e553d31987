"""What a registry says of a service, followed in the background of a test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from discovery.registry import Away, Registry
from meshd.api.endpoints import EndpointSet
from tests.support.waiting import eventually

Said = EndpointSet | None


class Readings:
    """`said` is all that was said so far, in order; `away` why it ended."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.away = ""

    async def until(self, look: Callable[[Said], Any], what: str, deadline_s: float = 60.0) -> Said:
        """The first that was said, of what is said last from now on, for which look is true."""

        def found() -> list[Said]:
            assert not self.away, self.away
            return self.said[-1:] if self.said and look(self.said[-1]) else []

        return (await eventually(found, what, deadline_s))[0]

    async def endpoints(self, *addresses: str) -> EndpointSet:
        """What is said once these are the addresses, in any order."""

        def look(said: Said) -> bool:
            return said is not None and sorted(each.address for each in said.endpoints) == sorted(addresses)

        said = await self.until(look, f"endpoints {addresses}")
        assert said is not None
        return said

    async def ended(self) -> str:
        """Why it went away."""
        return await eventually(lambda: self.away, "the registry is away")


@asynccontextmanager
async def following(registry: Registry[Any], key: Any) -> AsyncIterator[Readings]:
    """A service, until the end or until it is away."""
    readings = Readings()

    async def follow() -> None:
        try:
            async with aclosing(registry.follow(key)) as said:
                async for each in said:
                    readings.said.append(each)
        except Away as error:
            readings.away = str(error)

    task = asyncio.get_running_loop().create_task(follow())
    try:
        yield readings
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
