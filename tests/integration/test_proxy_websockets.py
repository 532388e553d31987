"""WebSocket and other upgrades with real clients and servers: through one proxy, its forward proxy, and two proxies, of
which the first may have TLS for its callers."""

import asyncio
import contextlib
import socket
import ssl
import struct
import tempfile
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.http11 import Request, Response
from websockets.uri import WebSocketURI

from meshd.api.documents import Upstream
from meshd.api.endpoints import Endpoint
from tests.integration.test_proxy_edge import Site
from tests.integration.test_proxy_process import PROXY, get, ready
from tests.support.aio import run
from tests.support.certificates import identity
from tests.support.http import Client, origin
from tests.support.meshes import Mesh, Node, mesh, running, service, taken
from tests.support.ports import accepts, free_ports
from tests.support.processes import running as process
from tests.support.waiting import eventually, steady

ROUTES = ("one", "forward", "two")
SECURE = (*ROUTES, "edge")
MESSAGE = bytes(range(256)) * 4096 * 10
"""10 MiB: of several frames, windows and buffers."""

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


class AbsoluteURI(WebSocketURI):
    """What a client writes that speaks to a forward proxy without CONNECT."""

    @property
    def resource_name(self) -> str:
        return f"http://{self.host}{super().resource_name}"


class ForwardedClient(ClientConnection):
    """A client that asks in absolute form."""

    async def handshake(self, *arguments: Any, **more: Any) -> None:
        plain = self.protocol.uri
        self.protocol.uri = AbsoluteURI(plain.secure, plain.host, plain.port, plain.path, plain.query)
        await super().handshake(*arguments, **more)


class Way:
    """A way through the proxies of `world` to the application: `one` and `forward` through web's alone, `edge` through
    both, where `tls` is what the caller trusts."""

    def __init__(self, route: str, world: Mesh, tls: ssl.SSLContext | None) -> None:
        self.route = route
        self.world = world
        self.tls = tls
        self.port = world.outbound if route == "forward" else world.upstream

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.world.web, self.world.api) if self.meshed else (self.world.web,)

    @property
    def meshed(self) -> bool:
        return self.route in ("two", "edge")

    def count(self, of: str, peer: str) -> int:
        """A sum over the TCP series of the first proxy."""
        return sum(getattr(each, of) for each in self.world.web.proxy.stats.tcp_series if each.peer == peer)

    @property
    def open(self) -> int:
        """Connections that are open with callers and applications; those between the proxies are kept."""
        peers = ("src",) if self.meshed else ("src", "dst")
        return sum(self.count("open", peer) for peer in peers)

    async def connect(self, **more: Any) -> ClientConnection:
        kind = ForwardedClient if self.route == "forward" else ClientConnection
        return await connect(
            "ws://api/chat?room=1" if self.tls is None else "wss://localhost/chat?room=1", host="127.0.0.1",
            port=self.port, ssl=self.tls, proxy=None, compression=None, create_connection=kind, max_size=None, **more,
        )  # fmt: skip


@asynccontextmanager
async def way(route: str, port: int) -> AsyncIterator[Way]:
    """A way to the application at `port`, running."""
    world = mesh(port)
    if route in ("one", "forward"):
        world.web.resolver.replace(service("api", Endpoint("127.0.0.1", port)))
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory)) if route == "edge" else None
        if site is not None:
            world.web.upstreams = (Upstream("api", f"127.0.0.1:{world.upstream}", tls=site.tls()),)
        found = Way(route, world, None if site is None else site.trusting("http/1.1"))
        async with running(*reversed(found.nodes)):
            yield found


@asynccontextmanager
async def chat(route: str, handle: Handler = echo, **more: Any) -> AsyncIterator[tuple[Way, list[Request]]]:
    """A way to a WebSocket server that does `handle`, and the requests it got."""
    requests: list[Request] = []

    async def serves(connection: ServerConnection) -> None:
        assert connection.request is not None
        requests.append(connection.request)
        await handle(connection)

    server = await serve(serves, "127.0.0.1", 0, compression=None, max_size=None, **more)
    async with server, way(route, server.sockets[0].getsockname()[1]) as found:
        yield found, requests


