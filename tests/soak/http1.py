"""Callers of HTTP/1.1: connections kept alive, bodies of all sizes up and down, slow streams, and those who hang up."""

import asyncio
import random
import zlib
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final, NamedTuple

import h11

from tests.soak import content
from tests.soak.ledger import Broken, Ledger

READ_BYTES: Final = 64 << 10
WITHIN_S: Final = 60.0
"""How long an operation may take beyond what it is asked to take."""
KEPT_BYTES: Final = 64
"""Of an answer's content."""


class Answer(NamedTuple):
    """What came: the content's length and checksum."""

    status: int
    error: str
    endpoint: str
    length: int
    checksum: int
    start: bytes


class Connection:
    """One connection to web's proxy at `port`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._connection = h11.Connection(h11.CLIENT)

    @property
    def open(self) -> bool:
        return self._streams is not None

    @property
    def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._streams is not None
        return self._streams

    async def connect(self) -> None:
        try:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=READ_BYTES)
        except OSError as error:
            raise Broken(f"no connection: {error}") from error
        self._connection = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, body: bytes, chunk_bytes: int) -> None:
        """A request; chunk_bytes: in chunks of so many."""
        _, writer = self.streams
        fields = [("host", "api")]
        if chunk_bytes:
            fields.append(("transfer-encoding", "chunked"))
        elif body or method == "POST":
            fields.append(("content-length", str(len(body))))
        try:
            for data in self._parts(h11.Request(method=method, target=target, headers=fields), body, chunk_bytes):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # there may be an answer all the same

    def _parts(self, head: h11.Request, body: bytes, chunk_bytes: int) -> Iterator[bytes]:
        pieces = [body[at : at + (chunk_bytes or READ_BYTES)] for at in range(0, len(body), chunk_bytes or READ_BYTES)]
        first = self._connection.send(head) or b""
        if pieces:  # what is small goes with its head
            first += self._connection.send(h11.Data(data=pieces.pop(0))) or b""
        yield first
        for piece in pieces:
            yield self._connection.send(h11.Data(data=piece)) or b""
        if last := self._connection.send(h11.EndOfMessage()):
            yield last

    async def _event(self) -> Any:
        reader, _ = self.streams
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await reader.read(READ_BYTES))
        return event

    async def answer(self) -> Answer:
        """Broken: the connection ended before there was an answer, which is a violation, or in its midst: `cut`."""
        try:
            head = await self._event()
        except (ConnectionError, h11.RemoteProtocolError) as error:
            raise Broken(f"closed without an answer: {error!r}") from error
        if not isinstance(head, h11.Response):
            raise Broken(f"closed without an answer: {head!r}")
        fields = {name: value.decode() for name, value in head.headers}
        length, checksum, start = 0, 0, b""
        try:
            while isinstance(event := await self._event(), h11.Data):
                start += bytes(event.data[: KEPT_BYTES - len(start)])
                length += len(event.data)
                checksum = zlib.crc32(event.data, checksum)
        except (ConnectionError, h11.RemoteProtocolError) as error:
            raise Broken("cut") from error
        error_said = fields.get(b"l5d-proxy-error", "")
        return Answer(head.status_code, error_said, fields.get(b"x-endpoint", ""), length, checksum, start)

    def next(self) -> None:
        """The connection is used again, if it may."""
        states = (self._connection.our_state, self._connection.their_state)
        if states == (h11.DONE, h11.DONE):
            self._connection.start_next_cycle()
        else:
            self.close()

    def close(self, *, abort: bool = False) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort() if abort else self._streams[1].close()
            self._streams = None


class Caller:
    """A connection that serves some operations, then is replaced."""

    def __init__(self, port: int, ledger: Ledger, chance: random.Random, base: str = "") -> None:
        self._ledger = ledger
        self._chance = chance
        self._connection = Connection(port)
        self._base = base
        self._left = 0

    def close(self) -> None:
        self._connection.close()

    async def do(
        self, kind: str, method: str, target: str, size: int, *, upload: bool, chunk_bytes: int = 0, takes_s: float = 0
    ) -> None:
        """One operation of `size` bytes, up or down; checked, and put into the ledger."""
        began = monotonic()
        body = content.body(size) if upload else b""
        reason = ""
        try:
            async with asyncio.timeout(WITHIN_S + takes_s):
                answer = await self._ask(method, target, body, chunk_bytes)
            reason = self._judge(answer, size, upload)
        except TimeoutError:
            reason = "no whole answer in time"
        except Broken as broken:
            reason = str(broken)
        if reason:
            self._connection.close(abort=True)
            idempotent = method != "POST"
            self._ledger.trouble(kind, reason, began, idempotent=idempotent, sent_bytes=len(body))
        else:
            self._ledger.well(kind, len(body), 0 if upload else size)
            self._ledger.served_by[answer.endpoint] += 1

    async def _ask(self, method: str, target: str, body: bytes, chunk_bytes: int) -> Answer:
        if not self._connection.open or self._left <= 0:
            self._connection.close()
            await self._connection.connect()
            self._left = self._chance.randrange(1, 200)
        self._left -= 1
        await self._connection.send(method, self._base + target, body, chunk_bytes)
        answer = await self._connection.answer()
        self._connection.next()
        return answer

    def _judge(self, answer: Answer, size: int, upload: bool) -> str:
        if answer.status in (502, 503):
            return str(answer.status)
        if answer.status != 200:
            return f"status {answer.status} {answer.error}"
        if upload:
            expected = f"{size} {content.summed(size)}".encode()
            return "" if answer.start == expected else f"the application got {answer.start!r}, not {expected!r}"
        if (answer.length, answer.checksum) != (size, content.summed(size)):
            return f"{answer.length} bytes of {size} came, or they are not those that were sent"
        return ""


async def small_gets(caller: Caller, chance: random.Random) -> None:
    size = chance.choice(content.SIZES[:8])
    await caller.do("GET", "GET", f"/bytes/{size}/{chance.randrange(1000)}", size, upload=False)


async def downloads(caller: Caller, chance: random.Random) -> None:
    size = chance.choice(content.SIZES)
    path = chance.choice(["bytes", "chunked"])
    await caller.do("GET download", "GET", f"/{path}/{size}", size, upload=False)


async def posts(caller: Caller, chance: random.Random) -> None:
    await caller.do("POST", "POST", "/sum", chance.choice(content.SIZES), upload=True)


async def puts(caller: Caller, chance: random.Random) -> None:
    await caller.do("PUT", "PUT", "/sum", chance.choice(content.SIZES[:10]), upload=True)


async def chunked_uploads(caller: Caller, chance: random.Random) -> None:
    chunk_bytes = chance.choice([100, 5_000, 70_000])
    size = min(chance.choice(content.SIZES), chunk_bytes * 500)
    await caller.do("POST in chunks", "POST", "/sum", size, upload=True, chunk_bytes=chunk_bytes)


async def events(connection_port: int, ledger: Ledger, chance: random.Random) -> None:
    """A slow stream on a connection of its own, some seconds long."""
    count = chance.randrange(5, 80)
    began = monotonic()
    connection = Connection(connection_port)
    expected = b"".join(b"data: %d\n\n" % number for number in range(count))
    try:
        async with asyncio.timeout(WITHIN_S + count * 0.1):
            await connection.connect()
            await connection.send("GET", f"/events/{count}", b"", 0)
            answer = await connection.answer()
        if answer.status != 200:
            reason = str(answer.status)
        elif (answer.length, answer.checksum) != (len(expected), zlib.crc32(expected)):
            reason = "events are missing, or are not those that were sent"
        else:
            reason = ""
    except TimeoutError:
        reason = "no whole answer in time"
    except Broken as broken:
        reason = str(broken)
    connection.close()
    if reason:
        ledger.trouble("events", reason, began, idempotent=True)
    else:
        ledger.well("events", 0, len(expected))


async def hang_ups(port: int, ledger: Ledger, chance: random.Random) -> None:
    """A caller who goes away: in the midst of its request, of the answer, or before there is one."""
    connection = Connection(port)
    try:
        async with asyncio.timeout(WITHIN_S):
            await connection.connect()
            reader, writer = connection.streams
            how = chance.choice(["head", "body", "waiting", "answer"])
            if how == "head":
                writer.write(b"GET /bytes/5 HTTP/1.1\r\nHost: a")
            elif how == "body":
                writer.write(
                    b"POST /sum HTTP/1.1\r\nHost: api\r\nContent-Length: 100000\r\n\r\n" + content.body(70_000)
                )
            elif how == "waiting":
                writer.write(b"GET /events/50 HTTP/1.1\r\nHost: api\r\n\r\n")
            else:
                writer.write(b"GET /bytes/1048576 HTTP/1.1\r\nHost: api\r\n\r\n")
                await reader.read(1000)
            await asyncio.sleep(chance.uniform(0.0, 0.3))
    except (Broken, TimeoutError, ConnectionError) as error:
        ledger.trouble("hang-up", f"{error!r} before it", monotonic())
    connection.close(abort=chance.random() < 0.5)
    ledger.given_up["hang-up"] += 1
