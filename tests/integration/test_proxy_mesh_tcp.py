"""Opaque bytes through two proxies and real TLS: half-close, order, back-pressure, servers that speak first."""

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from meshd.api.documents import WorkloadPort
from proxy.static import StaticResolver
from tests.support.aio import run
from tests.support.certificates import identity
from tests.support.meshes import Mesh, Node, mesh, running, service
from tests.support.ports import free_port
from tests.support.waiting import eventually

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def meshed(serve: Serve) -> AsyncIterator[Mesh]:
    """A mesh around an application that speaks TCP."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, limit=1 << 16)
    world = mesh(server.sockets[0].getsockname()[1], "tcp", "tcp")
    async with running(world.api, world.web):
        yield world
    server.close()


def open_at_callers(world: Mesh) -> int:
    series = (*world.web.proxy.stats.tcp_series, *world.api.proxy.stats.tcp_series)
    return sum(each.open for each in series if each.relays)


def test_a_request_ended_by_half_close_is_answered() -> None:
    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hashlib.sha256(await reader.read()).digest())
        await writer.drain()

    async def conversation() -> None:
        async with meshed(whole) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
            writer.write(b"all that I have to say")
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(b"all that I have to say").digest()
            writer.close()
            await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")

    run(conversation())


def test_a_server_that_speaks_first_and_ends_first() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        writer.write_eof()
        assert await reader.read() == b"thank you"

    async def conversation() -> None:
        async with meshed(banner) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
            assert await reader.read() == b"220 ready\r\n"
            writer.write(b"thank you")
            writer.close()
            await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")

    run(conversation())


def test_50_megabytes_both_ways_at_once() -> None:
    size = 50 << 20

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()

    async def conversation() -> None:
        async with meshed(echo) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream, limit=1 << 16)
            sent, got = hashlib.sha256(), hashlib.sha256()

            async def upload() -> None:
                for number in range(size >> 16):
                    block = number.to_bytes(4, "big") * (1 << 14)
                    sent.update(block)
                    writer.write(block)
                    await writer.drain()
                writer.write_eof()

            uploading = asyncio.get_running_loop().create_task(upload())
            while data := await reader.read(1 << 18):
                got.update(data)
            await uploading
            assert got.digest() == sent.digest()
            writer.close()

    run(conversation())


@pytest.mark.parametrize("slow", ["server", "client"])
def test_one_who_does_not_read_holds_the_other(slow: str) -> None:
    size = 50 << 20

    async def conversation() -> None:
        go = asyncio.Event()
        poured = 0

        async def pour(writer: asyncio.StreamWriter) -> None:
            nonlocal poured
            for _ in range(size >> 16):
                writer.write(b"x" * (1 << 16))
                poured += 1 << 16
                await writer.drain()
            writer.write_eof()

        async def drink(reader: asyncio.StreamReader) -> None:
            await go.wait()
            assert len(await reader.read(-1)) == size

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await (drink(reader) if slow == "server" else pour(writer))
            await (reader.read() if slow == "client" else asyncio.sleep(0))

        async with meshed(serve) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream, limit=1 << 16)
            work = pour(writer) if slow == "server" else drink(reader)
            task = asyncio.get_running_loop().create_task(work)
            last, same = -1, 0

            def still() -> bool:
                nonlocal last, same
                same = same + 1 if poured == last and poured > 1 << 20 else 0
                last = poured
                return same > 30

            await eventually(still, "the flow stands still")
            assert poured < 24 << 20
            go.set()
            await task
            writer.close()
            await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")

    run(conversation())


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no end
    writer.transport.abort()


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_reset_goes_through(by: str) -> None:
    """Half of what there was to say is not taken for all of it."""

    async def conversation() -> None:
        go, ended = asyncio.Event(), asyncio.Event()

        async def listens(reader: asyncio.StreamReader) -> None:
            with pytest.raises(ConnectionResetError):
                await reader.read()
            ended.set()

        async def breaks(writer: asyncio.StreamWriter) -> None:
            writer.write(b"begun")
            await go.wait()
            reset(writer)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await (breaks(writer) if by == "server" else listens(reader))

        async with meshed(serve) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
            work = asyncio.get_running_loop().create_task(breaks(writer) if by == "client" else listens(reader))
            await eventually(lambda: open_at_callers(world) == 4, "it is through")
            go.set()
            async with asyncio.timeout(60.0):
                await work
                await ended.wait()
            writer.close()
            await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")

    run(conversation())


def test_no_application_ends_the_connection() -> None:
    async def conversation() -> None:
        world = mesh(free_port(), "tcp", "tcp")
        async with running(world.api, world.web):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
            writer.write(b"hello")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")

    run(conversation())


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\x05hello", b"*1\r\n$4\r\nPING\r\n", b"HELO example\r\n"])
def test_an_upstream_that_finds_out_for_itself(said: bytes) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async def conversation() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        world = mesh(server.sockets[0].getsockname()[1])
        async with running(world.api, world.web):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
            writer.write(said)
            assert await reader.read(100) == said
            writer.close()
        server.close()

    run(conversation())


def test_an_endpoint_whose_application_is_gone_does_not_draw_all_connections() -> None:
    """Its proxy is there and takes them, and it always has the fewest: the least loaded of all, by the count."""

    served: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(writer)
        writer.write(await reader.readexactly(2))
        await reader.read()
        writer.close()
        served.discard(writer)

    async def conversation() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port, gone = server.sockets[0].getsockname()[1], free_port()
        world = mesh(port, "tcp", "tcp")
        other = Node("api", world.root, world.root.held(identity("api")), (WorkloadPort(gone, "tcp"),))
        endpoints = (world.api.endpoint(port), other.endpoint(gone))
        world.web.resolver = StaticResolver(service("api", *endpoints))
        async with running(world.api, other, world.web):
            broken = 0
            with contextlib.ExitStack() as kept_open:
                for _ in range(30):
                    reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
                    kept_open.callback(writer.close)
                    writer.write(b"hi")
                    try:
                        assert await reader.readexactly(2) == b"hi"
                    except (ConnectionError, asyncio.IncompleteReadError):
                        broken += 1
            await eventually(lambda: not served, "all are over")
            assert 1 <= broken <= 10, "one now and then finds out whether it is back"
        server.close()

    run(conversation())


# --- one connection between the proxies for one relay after the other ---------------------------------------------


def handshakes(world: Mesh) -> int:
    assert world.api.proxy._inbound is not None
    return world.api.proxy._inbound.established


async def once(world: Mesh, said: bytes) -> bytes:
    """One conversation with the application, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
    writer.write(said)
    writer.write_eof()
    heard = await reader.read()
    writer.close()
    await eventually(lambda: open_at_callers(world) == 0, "nothing is left open")
    return heard


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()


