"""What all back ends do alike, with an agent made from settings, and a registry that runs, stops and runs again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from discovery.chain import Chain
from discovery.file import FileSource
from discovery.following import Following
from discovery.names import Authority
from meshd.agent.host import sources
from meshd.agent.settings import Settings
from meshd.api.endpoints import EndpointSet
from tests.support.aio import run
from tests.support.backends import Backend, Kind
from tests.support.waiting import eventually

LONG_S = 60.0
"""A registry may take some seconds until it tells of a change, or is up again."""


class Told:
    """What a watch over the sources of an agent was told."""

    def __init__(self, chain: Chain, authority: str) -> None:
        self.answers: list[EndpointSet | None] = []
        chain.watch(Authority.parse(authority, "default"), self.answers.append)

    @property
    def ports(self) -> set[int] | str:
        if not self.answers:
            return "nothing yet"
        found = self.answers[-1]
        return "none" if found is None else {each.port for each in found.endpoints}

    @property
    def stale(self) -> bool:
        return bool(self.answers) and self.answers[-1] is not None and self.answers[-1].stale

    async def sees(self, *ports: int, stale: bool = False) -> None:
        await eventually(
            lambda: (self.ports, self.stale) == (set(ports), stale), f"{ports} {stale=}, now {self.ports}", LONG_S
        )

    async def is_no_service(self) -> None:
        await eventually(lambda: self.ports == "none", f"no service, now {self.ports}", LONG_S)


@asynccontextmanager
async def following(backend: Backend, directory: Path, **more: Any) -> AsyncIterator[Chain]:
    """The chain of an agent with this back end, its state in directory."""
    settings = msgspec.convert(
        {"trustDomain": "mesh.example", "stateDir": str(directory), "discovery": [backend.settings | more]}, Settings
    )
    (named,) = sources(directory / "meshd.yaml", settings)[1:]
    source = named.source
    assert isinstance(source, FileSource | Following)
    if isinstance(source, FileSource):
        source.load()
    source.start()
    try:
        yield Chain([named])
    finally:
        await source.close()


async def apart(work: Callable[..., None], *arguments: Any) -> None:
    """Do what blocks, and leave the loop to those who follow."""
    await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def test_a_service_is_found_and_followed(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001, 8002)
        async with following(backend, tmp_path) as chain:
            told = Told(chain, backend.authority)
            await told.sees(8001, 8002)
            await apart(backend.serve, 8002, 8003)
            await told.sees(8002, 8003)
            assert Told(chain, backend.authority).ports == {8002, 8003}
            (found,) = told.answers[-1:]
            assert found is not None
            assert str(found.service) == f"web.{backend.namespace}:80"
            assert {each.address for each in found.endpoints} == {backend.address}
            assert {each.identity for each in found.endpoints} == {""}

    run(main(), 3 * LONG_S)


def test_what_there_is_not_is_no_service_until_there_is(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        async with following(backend, tmp_path) as chain:
            web, nobody = Told(chain, backend.authority), Told(chain, "nobody")
            await web.is_no_service()
            await nobody.is_no_service()
            await apart(backend.serve, 8001)
            await web.sees(8001)
            assert nobody.ports == "none"

    run(main(), 3 * LONG_S)


def test_an_endpoint_is_found_by_its_address(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001, 8002)
        async with following(backend, tmp_path) as chain:
            told, other = (Told(chain, f"{backend.address}:{port}") for port in (8002, 8009))
            await told.sees(8002)
            await other.is_no_service()

    run(main(), 3 * LONG_S)


def test_what_was_good_is_served_while_the_registry_is_away(backend: Backend, tmp_path: Path) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001, 8002)
        async with following(backend, tmp_path) as chain:
            told = Told(chain, backend.authority)
            await told.sees(8001, 8002)
            await apart(backend.goes)
            await told.sees(8001, 8002, stale=True)
            (health,), (known,) = chain.health(), chain.known()
            assert (health.healthy, known.stale) == (False, True)
            assert health.message
            await apart(backend.returns)
            await apart(backend.serve, 8002)
            await told.sees(8002)
            assert all(each is not None and each.endpoints for each in told.answers), "never empty"
            await eventually(lambda: chain.health()[0].healthy, "it can be read", LONG_S)

    run(main(), 5 * LONG_S)


def test_that_nothing_is_left_is_doubted_unless_it_is_at_hand(backend: Backend, kind: Kind, tmp_path: Path) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001)
        async with following(backend, tmp_path) as chain:
            told = Told(chain, backend.authority)
            await told.sees(8001)
            await apart(backend.serve)
            if kind.doubts:
                await told.sees(8001, stale=True)
            else:
                await told.sees()
            await apart(backend.serve, 8002)
            await told.sees(8002)

    run(main(), 3 * LONG_S)


def test_that_nothing_is_left_is_believed_after_the_time_that_is_set(
    backend: Backend, kind: Kind, tmp_path: Path
) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001)
        async with following(backend, tmp_path, keep="2s") as chain:
            told = Told(chain, backend.authority)
            await told.sees(8001)
            await apart(backend.serve)
            await eventually(lambda: told.ports in (set(), "none"), f"nothing, now {told.ports}", LONG_S)
            if kind.doubts:
                assert any(each is not None and each.stale for each in told.answers)

    run(main(), 3 * LONG_S)


def test_what_was_good_is_known_to_an_agent_that_starts_while_the_registry_is_away(
    backend: Backend, kind: Kind, tmp_path: Path
) -> None:
    async def main() -> None:
        await apart(backend.serve, 8001, 8002)
        async with following(backend, tmp_path) as chain:
            await Told(chain, backend.authority).sees(8001, 8002)
        await apart(backend.goes)
        async with following(backend, tmp_path) as chain:
            told = Told(chain, backend.authority)
            if kind.doubts:
                await told.sees(8001, 8002, stale=True)
            else:
                await told.is_no_service()  # what is at hand is not kept elsewhere
            await apart(backend.returns)
            await told.sees(8001, 8002)

    run(main(), 5 * LONG_S)
