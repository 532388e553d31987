"""Documents in a place across the network: what is in force while the place changes, goes bad, goes away and comes
back."""

import asyncio
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discovery.chain import Chain, Named
from discovery.declaring import DocumentSource
from discovery.documents import Placed, documents_in
from discovery.keeping import ContentKeeper
from discovery.names import Authority
from discovery.registry import Away
from discovery.remote import MAX_BYTES, MAX_PARTS, RemoteDocuments
from discovery.source import NOT_YET, Answer
from discovery.store import Kind
from meshd.api.endpoints import EndpointSet
from tests.support.aio import run_in_made_up_time as run

NOW = 1.8e9
WEB = b"apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\n"


def service(port: int, name: str = "api") -> bytes:
    return (
        f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{port: 80, endpoints: [{{address: 192.0.2.5, port: {port}}}]}}\n"
    ).encode()


Said = Mapping[str, bytes] | None | Away


class Store:
    """A place that says what it is told to, or is away; what was read of it."""

    place = "store:config/"

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self.kinds = kinds
        self.said: asyncio.Queue[Said] = asyncio.Queue()
        self.reads: list[str] = []
        self.closed = False

    async def follow(self) -> AsyncGenerator[Mapping[str, bytes] | None, None]:
        while True:
            said = await self.said.get()
            if isinstance(said, Away):
                raise said
            yield said

    def read(self, origin: str, content: bytes) -> tuple[Placed, ...]:
        self.reads.append(origin)
        return documents_in(content.decode(), origin)

    async def close(self) -> None:
        self.closed = True


class Followed:
    """Documents of a store, and what a watch of `api` is told."""

    def __init__(self, file: Path | None, kinds: tuple[Kind, ...], scope: str) -> None:
        self.store = Store(kinds)
        self.source = RemoteDocuments(
            self.store, ContentKeeper(file, scope), "mesh.local", clock=lambda: NOW, monotonic=self.ticks
        )
        self.tick_s = 0.0
        self.tick = 0.0
        self.answers: list[Answer] = []
        self.source.watch(Authority.parse("api", "default"), self.answers.append)

    def ticks(self) -> float:
        self.tick += self.tick_s
        return self.tick

    async def hears(self, said: Said) -> None:
        self.store.said.put_nowait(said)
        await self.settled()

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def is_stale(self) -> bool:
        found = self.answers[-1]
        return isinstance(found, EndpointSet) and found.stale

    @property
    def ports(self) -> list[int]:
        found = self.answers[-1]
        assert isinstance(found, EndpointSet)
        return [each.port for each in found.endpoints]

    @property
    def names(self) -> list[str]:
        return [each.metadata.name for each in self.source.documents]


@asynccontextmanager
async def followed(
    file: Path | None = None, kinds: tuple[Kind, ...] = ("Service",), scope: str = "s"
) -> AsyncIterator[Followed]:
    found = Followed(file, kinds, scope)
    found.source.load()
    found.source.start()
    await found.settled()
    try:
        yield found
    finally:
        await found.source.close()
        assert found.store.closed


def test_parts_come_change_and_go() -> None:
    async def main() -> None:
        async with followed() as api:
            assert api.answers == []  # those who ask are told nothing before there is something to say
            await api.hears({"a": service(1), "b": service(2, "db")})
            assert (api.ports, api.names) == ([1], ["api", "db"])
            assert api.source.health().healthy
            await api.hears({"a": service(3), "b": service(2, "db")})
            assert api.ports == [3]
            assert api.store.reads == ["a", "b", "a"]
            await api.hears({"b": service(2, "db")})
            assert api.answers[-1] is None
            await api.hears({})
            assert api.names == []
            assert api.source.health().healthy

    run(main())


def test_a_part_that_turns_bad_keeps_what_was_last_good_of_it() -> None:
    async def main() -> None:
        async with followed() as api:
            await api.hears({"a": service(1)})
            bad = service(1).replace(b"name: api", b'name: api, "\\e[2J": 1')
            await api.hears({"a": bad, "b": service(2, "db")})
            assert (api.ports, api.names) == ([1], ["api", "db"])
            (finding,) = api.source.findings
            assert finding.file == "a"
            assert str(finding) == "a: document 1 (Service api): metadata: unknown field `?[2J`"
            assert not api.source.health().healthy
            await api.hears({"a": service(4), "b": service(2, "db")})
            assert api.ports == [4]
            assert api.source.health().healthy

    run(main())


def test_while_the_place_is_away_all_of_it_stays_marked_stale() -> None:
    async def main() -> None:
        async with followed() as api:
            await api.hears({"a": service(1)})
            await api.hears(Away("nobody answers"))
            assert api.ports == [1]
            assert api.is_stale()
            assert api.source.health().message == "store:config/: cannot be read: nobody answers"
            api.store.said.put_nowait({"a": service(1)})
            await asyncio.sleep(1)
            assert not api.is_stale()
            assert api.source.health().healthy

    run(main())


