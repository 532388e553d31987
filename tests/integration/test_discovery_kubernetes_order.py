"""Lists and watches of a cluster's API server that overtake each other: what is newer is believed."""

import asyncio
import copy
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web as http

from discovery.kubernetes.feeds import FEW
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.registry import KubernetesRegistry
from tests.support.following import Readings, following
from tests.support.kubernetes import Cluster
from tests.support.kubernetes.api import Place as ApiPlace
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.kubernetes.core import SERVICES as SERVICES_KIND
from tests.support.kubernetes.core import SLICES as SLICES_KIND
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.stages import SLICES, lists, play, watches
from tests.support.kubernetes.worlds import World
from tests.support.waiting import eventually


class Late:
    """Services of which one is asked for after the watch of many began. Its own list is as it was when it was asked
    for, but comes only when `own` is set; lists of all of them are made only when `all` is."""

    def __init__(self, cluster: Cluster, here: World) -> None:
        self._cluster, self._here = cluster, here
        self.names = [f"s{number}" for number in range(FEW + 1)]
        self.asked, self.own, self.all = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.all.set()

    async def begin(self) -> None:
        for name in (*self.names, "late"):
            await self._here.service(service(name, ("", 80, 8080)))
            await self._here.slice(slice_of(name, f"{name}-0", endpoint("192.0.2.1"), ports={"": 8080}))

    async def hold(self, request: http.Request) -> http.Response | None:
        if request.method != "GET" or not request.path.endswith(SLICES) or request.query.get("watch"):
            return None
        if "late" in request.query.get("labelSelector", ""):
            body = self._cluster.api.list(place(self._here, SLICES_KIND), request.query)
            self.asked.set()
            await self.own.wait()
            return http.json_response(body)
        await self.all.wait()
        return None

    def key(self, name: str) -> ServiceKey:
        return ServiceKey(self._here.namespace, name)

    async def moves(self) -> None:
        """What is `late` is now elsewhere."""
        now = self._cluster.api.get(place(self._here, SLICES_KIND, "late-0"))
        await self._here.set_slice(now | {"endpoints": [endpoint("192.0.2.2")]})


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
def test_a_list_that_comes_late_does_not_undo_a_newer_one(tmp_path: Path, asked: str) -> None:
    """One service is asked for before, or while, all are listed again, and its own list comes after."""

    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        late = Late(cluster, here)
        await late.begin()
        async with AsyncExitStack() as stack:

            async def follow(name: str) -> Readings:
                return await stack.enter_async_context(following(registry, late.key(name)))

            for name in late.names:
                many = await follow(name)
                await many.endpoints("192.0.2.1")
            cluster.interfere = late.hold
            if asked == "before":
                last = await follow("late")
                await late.asked.wait()
                await late.moves()
            late.all.clear()
            count = lists(cluster)
            await here.account("somebody")
            cluster.compact()
            cluster.break_watches()
            await eventually(lambda: lists(cluster) > count + FEW, "all are listed again")
            if asked == "meanwhile":
                last = await follow("late")
                await late.asked.wait()
                await late.moves()
            count = len(watches(cluster))
            late.all.set()
            await eventually(lambda: len(watches(cluster)) > count + FEW, "all are watched again")
            late.own.set()
            await last.endpoints("192.0.2.2")
            await here.slice(slice_of("late", "late-1", endpoint("192.0.2.3"), ports={"": 8080}))
            await last.endpoints("192.0.2.2", "192.0.2.3")
            assert all(
                said is None or "192.0.2.1" not in [each.address for each in said.endpoints] for said in last.said
            )

    play(tmp_path, scene)


async def truth(here: World, name: str) -> set[str]:
    """The addresses that the cluster has for a service."""
    assert here.double is not None
    listed = here.double.api.list(place(here, SLICES_KIND), {"labelSelector": f"kubernetes.io/service-name={name}"})
    return {each["addresses"][0] for slice_ in listed["items"] for each in slice_["endpoints"]}


def place(here: World, kind: Kind, name: str = "") -> ApiPlace:
    return ApiPlace(kind, here.namespace, name)


