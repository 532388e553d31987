"""A registry as a source of services: who is followed and for how long, what outlasts failures, what is at an address.

All of it in made-up time.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from discovery.chain import Chain, Named
from discovery.following import AWAY_TRIES_PER_S, IDLE_S, MOST_SAVED_S, PROBE_S, SAVE_S, SOON_S, Following
from discovery.keeping import Keeper
from discovery.lookup import AGAIN_S, AWAY_S
from discovery.names import Authority
from discovery.source import NOT_YET, Answer, Close
from meshd.api.endpoints import EndpointSet
from tests.support.aio import run_in_made_up_time
from tests.support.registries import Key, Scripted, serving

ONE, TWO = serving("web", 1), serving("web", 1, 2)


class Told(list[Answer]):
    """What a watch was told."""

    @property
    def last(self) -> str:
        answer = self[-1] if self else "nothing"
        if not isinstance(answer, EndpointSet):
            return str(answer)
        return f"{answer.service.name} {len(answer.endpoints)}{'!' if answer.stale else ''}"


class World:
    """A registry that is followed. Clock and timers are the loop's."""

    def __init__(self, file: Path | None, scope: str, registry: Scripted, **bounds: Any) -> None:
        self.registry = registry
        loop = asyncio.get_running_loop()
        bounds = {"keep_s": float("inf")} | bounds
        self.source = Following(registry, Keeper(file, scope), clock=lambda: 1e9 + loop.time(), **bounds)

    def watch(self, text: str = "web") -> tuple[Told, Close]:
        told = Told()
        return told, self.source.watch(Authority.parse(text, "default"), told.append)


@asynccontextmanager
async def world(
    registry: Scripted, file: Path | None = None, scope: str = "here", **bounds: Any
) -> AsyncIterator[World]:
    made = World(file, scope, registry, **bounds)
    made.source.start()
    try:
        await asyncio.sleep(1.0)
        yield made
    finally:
        await made.source.close()
        assert registry.closed
        assert not registry.open


