"""What time a service's documents give its callers: to connect, for the whole, to the head, and between two pieces."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar, cast

import pytest

from meshd.api.documents import Upstream
from meshd.api.policy import Policy
from proxy.static import StaticResolver
from tests.support.aio import run_on_time
from tests.support.certificates import Root, identity
from tests.support.http import ask, origin
from tests.support.meshes import Node, declared, mesh, running, service
from tests.support.ports import free_port
from tests.support.waiting import eventually

PIECES = 12
PIECE_S = 0.05


@asynccontextmanager
async def caller(port: int, timeouts: str, directory: Path) -> AsyncIterator[int]:
    """The port of an upstream that leads to what is at `port`, with these time-outs."""
    services = declared(
        "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api}\nspec:\n  port: 80\n"
        f"  endpoints: [{{address: 127.0.0.1, port: {port}}}]\n  timeouts: {timeouts}\n",
        directory,
    )
    listen, root = free_port(), Root()
    upstreams = (Upstream("api", f"127.0.0.1:{listen}"),)
    async with running(Node("web", root, root.held(identity("web")), (), upstreams, StaticResolver(services))):
        yield listen


class Application(asyncio.Protocol):
    """It answers as the path says. `connections`: those that are open."""

    connections: ClassVar[set[asyncio.Protocol]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ")[1]
        if path != b"/silent":
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n.")
        if path == b"/dripping":
            self.drip()

    def drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b".")
            asyncio.get_running_loop().call_later(PIECE_S, self.drip)


@pytest.mark.parametrize(
    ("timeouts", "path", "outcome"),
    [
        ("{request: 300ms}", "silent", "504"),
        ("{request: 300ms}", "stalling", "cut off"),
        ("{request: 300ms}", "dripping", "cut off"),
        ("{response: 300ms}", "silent", "504"),
        ("{response: 300ms}", "dripping", "goes on"),
        ("{idle: 300ms}", "stalling", "cut off"),
        ("{idle: 300ms}", "dripping", "goes on"),
        ("{request: 300ms, idle: 10s}", "stalling", "cut off"),
    ],
)
def test_an_answer_has_its_time(tmp_path: Path, timeouts: str, path: str, outcome: str) -> None:
    async def conversation() -> None:
        Application.connections.clear()
        server = await asyncio.get_running_loop().create_server(Application, "127.0.0.1", 0)
        async with server, caller(server.sockets[0].getsockname()[1], timeouts, tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /{path} HTTP/1.1\r\nhost: api\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 504" if outcome == "504" else b"HTTP/1.1 200")
            if outcome == "goes on":
                assert await reader.readexactly(PIECES) == b"." * PIECES  # which takes twice the time
            elif outcome == "cut off":
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await reader.readexactly(1000)
            writer.close()
            await eventually(lambda: not Application.connections, "the endpoint's connection is closed too")

    run_on_time(conversation)


@contextmanager
def deaf() -> Iterator[int]:
    """A port that lets no connection be made, nor refuses one: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(("connect", "is_late"), [("100ms", True), ("30s", False)])
def test_an_endpoint_has_its_time_to_accept_a_connection(
    tmp_path: Path, connect: str, is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def conversation(deaf_port: int) -> None:
        async with caller(deaf_port, f"{{connect: {connect}, request: 600ms}}", tmp_path) as port:
            caplog.clear()
            assert (await ask(port)).status == 504
        assert any("did not accept a connection in time" in message for message in caplog.messages) is is_late

    with deaf() as port, caplog.at_level(logging.WARNING):
        run_on_time(lambda: conversation(port))


def test_a_host_that_is_away_leaves_a_caller_time_for_another() -> None:
    """Requests have three seconds to find an endpoint: that one is waited for in vain must not use them up."""

    async def conversation(deaf_port: int) -> None:
        async with origin() as api:
            world = mesh(api.port)
            both = world.api.endpoint(1, inbound_port=deaf_port), world.api.endpoint(api.port)
            world.web.resolver.replace(service("api", *both, policy=Policy()))
            async with running(world.api, world.web):
                answers = await asyncio.gather(*(ask(world.upstream) for _ in range(20)))
                assert [answer.status for answer in answers] == [200] * 20

    with deaf() as port:
        run_on_time(lambda: conversation(port))
