"""What is seen of services: by a look, what each source says of one, of which nothing is left; and what all know.

All of it in made-up time.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from discovery.chain import Chain, Named
from discovery.following import IDLE_S, Following
from discovery.keeping import Keeper
from discovery.names import Authority
from discovery.registry import Denied
from discovery.rules import Rule
from discovery.source import NOT_YET, Answer, Answered, Close, Known, Listed
from meshd.agent.looks import MAX_SHOWN, MOST_S, look
from meshd.agent.services import build_services, source_statuses, stale_services
from meshd.api.control import Endpoints, Health
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.frames import MAX_LINE_BYTES
from tests.support.aio import run_in_made_up_time
from tests.support.registries import Key, Scripted, serving

ONE, TWO = serving("web", 1), serving("web", 1, 2)


class AtOnce:
    """A source that has its answer at hand; or none for now."""

    def __init__(self, answer: Answer, known: Known | None = None) -> None:
        self._answer, self._known = answer, known or Known(5e8)
        self.open = 0

    def watch(self, authority: Authority, answered: Answered) -> Close:
        self.open += 1
        if self._answer is not NOT_YET:
            answered(self._answer)

        def close() -> None:
            self.open -= 1

        return close

    def health(self) -> Health:
        return Health("file /x", healthy=False, message="it does not exist", since=7e8)

    def known(self) -> Known:
        return self._known

    def listed(self) -> Iterator[Listed]:
        return iter(())


class World:
    """A chain of a source at hand and a registry that is followed."""

    def __init__(
        self, registry: Scripted, file: Path | None = None, first: AtOnce | None = None, most: int = 9
    ) -> None:
        self.registry, self.first = registry, first or AtOnce(None)
        loop = asyncio.get_running_loop()
        self.source = Following(
            registry,
            Keeper(file, "here"),
            keep_s=float("inf"),
            max_services=most,
            clock=lambda: 1e9 + loop.time(),
        )
        self.chain = Chain((Named("file", self.first), Named("scripted", self.source)))

    def watch(self, text: str = "web") -> Close:
        return self.chain.watch(Authority.parse(text, "default"), lambda _: None)

    async def look(self, text: str = "web", within_s: float = 3.0) -> Endpoints:
        return await look(self.chain, Authority.parse(text, "default"), within_s)


@asynccontextmanager
async def world(
    registry: Scripted, file: Path | None = None, first: AtOnce | None = None, most: int = 9
) -> AsyncIterator[World]:
    made = World(registry, file, first, most)
    made.source.start()
    try:
        await asyncio.sleep(1.0)
        yield made
    finally:
        await made.source.close()
        assert not registry.open


def played(play: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def work() -> None:
            await play()

        run_in_made_up_time(work())

    test.__name__ = test.__qualname__ = play.__name__
    return test


def told(said: Endpoints) -> list[tuple[str, str, int]]:
    """Of each source its name, whether it knows the service, and how many endpoints."""
    return [
        (each.source, each.standing, 0 if each.found is None else len(each.found.endpoints)) for each in said.sources
    ]


@played
async def test_every_source_says_what_it_knows_and_nothing_is_followed_afterwards() -> None:
    async with world(Scripted(web=TWO)) as made:
        said = await made.look()
        assert said.standing == "known"
        assert said.found is not None
        assert [each.address for each in said.found.endpoints] == ["192.0.2.1", "192.0.2.2"]
        assert told(said) == [("file", "unknown", 0), ("scripted", "known", 2)]
        _, scripted = said.sources
        assert 1e9 < scripted.read_at == scripted.changed_at < 1e9 + 2
        assert (scripted.stale_since, scripted.trouble) == (0.0, "")
        await asyncio.sleep(0)
        assert (made.registry.begun, made.registry.open) == (["web"], set())
        assert (list(made.source.services), made.first.open) == ([], 0)


@played
async def test_what_somebody_watches_is_followed_on_and_asked_once() -> None:
    async with world(Scripted(web=ONE)) as made:
        close = made.watch()
        await asyncio.sleep(1.0)
        assert (await made.look()).standing == "known"
        close()
        assert (await made.look()).standing == "known"
        assert made.registry.open == {"web"}, "it is followed for a time after the last who watched"
        await asyncio.sleep(IDLE_S + 1.0)
        assert (made.registry.begun, made.registry.open) == (["web"], set())


@played
async def test_who_begins_to_watch_during_a_look_goes_on() -> None:
    async with world(Scripted(web=ONE)) as made:
        looking = made.chain.look(Authority.parse("web", "default"), lambda: None)
        made.watch()
        looking.close()
        await asyncio.sleep(2 * IDLE_S)
        assert (made.registry.begun, made.registry.open) == (["web"], {"web"})


@played
async def test_a_registry_that_is_away_says_so_and_one_that_hangs_is_waited_for_no_longer_than_was_asked() -> None:
    async with world(Scripted(), first=AtOnce(NOT_YET)) as made:
        before = asyncio.get_running_loop().time()
        made.registry.down = "connection refused"
        said = await made.look(within_s=2.0)
        file, scripted = said.sources
        assert (said.standing, said.found) == ("cannot say", None)
        assert (file.standing, file.trouble) == ("cannot say", "it did not answer within 2 s")
        assert (scripted.standing, scripted.trouble) == ("cannot say", "connection refused")
        assert asyncio.get_running_loop().time() - before == pytest.approx(2.0)
        await made.look(within_s=1e9)
        assert asyncio.get_running_loop().time() - before == pytest.approx(2.0 + MOST_S)


@played
async def test_what_is_stale_says_since_when_and_why() -> None:
    async with world(Scripted(web=TWO)) as made:
        made.watch()
        await asyncio.sleep(1.0)
        made.registry.goes("connection refused")
        await asyncio.sleep(100.0)
        _, scripted = (await made.look()).sources
        assert scripted.found is not None
        assert scripted.found.stale
        assert scripted.trouble == "connection refused"
        assert 1e9 + 1.9 < scripted.stale_since < 1e9 + 3.0
        assert scripted.read_at < scripted.stale_since
        made.registry.down = ""
        made.registry.change(web=serving("web"))
        await asyncio.sleep(30.0)
        _, scripted = (await made.look()).sources
        assert scripted.trouble == "it says that nothing is left"
        assert (told(await made.look())[1]) == ("scripted", "known", 2)


def test_what_is_recalled_is_not_shown_as_stale_where_the_registry_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        file = tmp_path / "x" / "kept.json"
        async with world(Scripted(web=ONE), file) as made:
            made.watch()
            await asyncio.sleep(10.0)
        async with world(Scripted(web=ONE), file) as made:
            _, scripted = (await made.look()).sources
            assert (scripted.standing, scripted.stale_since, scripted.trouble) == ("known", 0.0, "")
        away = Scripted(web=ONE)
        away.down = "connection refused"
        async with world(away, file) as made:
            for text in ("web", "192.0.2.1:8080"):
                _, scripted = (await made.look(text)).sources
                assert (scripted.standing, scripted.trouble) == (
                    ("known", "connection refused") if text == "web" else ("cannot say", "connection refused")
                )

    run_in_made_up_time(work())


@played
async def test_files_that_are_gone_are_stale_since_then() -> None:
    first = AtOnce(ONE, Known(5e8, stale=True))
    async with world(Scripted(), first=first) as made:
        file, _ = (await made.look()).sources
        assert (file.read_at, file.stale_since, file.trouble) == (5e8, 7e8, "it does not exist")


@played
async def test_an_address_leads_to_the_one_endpoint_there_and_nothing_is_left_of_the_look() -> None:
    async with world(Scripted(web=TWO)) as made:
        made.registry.virtual["10.0.0.1", 80] = "web"
        said = await made.look("192.0.2.2:8080")
        assert told(said)[1] == ("scripted", "known", 1)
        assert said.sources[1].read_at > 1e9
        assert told(await made.look("10.0.0.1"))[1] == ("scripted", "known", 2)
        assert told(await made.look("192.0.2.9:8080"))[1] == ("scripted", "unknown", 0)
        made.registry.down = "connection refused"
        _, away = (await made.look("192.0.2.2:8080")).sources
        assert (away.standing, away.trouble) == ("cannot say", "connection refused")
        await asyncio.sleep(0)
        assert (list(made.source.services), made.registry.open) == ([], set())


@played
async def test_who_looks_takes_no_place_that_watchers_need() -> None:
    async with world(Scripted(a=serving("a", 1), web=ONE), most=1) as made:
        close = made.watch("a")
        close()
        await asyncio.sleep(1.0)
        _, scripted = (await made.look()).sources
        assert scripted.trouble == "1 services are followed already, which is the most"
        assert [each.key.name for each in made.source.services] == ["a"]


@played
async def test_a_form_that_is_no_registrys_is_unknown() -> None:
    async with world(Scripted(web=ONE)) as made:
        assert (await made.look("www.example.com")).standing == "unknown"


@played
async def test_documents_decide_who_is_asked_and_how_it_is_treated() -> None:
    async with world(Scripted(web=TWO), first=AtOnce(serving("web", 2, 3))) as made:
        made.chain.use({("web", "default"): Rule(merge=True)})
        said = await made.look()
        assert said.found is not None
        assert [each.address for each in said.found.endpoints] == ["192.0.2.2", "192.0.2.3", "192.0.2.1"]
        made.chain.use({("web", "default"): Rule(order=("scripted",))})
        assert told(await made.look()) == [("scripted", "known", 2)]


@played
async def test_an_answer_has_so_many_endpoints_and_says_how_many_more_there_are() -> None:
    many = EndpointSet(
        ServiceName("web", "default", 80), tuple(Endpoint("192.0.2.1", port) for port in range(1, MAX_SHOWN + 101))
    )
    async with world(Scripted(web=TWO), first=AtOnce(many)) as made:
        said = await made.look()
        assert said.found is not None
        assert (len(said.found.endpoints), said.left_off) == (MAX_SHOWN, 100)
        assert told(said) == [("file", "known", MAX_SHOWN), ("scripted", "known", 0)]
        assert [each.left_off for each in said.sources] == [100, 2]


@played
async def test_long_labels_leave_off_more() -> None:
    labels = {"said": "x" * 4000}
    many = EndpointSet(
        ServiceName("web", "default", 80),
        tuple(Endpoint("192.0.2.1", port, labels=labels) for port in range(1, 2001)),
    )
    async with world(Scripted(), first=AtOnce(many)) as made:
        said = await made.look()
        assert said.found is not None
        assert 1000 < len(said.found.endpoints) == 2000 - said.left_off < 2000
        assert len(msgspec.json.encode(said)) < MAX_LINE_BYTES


# --- what is known without asking


@played
async def test_what_is_asked_for_is_listed_with_those_who_ask() -> None:
    async with world(Scripted(web=TWO)) as made:
        made.watch()
        made.watch("web.default.svc")
        close = made.watch("nobody")
        await asyncio.sleep(1.0)
        services = {each.name: each for each in build_services(made.chain).services}
        assert services.keys() == {"web", "nobody/default"}
        web, nobody = services["web"], services["nobody/default"]
        assert (web.source, web.standing, web.port, web.endpoints, web.meshed) == ("scripted", "known", 80, 2, 0)
        assert (web.watchers, nobody.watchers, nobody.standing) == (2, 1, "unknown")
        assert web.read_at == web.changed_at > 1e9
        assert stale_services(made.chain) == ()
        close()
        _, known = made.chain.known()
        assert (known.services, known.stale_services, known.updates, known.denied) == (2, 0, 1, False)
        assert known.oldest_read_at == min(web.read_at, nobody.read_at)

        made.registry.goes("connection refused")
        await asyncio.sleep(1.0)
        made.watch("api")
        await asyncio.sleep(1.0)
        assert [(each.name, each.standing, each.trouble) for each in stale_services(made.chain)] == [
            ("web", "known", "connection refused"),
            ("api/default", "cannot say", "connection refused"),
        ]
        _, known = made.chain.known()
        assert (known.services, known.stale_services, known.updates) == (3, 1, 1)
        _, scripted = source_statuses(made.chain)
        assert (scripted.source, scripted.stale, scripted.denied) == ("scripted", True, False)


@played
async def test_that_nothing_is_left_is_stale_and_what_never_was_is_not() -> None:
    async with world(Scripted(web=TWO)) as made:
        made.watch()
        made.watch("nobody")
        await asyncio.sleep(1.0)
        made.registry.change(web=serving("web"))
        await asyncio.sleep(1.0)
        (web,) = stale_services(made.chain)
        assert (web.name, web.endpoints, web.trouble) == ("web", 2, "it says that nothing is left")
        _, known = made.chain.known()
        assert (known.stale, known.stale_services) == (False, 1)


@played
async def test_a_registry_that_does_not_let_the_agent_in_says_so() -> None:
    class Locked(Scripted):
        async def probe(self) -> None:
            raise Denied("403")

        async def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
            for refused in (Denied("403: no service:read"),):
                raise refused
            yield None

    async with world(Locked()) as made:
        made.watch()
        await asyncio.sleep(1.0)
        _, known = made.chain.known()
        assert known.denied
        (web,) = stale_services(made.chain)
        assert web.trouble == "403: no service:read"
    async with world(Scripted(web=ONE)) as made:
        made.registry.down = "connection refused"
        await asyncio.sleep(20.0)
        _, known = made.chain.known()
        assert (known.stale, known.denied) == (True, False)