def test_relays_that_end_in_order_share_a_handshake() -> None:
    async def conversation() -> None:
        async with meshed(echo) as world:
            for number in range(20):
                assert await once(world, b"number %d" % number) == b"number %d" % number
            assert handshakes(world) == 1
            several = await asyncio.gather(*(once(world, b"%d" % number * 100_000) for number in range(5)))
            assert several == [b"%d" % number * 100_000 for number in range(5)]
            assert handshakes(world) <= 5

    run(conversation())


def test_a_relay_that_breaks_takes_its_connection_with_it() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(4) == b"rude":
            reset(writer)
        else:
            writer.write(b"well " + await reader.read())

    async def conversation() -> None:
        async with meshed(rude) as world:
            assert await once(world, b"nice") == b"well "
            with contextlib.suppress(ConnectionResetError):
                assert await once(world, b"rude") == b""
            assert await once(world, b"nicely") == b"well ly"
            assert handshakes(world) == 2

    run(conversation())


def test_connections_that_wait_are_given_up_when_the_other_proxy_drains() -> None:
    async def conversation() -> None:
        async with meshed(echo) as world:
            assert await once(world, b"first") == b"first"
            inbound = world.api.proxy._inbound
            assert inbound is not None
            assert inbound.open == 1  # a drain waits for it
            inbound.drain()
            await eventually(lambda: inbound.open == 0, "the connection is given up", 20.0)
            assert await once(world, b"second") == b"second"
            assert handshakes(world) == 2
            await eventually(lambda: inbound.open == 0, "of a proxy that drains nothing is kept", 20.0)

    run(conversation())