def test_a_place_that_is_gone_is_doubted_and_an_empty_one_believed() -> None:
    async def main() -> None:
        async with followed() as api:
            await api.hears(None)
            assert api.source.health().healthy  # there never was anything
            assert api.answers == [None]
            await api.hears({"a": service(1)})
            await api.hears(None)
            assert api.ports == [1]
            assert api.source.known().stale
            assert "is gone, after there was something" in api.source.health().message
            await api.hears({})
            assert api.answers[-1] is None
            assert not api.source.known().stale

    run(main())


def test_kinds_that_are_not_asked_for_are_passed_over_and_that_is_said() -> None:
    async def main() -> None:
        both = service(1) + b"---\n" + WEB
        async with followed() as api:
            await api.hears({"a": both})
            assert (api.ports, api.names, api.source.workloads) == ([1], ["api"], ())
            assert api.source.health().healthy
            assert api.source.health().message.endswith("passed over, of kinds that `config.kinds` does not name: 1")
            await api.hears({"a": service(1)})
            assert api.source.health().message == ""
        async with followed(kinds=("Service", "Workload")) as api:
            await api.hears({"a": both})
            assert api.names == ["api", "web"]

    run(main())


def test_nothing_is_said_of_a_place_that_was_never_read() -> None:
    """Those who come after it are asked; but where they know nothing either, nobody is told that there is nothing."""

    async def main() -> None:
        async with followed() as api:
            told: list[EndpointSet | None] = []
            Chain([Named("store", api.source)]).watch(Authority.parse("api", "default"), told.append)
            await api.hears(Away("nobody answers"))
            assert (api.answers, told) == ([NOT_YET], [])
            assert api.source.known().stale

    run(main())


@pytest.mark.parametrize(
    "too_much", [{str(n): b"" for n in range(MAX_PARTS + 1)}, {"a": b" " * MAX_BYTES, "b": b" "}], ids=["many", "large"]
)
def test_what_is_too_much_is_not_read(too_much: dict[str, bytes]) -> None:
    async def main() -> None:
        async with followed() as api:
            await api.hears({"a": service(1)})
            await api.hears(too_much)
            assert api.ports == [1]
            assert "which is no configuration" in api.source.health().message
            assert api.store.reads == ["a"]

    run(main())


# --- what outlasts the process ------------------------------------------------------------------------------------


def test_what_was_last_good_is_known_again_while_the_place_is_away(tmp_path: Path) -> None:
    file = tmp_path / "discovery" / "config.json"

    async def main() -> None:
        async with followed(file) as api:
            await api.hears({"a": service(1), "b": service(2, "db")})
            await api.hears({"a": service(1), "b": b"bad: ["})
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        async with followed(file) as api:
            assert api.ports == [1]  # before anything is heard
            assert api.is_stale()
            assert api.source.known().stale
            await api.hears(Away("nobody answers"))
            assert (api.ports, api.names) == ([1], ["api", "db"])
            api.store.said.put_nowait({"a": service(1), "b": b"bad: ["})
            await asyncio.sleep(1)
            assert api.names == ["api", "db"]
            assert not api.source.known().stale
            assert [each.file for each in api.source.findings] == ["b"]

    run(main())


def test_what_is_kept_is_what_there_was_last(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    async def main() -> None:
        async with followed(file) as api:
            await api.hears({"a": service(1), "b": service(2, "db"), "c": service(3, "cache")})
        async with followed(file) as api:
            await api.hears({"a": service(4), "c": service(3, "cache")})
        async with followed(file) as api:
            assert (api.ports, api.names) == ([4], ["api", "cache"])

    run(main())


def test_what_is_kept_of_another_configuration_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    async def main() -> None:
        async with followed(file) as api:
            await api.hears({"a": service(1)})
        async with followed(file, scope="other") as api:
            assert api.answers == []

    run(main())


@pytest.mark.parametrize("content", ["{", '{"version": 1}', ""])
def test_what_is_kept_and_cannot_be_read_is_passed_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)

    async def main() -> None:
        async with followed(file) as api:
            await api.hears({"a": service(1)})
            assert api.ports == [1]

    run(main())


def test_between_two_readings_that_took_time_to_parse_is_a_rest() -> None:
    async def main() -> None:
        async with followed() as api:
            api.tick_s = 1.0
            await api.hears({"a": service(1)})
            await api.hears({"a": service(2)})
            await asyncio.sleep(3.9)
            assert api.ports == [1]
            await asyncio.sleep(0.2)
            assert api.ports == [2]

    run(main())


def test_a_source_that_is_reloaded_does_not_wait_to_try_again() -> None:
    async def main() -> None:
        async with followed() as api:
            for _ in range(8):
                await api.hears(Away("nobody answers"))
                await asyncio.sleep(20)
            await api.hears(Away("nobody answers"))
            await api.hears({"a": service(1)})
            assert api.answers == [NOT_YET]
            assert isinstance(api.source, DocumentSource)
            api.source.load()
            await api.settled()
            assert api.ports == [1]

    run(main())
