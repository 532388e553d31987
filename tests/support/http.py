"""HTTP/1.1 from another hand: an origin and a client on h11, for tests of what the proxy makes of messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import h11

READ_BYTES = 64 << 10


class Request(NamedTuple):
    """What an origin was asked."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for its, value in self.headers if its == name]


class Answer(NamedTuple):
    """What a client was answered."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for its, value in self.headers if its == name]


class Origin:
    """An application at `port`. It answers with what `answer` says; `requests` are those it was asked, in order."""

    def __init__(self, answer: Callable[[Request], Awaitable[bytes]] | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection, as a process that ends does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            connection = h11.Connection(h11.SERVER)
            while await self._serve_one(connection, reader, writer):
                connection.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head: h11.Request | None = None
        body: list[bytes] = []
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert head is not None
        request = Request(head.method, head.target, list(head.headers), b"".join(body))
        self.requests.append(request)
        payload = b"ok" if self._answer is None else await self._answer(request)
        response = h11.Response(status_code=200, headers=[("content-length", str(len(payload)))])
        data = [connection.send(response)]
        if request.method != b"HEAD":
            data.append(connection.send(h11.Data(data=payload)))
        data.append(connection.send(h11.EndOfMessage()))
        writer.write(b"".join(part for part in data if part))
        await writer.drain()
        return connection.our_state is h11.DONE


@asynccontextmanager
async def origin(answer: Callable[[Request], Awaitable[bytes]] | None = None) -> AsyncIterator[Origin]:
    """An origin that has started."""
    made = Origin(answer)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class Client:
    """A connection to an HTTP server or proxy at `port`, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._connection = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(
        self, method: str, target: str, headers: list[tuple[str, str]] | None = None, body: bytes = b""
    ) -> Answer:
        """One request and its answer. ConnectionError, h11.RemoteProtocolError."""
        if self._connection.our_state is h11.DONE:
            self._connection.start_next_cycle()
        fields = [("host", "api"), *(headers or [])]
        fields = fields[1:] if any(name.lower() == "host" for name, _ in fields[1:]) else fields
        if body:
            fields.append(("content-length", str(len(body))))
        events = [h11.Request(method=method, target=target, headers=fields), h11.Data(data=body), h11.EndOfMessage()]
        self.writer.write(b"".join(self._connection.send(event) or b"" for event in events))
        await self.writer.drain()
        return await self.answer()

    async def answer(self) -> Answer:
        """The answer to what was asked."""
        head: h11.Response | None = None
        body: list[bytes] = []
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                self._connection.receive_data(await self.reader.read(READ_BYTES))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("closed before an answer")
        assert head is not None
        return Answer(head.status_code, list(head.headers), b"".join(body))

    def close(self) -> None:
        self.writer.close()


async def ask(
    port: int, method: str = "GET", target: str = "/", headers: list[tuple[str, str]] | None = None, body: bytes = b""
) -> Answer:
    """One request on a connection of its own."""
    client = await Client.connect(port)
    try:
        return await client.ask(method, target, headers, body)
    finally:
        client.close()
