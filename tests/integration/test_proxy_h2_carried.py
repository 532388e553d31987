"""HTTP/1.x as it is carried between two proxies in streams of HTTP/2: it comes out as it went in."""

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.aio import run
from tests.support.meshes import mesh, running

Handler = Callable[[Reader, Writer], Awaitable[None]]


@asynccontextmanager
async def carried(handle: Handler) -> AsyncIterator[Callable[[], Awaitable[tuple[Reader, Writer]]]]:
    """Connections to an upstream listener whose requests cross the mesh to an application that does `handle`."""
    errors: list[BaseException] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except AssertionError as error:
            errors.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    opened: list[Writer] = []
    world = mesh(server.sockets[0].getsockname()[1])

    async def connect() -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.upstream)
        opened.append(writer)
        return reader, writer

    try:
        async with running(world.api, world.web):
            yield connect
            for writer in opened:
                writer.close()
    finally:
        server.close()
    if errors:
        raise errors[0]


async def head_of(reader: Reader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def chunked_body(reader: Reader) -> tuple[bytes, bytes]:
    """(content, trailer lines)."""
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    trailers = b""
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        trailers += line
    return content, trailers


def answers(answer: bytes) -> Handler:
    """An application that gives each request, which has no body, the same answer."""

    async def handle(reader: Reader, writer: Writer) -> None:
        while True:
            await head_of(reader)
            writer.write(answer)

    return handle


@pytest.mark.parametrize(
    ("method", "answer", "heard"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n",
         b"200 OK\r\nx: y\r\ncontent-length: 5\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", b"204 No Content\r\nx: y\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: e\r\n\r\n",
         b"304 Not Modified\r\netag: e\r\ncontent-length: 7\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"200 OK\r\ncontent-length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 404 Gone Fishing\r\nContent-Length: 2\r\n\r\nno",
         b"404 Not Found\r\ncontent-length: 2\r\n\r\nno"),
        (b"GET", b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
         b"200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n"),
    ],
)  # fmt: skip
def test_an_answer_and_the_next_on_the_same_connection(method: bytes, answer: bytes, heard: bytes) -> None:
    async def conversation() -> None:
        async with carried(answers(answer)) as connect:
            reader, writer = await connect()
            for _ in range(3):
                writer.write(method + b" / HTTP/1.1\r\nHost: api\r\n\r\n")
                assert await reader.readexactly(9 + len(heard)) == b"HTTP/1.1 " + heard

    run(conversation())


def test_chunks_and_trailers_both_ways() -> None:
    async def handle(reader: Reader, writer: Writer) -> None:
        head = await head_of(reader)
        assert b"transfer-encoding: chunked\r\n" in head.lower()
        content, trailers = await chunked_body(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        for byte in content:
            writer.write(b"1\r\n%c\r\n" % byte)
        writer.write(b"0\r\n" + trailers + b"\r\n")

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n")
            writer.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nContent-Length: 9\r\n\r\n")
            assert b"\r\ntrailer: X-Sum\r\n" in await head_of(reader)
            assert await chunked_body(reader) == (b"abcde", b"x-sum: 5\r\n")

    run(conversation())


def test_a_caller_that_waits_to_be_told_to_go_on() -> None:
    async def handle(reader: Reader, writer: Writer) -> None:
        assert b"\r\nexpect: 100-continue\r\n" in (await head_of(reader)).lower()
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            assert (await head_of(reader)).startswith(b"HTTP/1.1 103 ")
            assert (await head_of(reader)).startswith(b"HTTP/1.1 100 ")
            writer.write(b"hello")
            assert (await head_of(reader)).startswith(b"HTTP/1.1 200 ")

    run(conversation())


def test_an_answer_that_comes_before_the_request_is_whole() -> None:
    """The caller gets it, though it is far from having sent all."""

    async def handle(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        await reader.read()

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 100000000\r\n\r\n" + bytes(1 << 20))
            assert (await head_of(reader)).startswith(b"HTTP/1.1 413 ")
            assert await reader.read() == b"no!"

    run(conversation())


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nHost: api\r\n\r\n"])
def test_a_caller_of_http_1_0_gets_an_answer_that_it_understands(head: bytes) -> None:
    async def conversation() -> None:
        chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
        async with carried(answers(chunks)) as connect:
            reader, writer = await connect()
            writer.write(head)
            assert await reader.read() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"

    run(conversation())


def test_an_answer_that_ends_with_its_connection() -> None:
    async def handle(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall there is")

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            assert b"transfer-encoding: chunked" in await head_of(reader)
            assert await chunked_body(reader) == (b"all there is", b"")

    run(conversation())


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    async def handle(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            try:
                heard = await reader.read()
            except ConnectionError:
                heard = b""
            assert not heard.endswith(b"0\r\n\r\n")

    run(conversation())


def test_each_event_arrives_at_once() -> None:
    """Server-sent events: the next is sent only when the one before has come to the caller."""
    turn = asyncio.Semaphore(1)

    async def handle(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(50):
            await turn.acquire()
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            await head_of(reader)
            for number in range(50):
                assert b"data: %d\n\n" % number in await reader.readuntil(b"\n\n")
                await reader.readexactly(2)
                turn.release()
            assert await reader.readexactly(5) == b"0\r\n\r\n"

    run(conversation())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def handle(reader: Reader, writer: Writer) -> None:
        while True:
            path = (await head_of(reader)).split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async def conversation() -> None:
        async with carried(handle) as connect:
            reader, writer = await connect()
            writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: api\r\n\r\n" % number for number in range(100)))
            for number in range(100):
                await head_of(reader)
                path = b"/%d" % number
                assert await reader.readexactly(len(path)) == path

    run(conversation())
