"""Callers of opaque bytes: an echo through an upstream and through CONNECT, and WebSocket."""

import asyncio
import random
from time import monotonic

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from tests.soak import content
from tests.soak.http1 import READ_BYTES, WITHIN_S
from tests.soak.ledger import Broken, Ledger

_OPAQUE = b"\x00"
"""What a session begins with, so that its first byte tells that it is not HTTP."""


async def _tunnelled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n")
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Broken(f"CONNECT was not answered: {error!r}") from error
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise Broken(f"CONNECT was answered {head.split(b' ')[1].decode()}")


async def _session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> int:
    """Bytes there and back, in rounds; then the end of one direction, and of the other."""
    total = 0
    for number in range(chance.randrange(1, 20)):
        message = (_OPAQUE if number == 0 else b"") + content.body(chance.choice(content.SIZES[:12]))
        writer.write(message)
        try:
            answer = await reader.readexactly(len(message))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Broken("cut") from error
        if answer != message:
            raise Broken("other bytes came back")
        total += len(message)
        await asyncio.sleep(chance.uniform(0.0, 0.3))
    writer.write_eof()
    try:
        rest = await reader.read()
    except ConnectionError as error:
        raise Broken("cut") from error
    if rest:
        raise Broken("more came back than was sent")
    return total


async def echo(kind: str, port: int, ledger: Ledger, chance: random.Random) -> None:
    """A session, checked, and put into the ledger; through CONNECT where its kind is `tunnel`."""
    began = monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_BYTES)
    except OSError as error:
        ledger.trouble(kind, f"no connection: {error}", began)
        return
    try:
        async with asyncio.timeout(WITHIN_S):
            if kind == "tunnel":
                await _tunnelled(reader, writer)
            total = await _session(reader, writer, chance)
        ledger.well(kind, total, total)
    except TimeoutError:
        ledger.trouble(kind, "not over in time", began)
    except Broken as broken:
        ledger.trouble(kind, str(broken), began, relayed=True)
    finally:
        writer.transport.abort()


async def _talk(socket: ClientConnection, chance: random.Random) -> int:
    """Messages there and back."""
    total = 0
    for _ in range(chance.randrange(1, 20)):
        message = content.body(chance.choice(content.SIZES))
        await socket.send(message)
        if await socket.recv() != message:
            raise Broken("other bytes came back")
        total += len(message)
        await asyncio.sleep(chance.uniform(0.0, 0.3))
    return total


async def chat(port: int, ledger: Ledger, chance: random.Random) -> None:
    """A WebSocket."""
    began = monotonic()
    try:
        async with (
            asyncio.timeout(WITHIN_S),
            connect(f"ws://127.0.0.1:{port}/", max_size=None, compression=None, proxy=None) as socket,
        ):
            total = await _talk(socket, chance)
    except TimeoutError:
        reason = "not over in time"
    except Broken as broken:
        reason = str(broken)
    except (ConnectionClosed, InvalidMessage):
        reason = "cut"  # after the handshake, or in it
    except InvalidStatus as error:
        proxys = "l5d-proxy-error" in error.response.headers
        # The library's server answers so itself while it shuts down.
        reason = str(error.response.status_code) if proxys or error.response.status_code != 503 else "cancelled"
    except OSError as error:
        reason = f"no connection: {error!r}"
    else:
        ledger.well("WebSocket", total, total)
        return
    ledger.trouble("WebSocket", reason, began, relayed=True)