@pytest.mark.parametrize("route", SECURE)
def test_messages_of_every_kind_go_both_ways(route: str) -> None:
    async def conversation() -> None:
        async with chat(route) as (found, requests):
            client = await found.connect()
            for message in ("text: häuser", b"", b"\0binary", MESSAGE):
                await client.send(message)
                assert await client.recv() == message
            assert await (await client.ping(b"there?")) >= 0
            await client.close(4001, "enough")
            assert (client.close_code, client.close_reason) == (4001, "enough")
            (request,) = requests
            assert request.path == "/chat?room=1"
            assert request.headers["Host"] == ("localhost" if route == "edge" else "api")
            assert request.headers.get_all("Upgrade") == ["websocket"]
            assert request.headers.get_all("Connection") == ["Upgrade"]
            assert not any(name.startswith("l5d-upgrade") for name in request.headers)
            caller = request.headers.get_all("l5d-client-id")
            assert caller == ([identity("web")] if found.meshed else [])
            for node in found.nodes:
                (series,) = [each for each in node.proxy.stats.http_series if each.requests]
                assert (series.requests, list(series.responses)) == (1, [(101, "")])
                for peer in ("src", "dst"):
                    tcp = [each for each in node.proxy.stats.tcp_series if each.peer == peer and each.opened]
                    assert sum(each.read_bytes for each in tcp) > len(MESSAGE)
                    assert sum(each.written_bytes for each in tcp) > len(MESSAGE)
                assert node.proxy.stats.errors == {}

    run(conversation())


@pytest.mark.parametrize("route", SECURE)
def test_the_server_closes_in_its_own_words(route: str) -> None:
    async def closes(connection: ServerConnection) -> None:
        await connection.send("bye")
        await connection.close(1001, "going")

    async def conversation() -> None:
        async with chat(route, closes) as (found, _):
            client = await found.connect()
            assert await client.recv() == "bye"
            with pytest.raises(ConnectionClosedOK):
                await client.recv()
            assert (client.close_code, client.close_reason) == (1001, "going")

    run(conversation())


@pytest.mark.parametrize("route", SECURE)
def test_a_server_that_refuses_gives_an_ordinary_answer(route: str) -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(403, "not you")

    async def conversation() -> None:
        async with chat(route, process_request=refuse) as (found, _):
            with pytest.raises(InvalidStatus) as refused:
                await found.connect()
            assert (refused.value.response.status_code, refused.value.response.body) == (403, b"not you")
            for node in found.nodes:
                (series,) = [each for each in node.proxy.stats.http_series if each.requests]
                assert list(series.responses) == [(403, "")]

    run(conversation())


@pytest.mark.parametrize("route", SECURE)
@pytest.mark.parametrize("dies", ["client", "server"])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_an_end_that_dies_is_missed_by_the_other(route: str, dies: str, how: str) -> None:
    async def conversation() -> None:
        served: asyncio.Queue[ServerConnection] = asyncio.Queue()

        async def waits(connection: ServerConnection) -> None:
            served.put_nowait(connection)
            await connection.wait_closed()

        async with chat(route, waits) as (found, _):
            client = await found.connect()
            server = await served.get()
            dead, alive = (client, server) if dies == "client" else (server, client)
            if how == "reset":
                linger = struct.pack("ii", 1, 0)
                dead.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            dead.transport.abort()
            with pytest.raises(ConnectionClosedError):
                await asyncio.wait_for(alive.recv(), 60.0)
            await eventually(lambda: not found.open, "no proxy holds anything open")

    run(conversation())


@pytest.mark.parametrize("route", SECURE)
def test_a_drain_lets_it_go_on_to_the_deadline(route: str) -> None:
    async def conversation() -> None:
        async with chat(route) as (found, _):
            client = await found.connect()
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(node.proxy.drain(0.5)) for node in found.nodes]
            while not all(task.done() for task in tasks):
                await client.send("still there?")
                assert await client.recv() == "still there?"
            assert [task.result() for task in tasks] == [1] * len(tasks), "it is told of as cut"
            await client.close()
            await eventually(lambda: not found.open, "its end is noticed")

    run(conversation())


def test_a_drain_ends_when_the_last_upgraded_connection_does() -> None:
    async def conversation() -> None:
        async with chat("two") as (found, _):
            client = await found.connect()
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(node.proxy.drain(20.0)) for node in found.nodes]
            await client.send("last words")
            assert await client.recv() == "last words"
            await client.close()
            async with asyncio.timeout(60.0):
                assert await asyncio.gather(*tasks) == [0, 0]

    run(conversation())


def test_the_program_counts_it_and_cuts_it_at_the_deadline(tmp_path: Path) -> None:
    async def conversation() -> None:
        server = await serve(echo, "127.0.0.1", 0, compression=None)
        port = server.sockets[0].getsockname()[1]
        upstream, admin = free_ports(2)
        file = tmp_path / "web.yaml"
        file.write_text(
            f"trustDomain: mesh.example\nadmin: 127.0.0.1:{admin}\n"
            f"workloads: [{{name: web, upstreams: [{{service: api, listen: '127.0.0.1:{upstream}'}}]}}]\n"
            f"services: [{{name: api, port: 80, endpoints: [{{address: 127.0.0.1, port: {port}}}]}}]\n"
        )
        argv = [*PROXY, "--config", str(file), "--drain-timeout", "1"]
        async with server:
            with process(argv, tmp_path / "log", lambda: ready(admin)) as program:
                client = await connect(f"ws://127.0.0.1:{upstream}/", proxy=None, compression=None)
                page = (await asyncio.to_thread(get, admin, "/metrics"))[1].splitlines()
                (answered,) = [line for line in page if line.startswith("response_total{")]
                assert 'status_code="101"' in answered
                assert 'classification="success"' in answered
                assert [line[-4:] for line in page if line.startswith("request_total{")] == [" 1.0"]
                program.terminate()
                await eventually(lambda: not accepts(upstream), "it drains")
                await client.send("still there?")
                assert await client.recv() == "still there?"
                with pytest.raises(ConnectionClosedError):
                    await client.recv()
                assert await asyncio.to_thread(program.wait, 5.0) == 0
        assert "1 connections were not finished in time and are cut" in (tmp_path / "log").read_text()

    run(conversation())


