"""Connections that have ended are freed at once: the collector comes by seldom in the proxy, and each may hold a
megabyte of buffers until then. Objects that refer to each other in a ring would wait for it."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support import http
from tests.support.aio import run
from tests.support.h2 import REQUEST, End, settings
from tests.support.meshes import Mesh, mesh, running, service
from tests.support.ports import free_port
from tests.support.waiting import eventually

TIMES = 5


@contextmanager
def uncollected() -> Iterator[list[object]]:
    """What of the proxy's only the collector can free, of all that is made inside."""
    gc.collect()
    gc.freeze()
    gc.disable()
    found: list[object] = []
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [each for each in gc.garbage if type(each).__module__.startswith("proxy.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


async def get(world: Mesh) -> None:
    assert (await http.ask(world.upstream)).status == 200


async def post(world: Mesh) -> None:
    answer = await http.ask(world.upstream, "POST", body=bytes(500_000))
    assert answer.status == 200


async def forwarded(world: Mesh) -> None:
    assert (await http.ask(world.outbound, "GET", "http://api/")).status == 200


async def unknown(world: Mesh) -> None:
    assert (await http.ask(world.outbound, "GET", "http://nobody.mesh/")).status == 503


async def malformed(world: Mesh) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
    writer.write(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert b" 400 " in await reader.read()
    writer.close()


async def hang_up(world: Mesh) -> None:
    for sent in (b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nhalf", b"GE", b""):
        _, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
        writer.write(sent)
        await asyncio.sleep(0)
        writer.transport.abort()


async def http2(world: Mesh) -> None:
    """An answer that is read, and one that is not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
    end = End(client=True)
    end.receive(settings())
    asked = end.ask()
    end.ask([(b":method", b"POST"), *REQUEST[1:]], ended=False)
    writer.write(end.said())
    while not asked.ended:
        end.receive(await reader.read(9000))
    writer.transport.abort()
    end.told.clear()
    end.streams.clear()


async def moved(world: Mesh) -> None:
    """The endpoint leaves the service, with the connections between the proxies."""
    await get(world)
    endpoint = world.api.endpoint(world.api.ports[0].port)
    world.web.resolver.replace(service("api", endpoint.__replace__(address="127.0.0.2")))
    world.web.resolver.replace(service("api", endpoint))


async def refused(world: Mesh) -> None:
    """An endpoint that cannot be reached."""
    endpoint = world.api.endpoint(world.api.ports[0].port)
    world.web.resolver.replace(service("api", endpoint.__replace__(inbound_port=free_port())))
    _, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    await asyncio.sleep(0.05)
    writer.transport.abort()
    world.web.resolver.replace(service("api", endpoint))
    await get(world)


async def tunnel(world: Mesh) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.outbound)
    writer.write(b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    assert b" 200 " in await reader.read()
    writer.close()


async def web_socket(world: Mesh) -> None:
    """Ended well, and cut."""
    async with connect(f"ws://127.0.0.1:{world.upstream}/", proxy=None, compression=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    socket = await connect(f"ws://127.0.0.1:{world.upstream}/", proxy=None, compression=None)
    socket.transport.abort()


KINDS = [get, post, forwarded, unknown, malformed, hang_up, http2, moved, refused, tunnel]


@pytest.mark.parametrize("use", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_no_connection_waits_for_the_collector(use: Callable[[Mesh], Awaitable[None]]) -> None:
    check(http.origin(), use)


def test_no_upgraded_connection_waits_for_the_collector() -> None:
    check(chatting(), web_socket)


@asynccontextmanager
async def chatting() -> AsyncIterator[SimpleNamespace]:
    """An application that speaks WebSocket."""

    async def echo(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        (listener,) = server.sockets
        yield SimpleNamespace(port=listener.getsockname()[1])


def check(application: AbstractAsyncContextManager[Any], use: Callable[[Mesh], Awaitable[None]]) -> None:
    """Use a mesh around the application, and see what is left for the collector."""

    async def conversation() -> None:
        async with application as there:
            world = mesh(there.port)
            async with running(world.api, world.web):
                await use(world)  # what is made once, and kept
                with uncollected() as found:
                    for _ in range(TIMES):
                        await use(world)
                    series = world.web.proxy.stats.tcp_series
                    await eventually(lambda: not sum(each.open for each in series if each.peer == "src"), "all ended")
                    await asyncio.sleep(0)
                assert Counter(type(each).__qualname__ for each in found) == {}

    run(conversation())
