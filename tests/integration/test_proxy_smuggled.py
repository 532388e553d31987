"""Requests and answers that could be read in two ways, from end to end, through one proxy and through two.

They are sent to what leads to nginx, which is strict, and to an endpoint that takes anything. What was asked of them is
told by the endpoint, not by the proxy.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from meshd.api.documents import Protocol, Upstream
from meshd.api.endpoints import Endpoint
from proxy.http2 import frames
from proxy.http2.fields import encode
from proxy.http2.frames import GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS
from proxy.static import StaticResolver
from tests.support.aio import run
from tests.support.certificates import Root, identity
from tests.support.h2 import End, frames_of, settings
from tests.support.meshes import Node, mesh, running, service
from tests.support.peers import path
from tests.support.ports import accepts, free_port
from tests.support.processes import running as process_running
from tests.support.smuggling import ANSWERS, BROKEN2, HTTP1, HTTP2, ONE, POISON, SMUGGLED
from tests.support.waiting import eventually

WITHIN_S = 60.0
PATHS = pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "two proxies"])

NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log stderr;
events {{}}
http {{
    log_format one '$request_method $uri';
    access_log {directory}/access one;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{ listen 127.0.0.1:{port} {http2}; location / {{ return 200 "ok"; }} }}
}}
"""

Asked = Callable[[], list[str]]
"""What an endpoint was asked, in turn: METHOD PATH."""


@contextmanager
def strict(directory: Path, http2: bool) -> Iterator[tuple[int, Asked]]:
    """nginx, which refuses what is malformed, and writes down that too."""
    port = free_port()
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(directory=directory, port=port, http2="http2" if http2 else ""))
    argv = [path("nginx"), "-p", str(directory), "-c", str(file)]
    with process_running(argv, directory / "nginx.log", lambda: accepts(port)):
        yield port, lambda: (directory / "access").read_text().splitlines()


class Lax:
    """An endpoint of HTTP/1.1 that takes any line for a request, any ending for a line's, and what follows content for
    the next request. `heard` is all that it ever heard."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while more := await reader.read(65536):
                self.heard += more
                data += more
                while (found := re.search(rb"\r?\n\r?\n", data)) is not None:
                    head, rest = data[: found.start()], data[found.end() :]
                    left = _behind(head.lower(), rest)
                    if left is None:
                        break
                    data = left
                    self.asked.append(b" ".join(head.split()[:2]).decode("latin-1"))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()


def _behind(head: bytes, rest: bytes) -> bytes | None:
    """What is left when the content of that head is taken off; None while that has not all come."""
    if b"chunked" in head:
        found = re.search(rb"(^|\n)0+(;[^\n]*)?\r?\n(.+\r?\n)*\r?\n", rest)
        return None if found is None else rest[found.end() :]
    length = re.search(rb"content-length\s*:\s*(\d+)", head)
    size = int(length[1]) if length else 0
    return rest[size:] if len(rest) >= size else None


class Lax2(Lax):
    """The same for HTTP/2: whatever opens a stream and ends is a request, and nothing is to break the protocol."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = End()
        writer.write(end.said())
        answered: set[int] = set()
        with contextlib.suppress(OSError):
            while more := await reader.read(65536):
                self.heard += more
                end.receive(more)
                for number, stream in end.told.items():
                    if stream.ended and number not in answered:
                        answered.add(number)
                        fields = dict(stream.heads[0])
                        self.asked.append(f"{fields[b':method'].decode()} {fields[b':path'].decode()}")
                        stream.send_headers(encode([(b":status", b"200")]), False)
                        stream.send_data(b"ok", True)
                writer.write(end.said())
        writer.close()


@asynccontextmanager
async def lax(http2: bool) -> AsyncIterator[tuple[int, Lax]]:
    endpoint = Lax2() if http2 else Lax()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], endpoint
    finally:
        server.close()


async def between(port: int, meshed: bool, protocol: Protocol, use: Callable[[int], Awaitable[None]]) -> None:
    """Have `use` call an upstream that leads to the endpoint at port."""
    if meshed:
        world = mesh(port, protocol, "http")
        listen, nodes = world.upstream, [world.api, world.web]
    else:
        listen, root = free_port(), Root()
        upstreams = (Upstream("api", f"127.0.0.1:{listen}"),)
        endpoint = Endpoint("127.0.0.1", port, protocol=protocol)
        resolver = StaticResolver(service("api", endpoint, protocol="http"))
        nodes = [Node("web", root, root.held(identity("web")), (), upstreams, resolver)]
    async with running(*nodes):
        await use(listen)


async def told(port: int, sent: bytes, until: Callable[[bytes], bool]) -> bytes:
    """What is heard of `sent` on a connection of its own, to its end or until it is enough."""
    heard = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(WITHIN_S):
            writer.write(sent)
            with contextlib.suppress(ConnectionResetError):
                while not until(heard) and (more := await reader.read(65536)):
                    heard += more
    finally:
        writer.transport.abort()
    return heard