def test_many_services_of_a_namespace_share_watches_and_miss_nothing(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        draw = random.Random(20261121)
        cluster.bookmark_every_s = 0.2
        names = [f"s{number}" for number in range(30)]
        for name in names:
            cluster.api.create(place(here, SERVICES_KIND), service(name, ("", 80, 8080)), "test")

        def change() -> None:
            name = draw.choice(names)
            slice_name = f"{name}-{draw.randrange(3)}"
            body = slice_of(name, slice_name, endpoint(f"192.0.2.{draw.randrange(1, 255)}"), ports={"": 8080})
            there = cluster.api.store.get(SLICES_KIND.key, (here.namespace, slice_name))
            if there is None:
                cluster.api.create(place(here, SLICES_KIND), body, "test")
            elif draw.random() < 0.3:
                cluster.api.delete(place(here, SLICES_KIND, slice_name), {}, "test")
            else:
                cluster.api.update(place(here, SLICES_KIND, slice_name), body, "test")

        async with AsyncExitStack() as stack:
            read: dict[str, Readings] = {}
            let_go: list[tuple[str, AsyncExitStack]] = []
            for turn in range(400):
                change()
                if turn % 10 == 0 and len(read) < len(names):
                    name = names[len(read)]
                    mine = await stack.enter_async_context(AsyncExitStack())
                    read[name] = await mine.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                    let_go.append((name, mine))
                if turn in (180, 260, 340):  # no more often: a server that always does this is away
                    if turn > 180:
                        cluster.compact()
                    cluster.break_watches()
                if turn % 100 == 99:  # one goes, and its name is asked for anew
                    name, mine = let_go.pop(0)
                    await mine.aclose()
                    read[name] = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                await asyncio.sleep(0.002)
            assert len(read) == len(names)
            for name, readings in read.items():
                wanted = await truth(here, name)
                await readings.endpoints(*wanted)
            assert registry.watches <= 2 * 9
        assert registry.watches == 0

    play(tmp_path, scene)


def test_what_is_watched_while_a_list_is_under_way_is_newer_than_the_list(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        names = [f"s{number}" for number in range(FEW + 2)]
        *others, first_of_many, late = names
        for name in names:
            await here.service(service(name, ("", 80, 8080)))
            await here.slice(slice_of(name, f"{name}-0", endpoint("192.0.2.1"), ports={"": 8080}))
        await here.slice(slice_of(late, f"{late}-1", endpoint("192.0.2.9"), ports={"": 8080}))
        asked, released = asyncio.Event(), asyncio.Event()

        async def delay(request: http.Request) -> http.Response | None:
            """The list is as it was when it was asked for, but comes late."""
            if late not in request.query.get("labelSelector", ""):
                return None
            body = cluster.api.list(place(here, SLICES_KIND), request.query)
            asked.set()
            await released.wait()
            return http.json_response(body)

        async with AsyncExitStack() as stack:
            for name in (*others, first_of_many):
                readings = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                await readings.endpoints("192.0.2.1")
            cluster.interfere = delay
            last = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, late)))
            await asked.wait()
            changed = cluster.api.get(place(here, SLICES_KIND, f"{late}-0")) | {"endpoints": [endpoint("192.0.2.2")]}
            await here.set_slice(changed)
            await here.delete_slice(f"{late}-1")
            await here.slice(slice_of(first_of_many, "more", endpoint("192.0.2.3"), ports={"": 8080}))
            await readings.endpoints("192.0.2.1", "192.0.2.3")  # so the watch has come past all of it
            assert last.said == []
            released.set()
            await last.endpoints("192.0.2.2")
            assert len(last.said) == 1
            moved = copy.deepcopy(cluster.api.get(place(here, SLICES_KIND, f"{late}-0")))
            moved["metadata"]["labels"]["kubernetes.io/service-name"] = first_of_many
            await here.set_slice(moved)
            await last.endpoints()
            await readings.endpoints("192.0.2.1", "192.0.2.2", "192.0.2.3")

    play(tmp_path, scene)
