"""How documents have traffic shared: weights, zones, slow start; requests by load and opaque bytes by connections.

The applications hold what they are asked, so that the load of each is what it was given, and chance decides of ties
alone.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from meshd.api.documents import Upstream
from proxy.static import StaticResolver
from tests.support.aio import run
from tests.support.certificates import Root, identity
from tests.support.http import Origin, Request, ask, origin
from tests.support.meshes import Node, declared, running
from tests.support.ports import free_port
from tests.support.waiting import eventually


class Held:
    """Two applications of HTTP that answer when `release` is called."""

    def __init__(self, one: Origin, other: Origin, let: asyncio.Event) -> None:
        self.one, self.other = one, other
        self._let = let

    def release(self) -> None:
        self._let.set()

    @property
    def counts(self) -> tuple[int, int]:
        """How many requests each was asked."""
        return len(self.one.requests), len(self.other.requests)


@asynccontextmanager
async def applications() -> AsyncIterator[Held]:
    let = asyncio.Event()

    async def answer(request: Request) -> bytes:
        await let.wait()
        return b""

    async with origin(answer) as one, origin(answer) as other:
        yield Held(one, other, let)


def written(*endpoints: str) -> str:
    return "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api}\nspec:\n  port: 80\n  endpoints:\n" + "".join(
        f"  - {{address: 127.0.0.1, {endpoint}}}\n" for endpoint in endpoints
    )


def calling(directory: Path, text: str, zone: str = "") -> tuple[Node, int]:
    """A proxy that knows the service of that document, and its upstream's port."""
    listen, root = free_port(), Root()
    upstreams = (Upstream("api", f"127.0.0.1:{listen}"),)
    resolver = StaticResolver(declared(text, directory))
    return Node("web", root, root.held(identity("web")), (), upstreams, resolver, zone=zone), listen


async def asked(port: int, count: int, held: Held) -> tuple[int, int]:
    """How so many requests, all under way at once, were shared."""
    before = held.counts
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(ask(port))
        await eventually(lambda: sum(held.counts) - sum(before) == count, "all are under way")
        after = held.counts
        held.release()
    return after[0] - before[0], after[1] - before[1]


def test_weights_are_shares_of_the_requests(tmp_path: Path) -> None:
    async def conversation() -> None:
        async with applications() as held:
            text = written(f"port: {held.one.port}, weight: 1", f"port: {held.other.port}, weight: 9")
            node, listen = calling(tmp_path, text)
            async with running(node):
                light, heavy = await asked(listen, 50, held)
                assert 3 <= light <= 7, (light, heavy)

    run(conversation())


def test_another_zone_is_asked_when_nobody_in_ones_own_can_be(tmp_path: Path) -> None:
    async def conversation() -> None:
        async with applications() as held:
            text = written(f"port: {held.one.port}, zone: a", f"port: {held.other.port}, zone: b, weight: 100")
            node, listen = calling(tmp_path, text, zone="a")
            async with running(node):
                assert await asked(listen, 20, held) == (20, 0)
                await held.one.stop()
                assert await asked(listen, 20, held) == (0, 20)

    run(conversation())


def test_an_endpoint_that_joins_gets_little_at_first(tmp_path: Path) -> None:
    async def conversation() -> None:
        async with applications() as held:
            old = f"port: {held.one.port}"
            node, listen = calling(tmp_path, written(old))
            async with running(node):
                node.resolver.replace(declared(written(old, f"port: {held.other.port}"), tmp_path))
                before, joined = await asked(listen, 200, held)
                assert 2 <= joined < before, (before, joined)

    run(conversation())


def test_opaque_connections_go_where_the_fewest_are(tmp_path: Path) -> None:
    counts = [0, 0]

    def application(which: int) -> asyncio.Protocol:
        counts[which] += 1
        return asyncio.Protocol()

    async def conversation() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            servers = [await loop.create_server(partial(application, which), "127.0.0.1", 0)
                       for which in (0, 1)]  # fmt: skip
            for server in servers:
                await stack.enter_async_context(server)
            one, other = (server.sockets[0].getsockname()[1] for server in servers)
            text = written(f"port: {one}, weight: 1", f"port: {other}, weight: 3") + "  protocol: tcp\n"
            node, listen = calling(tmp_path, text)
            await stack.enter_async_context(running(node))
            writers = [(await asyncio.open_connection("127.0.0.1", listen))[1] for _ in range(8)]
            await eventually(lambda: sum(counts) == 8, "all are passed on")
            assert counts == [2, 6]
            for writer in writers:
                writer.close()
            await eventually(lambda: all(s.open == 0 for s in node.proxy.stats.tcp_series), "all are closed")

    run(conversation())
