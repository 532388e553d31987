"""Looking up addresses: what is open ends, in whatever order."""

import asyncio

from discovery.lookup import Lookups
from tests.support import aio


def test_who_lets_go_after_the_end_is_no_trouble() -> None:
    async def locate(address: str, port: int) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        lookups: Lookups[tuple[str]] = Lookups(
            locate, lambda _address, _port: None, lambda _key, _answered: lambda: None
        )
        first, second = (lookups.watch("192.0.2.1", 80, lambda _: None) for _ in range(2))
        first()
        await lookups.close()
        second()
        second()

    aio.run(main())
