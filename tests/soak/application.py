"""The application behind each endpoint, on ports that it is told: HTTP/1.1, gRPC, echo, WebSocket.

    python -m tests.soak.application NAME HTTP QUITS GRPC ECHO CHAT

HTTP/1.1 (h11), the same on two ports, so that callers who hang up are counted apart:

    GET /bytes/N     N bytes with Content-Length        GET /chunked/N   the same in chunks
    GET /events/N    N events, one each 0.1 s           POST, PUT /sum   "LENGTH CHECKSUM" of what came

On SIGTERM it does what a good server does: it takes nothing new and finishes what is under way, for 3 s.
"""

import asyncio
import signal
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import h11
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.soak import content

READ_BYTES: Final = 64 << 10
EVENT_S: Final = 0.1
GRACE_S: Final = 3.0


class Connections:
    """The tasks that serve connections, and whether it is time to end."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    def enter(self) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Http:
    """HTTP/1.1 as `name`."""

    def __init__(self, name: str, connections: Connections) -> None:
        self._name = name
        self._connections = connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.enter()
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(connection, reader, writer):
                connection.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            writer.close()

    async def _event(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Any:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        return event

    async def _first(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Any:
        """The next request, or None where the time to end comes before it."""
        waiting = asyncio.ensure_future(self._event(connection, reader))  # noqa: TID251 - awaited right here
        ending = asyncio.ensure_future(self._connections.ending.wait())  # noqa: TID251
        try:
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            for task in (waiting, ending):
                task.cancel()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = await self._first(connection, reader)
        if not isinstance(head, h11.Request):
            return False
        length, checksum = 0, 0
        while isinstance(event := await self._event(connection, reader), h11.Data):
            length += len(event.data)
            checksum = zlib.crc32(event.data, checksum)
        if not isinstance(event, h11.EndOfMessage):
            return False
        _, kind, amount = (head.target.decode() + "/0").split("/", 2)
        size = int(amount.partition("/")[0])
        if kind == "sum":
            await self._answer(connection, writer, f"{length} {checksum}".encode())
        elif kind == "bytes":
            await self._answer(connection, writer, content.body(size))
        else:
            await self._stream(connection, writer, _events(size) if kind == "events" else _pieces(size))
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    def _headers(self) -> list[tuple[str, str]]:
        ending = [("connection", "close")] if self._connections.ending.is_set() else []
        return [("x-endpoint", self._name), *ending]

    async def _answer(self, connection: h11.Connection, writer: asyncio.StreamWriter, body: bytes) -> None:
        headers = [("content-length", str(len(body))), *self._headers()]
        events = (h11.Response(status_code=200, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        writer.write(b"".join(connection.send(event) or b"" for event in events))
        await writer.drain()

    async def _stream(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes]
    ) -> None:
        headers = [("transfer-encoding", "chunked"), *self._headers()]
        writer.write(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
        async for piece in pieces:
            writer.write(connection.send(h11.Data(data=piece)) or b"")
            await writer.drain()
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()


async def _events(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"data: %d\n\n" % number
        await asyncio.sleep(EVENT_S)


async def _pieces(size: int) -> AsyncIterator[bytes]:
    body = content.body(size)
    for at in range(0, size, 9000):
        yield body[at : at + 9000]


class Echo:
    """Opaque bytes come back, and their end too."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.enter()
        try:
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _chat(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def _unary(message: bytes, _: Any) -> bytes:
    return message


async def _down(message: bytes, _: Any) -> AsyncIterator[bytes]:
    for number in range(int(message)):
        yield content.body(1 + number % 1000)


async def _up(messages: AsyncIterator[bytes], _: Any) -> bytes:
    length, checksum = 0, 0
    async for message in messages:
        length += len(message)
        checksum = zlib.crc32(message, checksum)
    return b"%d %d" % (length, checksum)


async def _both(messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message[::-1]


async def _calls(port: int) -> Any:
    """gRPC's own server."""
    server = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Down": grpc.unary_stream_rpc_method_handler(_down),
        "Up": grpc.stream_unary_rpc_method_handler(_up),
        "Both": grpc.stream_stream_rpc_method_handler(_both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("soak.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server


async def main(name: str, http: int, quits: int, calls: int, echo: int, chat: int) -> None:
    """Serve until SIGTERM."""
    connections = Connections()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, connections.ending.set)
    web, opaque = Http(name, connections), Echo(connections)
    servers = [
        await asyncio.start_server(web.serve, "127.0.0.1", http, limit=READ_BYTES),
        await asyncio.start_server(web.serve, "127.0.0.1", quits, limit=READ_BYTES),
        await asyncio.start_server(opaque.serve, "127.0.0.1", echo, limit=READ_BYTES),
    ]
    talking = await serve(_chat, "127.0.0.1", chat, max_size=None, compression=None)
    calling = await _calls(calls)
    await connections.ending.wait()
    for server in servers:
        server.close()
    talking.close(close_connections=False)
    stopping = loop.create_task(calling.stop(GRACE_S), name="gRPC's end")
    if connections.tasks:
        await asyncio.wait(connections.tasks, timeout=GRACE_S)
    await stopping


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