# --- protocols of which the proxies know nothing


SWITCH = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: x/raw\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


@asynccontextmanager
async def attached(
    route: str, handle: Callable[[Reader, Writer], Awaitable[None]]
) -> AsyncIterator[tuple[Way, Reader, Writer]]:
    """A caller and an application that `handle`s what comes once both have switched, as for `docker attach`."""

    async def serves(reader: Reader, writer: Writer) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nUpgrade: tcp\r\n" in asked
        assert b"\r\nConnection: Upgrade\r\n" in asked
        writer.write(SWITCH)
        with contextlib.suppress(ConnectionError):
            await handle(reader, writer)
        writer.close()

    server = await asyncio.start_server(serves, "127.0.0.1", 0, limit=1 << 16)
    async with server, way(route, server.sockets[0].getsockname()[1]) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port, limit=1 << 16)
        target = b"http://api/attach" if route == "forward" else b"/attach"
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" % target
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n" in head
        yield found, reader, writer
        writer.close()


@pytest.mark.parametrize("route", ROUTES)
def test_each_direction_ends_for_itself(route: str) -> None:
    async def counts(reader: Reader, writer: Writer) -> None:
        size = len(await reader.read())  # to the end, which is the caller's alone
        writer.write(b"%d" % size)

    async def conversation() -> None:
        async with attached(route, counts) as (found, reader, writer):
            writer.write(MESSAGE)
            writer.write_eof()
            assert await reader.read() == b"%d" % len(MESSAGE)
            await eventually(lambda: not found.open, "no proxy holds anything open")

    run(conversation())


@pytest.mark.parametrize("route", ROUTES)
def test_the_server_may_end_first(route: str) -> None:
    async def conversation() -> None:
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def ends(reader: Reader, writer: Writer) -> None:
            writer.write(b"said all")
            writer.write_eof()
            heard.set_result(await reader.read())

        async with attached(route, ends) as (_, reader, writer):
            assert await reader.read() == b"said all"
            writer.write(b"but I have not")
            writer.close()
            assert await heard == b"but I have not"

    run(conversation())


@pytest.mark.parametrize("route", ROUTES)
def test_who_does_not_read_holds_who_writes(route: str) -> None:
    """First the application reads nothing, then the caller: what is on the way stays small, and all of it arrives."""
    size, piece = 64 << 20, bytes(1 << 16)

    async def conversation() -> None:
        reads = asyncio.Event()

        async def writes(reader: Reader, writer: Writer) -> None:
            await reads.wait()
            for _ in range(size // len(piece)):
                await reader.readexactly(len(piece))
            for _ in range(size // len(piece)):
                writer.write(piece)
                await writer.drain()

        async def upload(writer: Writer) -> None:
            for _ in range(size // len(piece)):
                writer.write(piece)
                await writer.drain()

        async with attached(route, writes) as (found, reader, writer):
            uploading = asyncio.get_running_loop().create_task(upload(writer))
            assert await steady(lambda: taken(found.nodes[0], "src", "read"), 1 << 20) < 24 << 20
            reads.set()
            await uploading
            assert await steady(lambda: taken(found.nodes[-1], "dst", "read"), 1 << 20) < 24 << 20
            got = 0
            while data := await reader.read(1 << 20):
                got += len(data)
            assert got == size

    run(conversation())


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_refused_leaves_the_connections_as_they_were(route: str) -> None:
    async def conversation() -> None:
        async with origin() as api, way(route, api.port) as found:
            client = await Client.connect(found.port)
            target = "http://api/x" if route == "forward" else "/x"
            for protocol in ("foo/1", "h2c", "HTTP/2.0", "foo/1, h2c"):
                fields = [
                    ("connection", "upgrade, http2-settings"),
                    ("upgrade", protocol),
                    ("http2-settings", "AAMAAABk"),
                ]
                answer = await client.ask("GET", target, fields)
                assert (answer.status, answer.body) == (200, b"ok")
            asked = [request.values(b"upgrade") for request in api.requests]
            assert asked == [[b"foo/1"], [], [], [b"foo/1"]]
            assert api.connections == 1
            assert found.count("opened", "src") == 1
            client.close()

    run(conversation())