def played(play: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def test(tmp_path: Path) -> None:
        async def work() -> None:
            await (play(tmp_path) if inspect.signature(play).parameters else play())

        run_in_made_up_time(work())

    test.__name__ = test.__qualname__ = play.__name__
    return test


@played
async def test_a_service_is_followed_once_however_many_ask() -> None:
    async with world(Scripted(web=ONE)) as made:
        first, _close = made.watch("web")
        second, _close = made.watch("web.default.svc")
        assert first == []
        await asyncio.sleep(1.0)
        late, _close = made.watch("web.mesh")
        assert (first.last, second.last, late.last) == ("web 1",) * 3
        made.registry.change(web=TWO)
        await asyncio.sleep(1.0)
        assert (first.last, second.last, late.last) == ("web 2",) * 3
        assert [len(each) for each in (first, second, late)] == [2, 2, 2]
        assert made.registry.begun == ["web"]


@played
async def test_a_service_that_nobody_asks_for_is_followed_no_longer() -> None:
    async with world(Scripted(web=ONE)) as made:
        _told, close = made.watch()
        await asyncio.sleep(1.0)
        close()
        await asyncio.sleep(IDLE_S - 1.0)
        assert made.registry.open == {"web"}
        again, close = made.watch()
        assert again.last == "web 1"
        await asyncio.sleep(2 * IDLE_S)
        assert made.registry.open == {"web"}
        close()
        close()
        await asyncio.sleep(IDLE_S + 1.0)
        assert made.registry.open == set()
        made.registry.down = "gone"
        told, _close = made.watch()
        assert told.last == "web 1!", "what was known then is still the best that is known"


@played
async def test_no_more_services_are_followed_than_there_is_room_for() -> None:
    async with world(Scripted(a=serving("a", 1), b=serving("b", 2), c=serving("c", 3)), max_services=2) as made:
        _told, close = made.watch("a")
        made.watch("b")
        third, _close = made.watch("c")
        await asyncio.sleep(1.0)
        assert third == [NOT_YET]
        close()
        third, _close = made.watch("c")
        await asyncio.sleep(1.0)
        assert third.last == "c 1", "one that nobody asks for makes room"
        assert made.registry.open == {"b", "c"}


@played
async def test_a_name_of_another_form_is_no_service_of_it() -> None:
    async with world(Scripted()) as made:
        told, close = made.watch("www.example.com")
        close()
        assert told == [None]
        assert made.registry.begun == []


@played
async def test_what_was_good_is_served_while_the_registry_is_away() -> None:
    async with world(Scripted(web=TWO)) as made:
        told, _close = made.watch()
        await asyncio.sleep(1.0)
        assert made.source.health().healthy
        made.registry.goes("no route to host")
        await asyncio.sleep(1.0)
        assert told.last == "web 2!"
        assert not made.source.health().healthy
        assert "no route to host" in made.source.health().message
        assert made.source.known().stale
        unknown, _close = made.watch("api")
        await asyncio.sleep(300.0)
        assert unknown == [NOT_YET]
        made.registry.down = ""
        made.registry.change(web=ONE, api=serving("api", 7))
        await asyncio.sleep(20.0)
        assert (told.last, unknown.last) == ("web 1", "api 1")
        assert made.source.health().healthy
        assert made.source.health().message == ""
        assert not made.source.known().stale


@played
async def test_one_service_that_cannot_be_read_is_seen_and_does_not_hold_others() -> None:
    class Half(Scripted):
        async def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
            if key.name == "bad":
                raise KeyError(key.name)  # what nobody thought of
            async with aclosing(super().follow(key)) as readings:
                async for said in readings:
                    yield said

    async with world(Half(web=ONE)) as made:
        bad, _close = made.watch("bad")
        told, _close = made.watch()
        await asyncio.sleep(5.0)
        assert bad == [NOT_YET]
        assert told.last == "web 1"


@played
async def test_that_nothing_is_left_is_not_believed_for_as_long_as_is_set() -> None:
    async with world(Scripted(web=TWO), keep_s=600.0) as made:
        told, _close = made.watch()
        await asyncio.sleep(1.0)
        made.registry.change(web=serving("web"))
        await asyncio.sleep(599.0)
        assert told.last == "web 2!"
        await asyncio.sleep(3.0)
        assert told.last == "web 0"


@played
async def test_a_registry_is_looked_for_when_nothing_is_asked_of_it() -> None:
    async with world(Scripted()) as made:
        assert made.source.health().healthy
        made.registry.goes("refused")
        await asyncio.sleep(30.0)
        assert not made.source.health().healthy
        since = made.source.health().since
        await asyncio.sleep(60.0)
        assert made.source.health().since == since
        made.registry.goes("")
        await asyncio.sleep(30.0)
        assert made.source.health().healthy
        assert made.registry.probed < 40


@played
async def test_too_many_endpoints_are_not_believed() -> None:
    async with world(Scripted(web=ONE)) as made:
        told, _close = made.watch()
        await asyncio.sleep(1.0)
        many = serving("web", 1)
        made.registry.change(web=EndpointSet(many.service, many.endpoints * 20_001))
        await asyncio.sleep(1.0)
        assert told.last == "web 1!"
        assert "20001 endpoints" in made.source.health().message


@played
async def test_while_a_registry_is_away_many_services_are_not_tried_all_the_time_and_back_at_once() -> None:
    names = [f"s{number}" for number in range(1200)]
    registry = Scripted(**{name: serving(name, 1) for name in names})
    registry.down = "refused"
    async with world(registry) as made:
        told = [made.watch(name)[0] for name in names]
        await asyncio.sleep(90.0)
        tried, before = len(registry.begun), asyncio.get_running_loop().time()
        await asyncio.sleep(60.0)
        passed_s = asyncio.get_running_loop().time() - before
        assert 0 < len(registry.begun) - tried <= 1.5 * AWAY_TRIES_PER_S * passed_s
        registry.goes("")
        await asyncio.sleep(PROBE_S + 2.0)
        assert [each.last for each in told] == [f"{name} 1" for name in names]


# --- what outlasts the process


@played
async def test_what_was_good_is_known_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "discovery" / "scripted.json"

    def endpoints() -> dict[str, int]:
        return {key.name: len(kept.good.endpoints) for key, kept in Keeper(file, "here").load(Key, 1e9).items()}

    async with world(Scripted(web=TWO, api=serving("api", 3)), file) as made:
        made.watch()
        made.watch("api")
        await asyncio.sleep(1.0)
        assert endpoints() == {"web": 2, "api": 1}, "an agent that is killed now knows it"
        assert file.stat().st_mode & 0o777 == 0o600
        made.registry.change(web=ONE)
        await asyncio.sleep(SAVE_S)
        assert endpoints() == {"web": 1, "api": 1}
        made.registry.change(web=TWO)
        made.registry.change(web=ONE, api=TWO)
        await asyncio.sleep(SOON_S / 2)
        assert endpoints() == {"web": 1, "api": 1}, "several changes are written as one"
    assert endpoints() == {"web": 1, "api": 2}, "what is not written yet, is at the end"
    away = Scripted()
    away.down = "refused"
    async with world(away, file) as made:
        web, _close = made.watch()
        assert web.last == "web 1!", "at once"
        other, _close = made.watch("other")
        await asyncio.sleep(60.0)
        assert other == [NOT_YET]
        assert web.last == "web 1!"
    async with world(Scripted(web=TWO), file) as made:
        web, _close = made.watch()
        await asyncio.sleep(1.0)
        assert [Told([each]).last for each in web] == ["web 1!", "web 2"]


@played
async def test_what_is_kept_is_as_old_as_its_last_confirmation(tmp_path: Path) -> None:
    """A service that never changes is known after a restart, whether or not there was time for an orderly end."""
    file, steady = tmp_path / "scripted.json", Scripted(web=TWO)

    def age_s() -> float:
        now = 1e9 + asyncio.get_running_loop().time()
        return now - Keeper(file, "here").load(Key, now)[Key("web", "default")].read_at

    async with world(steady, file) as made:
        made.watch()
        for _ in range(2):
            await asyncio.sleep(MOST_SAVED_S)
            steady.change(web=TWO)  # it is read, and nothing is new
            await asyncio.sleep(60.0)
            assert age_s() <= 61.0
        await asyncio.sleep(600.0)
        steady.change(web=TWO)
        await asyncio.sleep(1.0)
        assert age_s() > 600.0, "it is not written whenever it is read"
    assert age_s() <= 2.0, "but at the end"


@played
async def test_a_restart_does_not_lengthen_how_long_what_is_not_confirmed_is_served(tmp_path: Path) -> None:
    file, away = tmp_path / "scripted.json", Scripted()
    away.down = "refused"
    async with world(Scripted(web=TWO), file, keep_s=100.0) as made:
        made.watch()
        await asyncio.sleep(1.0)
    for said in ["web 2!", "web 0!"]:
        async with world(away, file, keep_s=100.0) as made:
            web, _close = made.watch()
            assert web.last == said
            await asyncio.sleep(100.0)


@played
async def test_what_another_registry_said_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "scripted.json"
    async with world(Scripted(web=TWO), file) as made:
        made.watch()
        await asyncio.sleep(1.0)
    async with world(Scripted(), file, scope="elsewhere") as made:
        web, _close = made.watch()
        await asyncio.sleep(1.0)
        assert web == [None]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"version":1}', b'{"version":1,"scope":"here","services":[[["web"],{},1]]}', b"\xff", b"[" * 5000],
)
def test_a_file_that_is_no_good_is_passed_over(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "scripted.json"
    file.write_bytes(content)
    assert Keeper(file, "here").load(Key, 1e9) == {}
    assert "what was known before is not known" in caplog.text


# --- addresses


@played
async def test_an_address_leads_to_its_one_endpoint() -> None:
    async with world(Scripted(web=TWO)) as made:
        told, close = made.watch("192.0.2.2:8080")
        other, _close = made.watch("192.0.2.2:9090")
        await asyncio.sleep(1.0)
        (answer,) = told
        assert isinstance(answer, EndpointSet)
        assert [each.address for each in answer.endpoints] == ["192.0.2.2"]
        assert other == [None]
        again, _close = made.watch("192.0.2.1:8080")
        await asyncio.sleep(1.0)
        assert again.last == "web 1"
        assert made.registry.located == 2, "what is followed anyway is not asked for"
        close()
        await asyncio.sleep(IDLE_S + 1.0)
        assert made.registry.open == {"web"}, "the other address is of the same service"


@played
async def test_a_virtual_address_leads_to_the_whole_service() -> None:
    registry = Scripted(web=TWO)
    registry.virtual["203.0.113.1", 80] = "web"
    async with world(registry) as made:
        told, _close = made.watch("203.0.113.1")
        await asyncio.sleep(1.0)
        assert told.last == "web 2"


@played
async def test_an_endpoint_that_its_service_lost_is_not_one_outside_the_mesh() -> None:
    async with world(Scripted(web=TWO)) as made:
        told, _close = made.watch("192.0.2.2:8080")
        await asyncio.sleep(1.0)
        made.registry.change(web=ONE)
        await asyncio.sleep(1.0)
        assert told.last == "web 0"
        made.registry.change(api=serving("api", 2))
        await asyncio.sleep(2 * AGAIN_S)
        assert told.last == "api 1", "the address is another's now"
        made.registry.change(api=serving("api", 9), web=ONE)
        await asyncio.sleep(3 * AGAIN_S)
        assert told.last == "None"


@played
async def test_of_an_address_nothing_is_said_while_the_registry_is_away() -> None:
    registry = Scripted(web=ONE)
    registry.down = "refused"
    async with world(registry) as made:
        told, _close = made.watch("192.0.2.1:8080")
        await asyncio.sleep(60.0)
        assert told == [NOT_YET]
        registry.goes("")
        await asyncio.sleep(AWAY_S + 1.0)
        assert told.last == "web 1"
        registry.goes("refused")
        await asyncio.sleep(60.0)
        assert told.last == "web 1!"


# --- in a chain


@played
async def test_a_registry_that_is_away_does_not_hide_what_others_know() -> None:
    registry, second = Scripted(), Scripted(web=ONE)
    registry.down = "refused"
    async with world(registry) as first, world(second) as other:
        chain = Chain((Named("first", first.source), Named("second", other.source)))
        web, api = Told(), Told()
        chain.watch(Authority.parse("web", "default"), web.append)
        close = chain.watch(Authority.parse("api", "default"), api.append)
        await asyncio.sleep(5.0)
        assert web.last == "web 1"
        assert api == [], "one cannot say, so that none knows it is not known"
        registry.goes("")
        await asyncio.sleep(20.0)
        assert api == [None]
        close()
