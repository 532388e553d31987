"""A registry that says what the test has it say, as one across the network would: later, or not at all."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from discovery.names import Authority, mesh_name
from discovery.registry import Away, Located
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName


class Key(NamedTuple):
    name: str
    namespace: str


def serving(name: str, *hosts: int, port: int = 8080) -> EndpointSet:
    """The service NAME.default:80 with endpoints at 192.0.2.HOST."""
    return EndpointSet(ServiceName(name, "default", 80), tuple(Endpoint(f"192.0.2.{host}", port) for host in hosts))


class Scripted:
    """Knows `says` by name. `down` is why it cannot be read, if it cannot; `change` lets those who follow know."""

    name = "scripted"
    key = Key

    def __init__(self, **says: EndpointSet) -> None:
        self.says: dict[str, EndpointSet | None] = dict(says)
        self.virtual: dict[tuple[str, int], str] = {}
        self.down = ""
        self.begun: list[str] = []
        self.open: set[str] = set()
        self.located = self.probed = 0
        self.closed = False
        self._changed = asyncio.Event()

    def change(self, **says: EndpointSet | None) -> None:
        self.says |= says
        self._changed.set()
        self._changed = asyncio.Event()

    def goes(self, down: str) -> None:
        self.down = down
        self.change()

    def claim(self, authority: Authority) -> Key | None:
        name = mesh_name(authority)
        return None if name is None else Key(*name)

    async def locate(self, address: str, port: int) -> Located[Key] | None:
        self.located += 1
        await asyncio.sleep(0.01)
        self._check()
        if (whole := self.virtual.get((address, port))) is not None:
            return Located(Key(whole, "default"), whole=True)
        for name, said in self.says.items():
            if said is not None and any((each.address, each.port) == (address, port) for each in said.endpoints):
                return Located(Key(name, "default"))
        return None

    async def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
        self.begun.append(key.name)
        assert key.name not in self.open, "followed twice at a time"
        self.open.add(key.name)
        try:
            while True:
                changed = self._changed
                await asyncio.sleep(0.01)
                self._check()
                yield self.says.get(key.name)
                await changed.wait()
        finally:
            self.open.discard(key.name)

    async def probe(self) -> None:
        self.probed += 1
        await asyncio.sleep(0.01)
        self._check()

    async def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.down:
            raise Away(self.down)
