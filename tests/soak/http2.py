"""A caller of HTTP/2 by prior knowledge: many streams at once on one connection, on the `h2` library."""

import asyncio
import random
import zlib
from time import monotonic
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.soak import content
from tests.soak.http1 import KEPT_BYTES, READ_BYTES, WITHIN_S
from tests.soak.ledger import Broken, Ledger


class _Stream:
    """One request: what has come of its answer."""

    def __init__(self, body: bytes) -> None:
        self.waiting = body
        self.status = 0
        self.length = 0
        self.checksum = 0
        self.start = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, reason: str = "") -> None:
        if not self.done.done():
            if reason:
                self.done.set_exception(Broken(reason))
            else:
                self.done.set_result(None)


class Connection:
    """One connection to web's proxy at `port`; streams are asked on it with `ask`."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._streams: dict[int, _Stream] = {}
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]

    @classmethod
    async def connect(cls, port: int) -> "Connection":
        self = cls()
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_BYTES)
        except OSError as error:
            raise Broken(f"no connection: {error}") from error
        self._h2.initiate_connection()
        self._flush()
        self._reading = asyncio.get_running_loop().create_task(self._read(reader), name="h2")
        return self

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason = "the connection ended"
        try:
            while data := await reader.read(READ_BYTES):
                for event in self._h2.receive_data(data):
                    self._handle(event)
                for number in tuple(self._streams):
                    self._send_body(number)
                self._flush()
        except (ConnectionError, h2.exceptions.H2Error) as error:
            reason = f"the connection ended: {error!r}"
        for stream in self._streams.values():
            stream.end(reason)

    def _handle(self, event: h2.events.Event) -> None:
        stream: Any = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            fields = dict(event.headers)
            stream.status = int(fields[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            stream.start += event.data[: KEPT_BYTES - len(stream.start)]
            stream.length += len(event.data)
            stream.checksum = zlib.crc32(event.data, stream.checksum)
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.end()
        elif isinstance(event, h2.events.StreamReset):
            code = event.error_code
            well = code == h2.errors.ErrorCodes.NO_ERROR
            stream.end("" if well else "cut" if stream.status else f"reset with {code!r} before an answer")

    def _send_body(self, number: int) -> None:
        stream = self._streams[number]
        while stream.waiting and not stream.done.done():
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            piece, stream.waiting = stream.waiting[:room], stream.waiting[room:]
            self._h2.send_data(number, piece, end_stream=not stream.waiting)

    async def ask(self, method: str, path: str, body: bytes) -> _Stream:
        """The stream, when its answer is whole. Broken."""
        fields = [(":method", method), (":scheme", "http"), (":authority", "api"), (":path", path)]
        number = self._h2.get_next_available_stream_id()
        stream = self._streams[number] = _Stream(body)
        try:
            self._h2.send_headers(number, fields, end_stream=not body)
            self._send_body(number)
            self._flush()
            await stream.done
        except h2.exceptions.H2Error as error:
            raise Broken(f"the connection cannot be used: {error!r}") from error
        finally:
            del self._streams[number]
        return stream

    def give_up_all(self) -> None:
        """Reset every stream, as a caller does whose own caller has gone."""
        for number, stream in self._streams.items():
            if not stream.done.done():
                self._h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
                stream.end("given up")
        self._flush()

    async def close(self) -> None:
        self._h2.close_connection()
        self._flush()
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def _request(connection: Connection, ledger: Ledger, chance: random.Random) -> None:
    began = monotonic()
    upload = chance.random() < 0.4
    size = chance.choice(content.SIZES)
    method, path = ("POST", "/sum") if upload else ("GET", f"/bytes/{size}")
    body = content.body(size) if upload else b""
    reason = ""
    try:
        async with asyncio.timeout(WITHIN_S):
            stream = await connection.ask(method, path, body)
        expected = f"{size} {content.summed(size)}".encode()
        if stream.status != 200:
            reason = str(stream.status)
        elif upload and stream.start != expected:
            reason = f"the application got {stream.start!r}, not {expected!r}"
        elif not upload and (stream.length, stream.checksum) != (size, content.summed(size)):
            reason = f"{stream.length} bytes of {size} came, or they are not those that were sent"
    except TimeoutError:
        reason = "no whole answer in time"
    except Broken as broken:
        reason = str(broken)
    kind = f"HTTP/2 {method}"
    if reason:
        ledger.trouble(kind, reason, began, idempotent=not upload, sent_bytes=len(body))
    else:
        ledger.well(kind, len(body), 0 if upload else size)


async def conversation(port: int, ledger: Ledger, chance: random.Random) -> None:
    """Rounds of requests at once on one connection."""
    try:
        connection = await Connection.connect(port)
    except Broken as broken:
        ledger.trouble("HTTP/2", str(broken), monotonic())
        return
    for _ in range(chance.randrange(2, 20)):
        await asyncio.gather(*(_request(connection, ledger, chance) for _ in range(chance.randrange(1, 12))))
        await asyncio.sleep(chance.uniform(0.0, 0.8))
    await connection.close()


async def resets(port: int, ledger: Ledger, chance: random.Random) -> None:
    """A caller that asks for much at once, and gives it all up."""
    try:
        connection = await Connection.connect(port)
    except Broken as broken:
        ledger.trouble("resets", str(broken), monotonic())
        return
    asked = [asyncio.ensure_future(connection.ask("GET", "/events/50", b"")) for _ in range(5)]  # noqa: TID251
    await asyncio.sleep(chance.uniform(0.0, 0.5))
    connection.give_up_all()
    await asyncio.gather(*asked, return_exceptions=True)
    await connection.close()
    ledger.given_up["reset"] += len(asked)