def statuses(heard: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d\d\d)", heard)


def settled(heard: bytes) -> bool:
    """Whether the answer on stream 1 has ended, or the stream or the connection has."""
    for kind, flags, number, _ in frames_of(whole(heard)):
        if kind in (GOAWAY, RST_STREAM) or (number == 1 and flags & 1 and kind not in (SETTINGS, frames.PING)):
            return True
    return False


def whole(heard: bytes) -> bytes:
    """The frames of heard that are all there."""
    at = 0
    while len(heard) >= at + 9 and len(heard) >= (end := at + 9 + int.from_bytes(heard[at : at + 3], "big")):
        at = end
    return heard[:at]


async def attack(port: int) -> list[str]:
    """All of the tables; what of it an endpoint may have been asked besides /broken, in turn."""
    for name, sent in HTTP1.items():
        heard = await told(port, sent + SMUGGLED, lambda _: False)
        (status,) = statuses(heard)
        assert status in (b"400", b"417", b"501", b"505"), name
    for name, (sent, _) in ONE.items():
        heard = await told(port, sent, lambda heard: heard.endswith((b"ok", b"\r\n0\r\n\r\n")))
        assert statuses(heard) == [b"200"], name
    for name, fields in HTTP2.items():
        heard = await told(port, PREFACE + settings() + frames.headers(1, encode(fields), True), settled)
        assert settled(heard), name
        assert encode([(b":status", b"200")]) not in heard, name
    for name, sent in BROKEN2.items():
        heard = await told(port, PREFACE + settings() + sent, settled)
        assert not any(frame.kind == HEADERS and frame.flags & 1 for frame in frames_of(whole(heard))), name
    heard = await told(port, b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", lambda _: False)
    assert statuses(heard) == [b"200"]
    return [*("POST /" for _ in ONE), "GET /last"]


def check(asked: list[str], expected: list[str]) -> None:
    """Every good request once, and of the broken ones none twice."""
    assert [each for each in asked if each != "POST /broken"] == expected
    assert asked.count("POST /broken") <= len(BROKEN2)


@PATHS
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.peer("nginx")
def test_nginx_is_asked_once_or_not_at_all(tmp_path: Path, http2: bool, meshed: bool) -> None:
    with strict(tmp_path, http2) as (port, asked):

        async def use(listen: int) -> None:
            expected = await attack(listen)
            await eventually(lambda: "GET /last" in asked(), "it is written down")
            check(asked(), expected)

        run(between(port, meshed, "http2" if http2 else "http1", use))


@PATHS
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_an_endpoint_that_takes_anything_is_asked_once_or_not_at_all(http2: bool, meshed: bool) -> None:
    async def conversation() -> None:
        async with lax(http2) as (port, endpoint):

            async def use(listen: int) -> None:
                check(endpoint.asked, await attack(listen))
                assert b"/smuggled" not in endpoint.heard

            await between(port, meshed, "http2" if http2 else "http1", use)

    run(conversation())


# --- answers


class Odd:
    """An endpoint that answers /N with the Nth of `ANSWERS` and more behind it, to HEAD too, and /next in order."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ")[1][1:]
                if target == b"next":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
                else:
                    writer.write(list(ANSWERS.values())[int(target)][0] + POISON)
        writer.close()


@PATHS
def test_an_odd_answer_is_one_answer(meshed: bool) -> None:
    """On one connection another request follows, whose answer is its own. In HTTP/1.1 and HTTP/2."""

    async def use(listen: int) -> None:
        for number, (name, (_, status)) in enumerate(ANSWERS.items()):
            asked = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
            last = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            heard = await told(listen, asked + last, lambda _: False)
            assert b"poisoned" not in heard, name
            assert [each for each in statuses(heard) if each[:1] != b"1"] == [status, b"200"], name
            assert heard.endswith(b"next"), name
            assert await streams(listen, number) == [status, b"200"], name

    async def conversation() -> None:
        server = await asyncio.start_server(Odd().serve, "127.0.0.1", 0)
        try:
            await between(server.sockets[0].getsockname()[1], meshed, "http1", use)
        finally:
            server.close()

    run(conversation())


async def streams(port: int, number: int) -> list[bytes]:
    """The statuses of the same two requests as streams of HTTP/2, one after the other."""
    found = []
    end = End(client=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(WITHIN_S):
            for path in (b"/%d" % number, b"/next"):
                asked = end.ask([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)])
                writer.write(end.said())
                while not asked.ended and asked.reset_with is None:
                    end.receive(await reader.read(65536))
                    writer.write(end.said())
                assert b"poisoned" not in asked.body
                found.append(dict(asked.heads[-1])[b":status"])
    finally:
        writer.transport.abort()
    return found
