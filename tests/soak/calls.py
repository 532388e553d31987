"""Callers of gRPC, on its own client: unary, streams down and up, and both at once."""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import grpc

from tests.soak import content
from tests.soak.http1 import WITHIN_S
from tests.soak.ledger import Broken, Ledger

OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


FRAMING_BYTES = 5
"""Before each message."""


class Moved:
    """What has gone up and come down in a call."""

    def __init__(self) -> None:
        self.up_bytes = 0
        self.down_bytes = 0

    def up(self, message: bytes) -> bytes:
        self.up_bytes += len(message) + FRAMING_BYTES
        return message


async def unary(channel: Any, chance: random.Random, moved: Moved) -> None:
    message = moved.up(content.body(chance.choice(content.SIZES)))
    if await channel.unary_unary("/soak.Echo/Unary")(message) != message:
        raise Broken("other bytes came back")
    moved.down_bytes = len(message)


async def down(channel: Any, chance: random.Random, moved: Moved) -> None:
    count, number = chance.randrange(1, 300), 0
    async for message in channel.unary_stream("/soak.Echo/Down")(moved.up(b"%d" % count)):
        if message != content.body(1 + number % 1000):
            raise Broken(f"message {number} is not as it was sent")
        moved.down_bytes += len(message)
        number += 1
    if number != count:
        raise Broken(f"{number} messages of {count} came")


async def up(channel: Any, chance: random.Random, moved: Moved) -> None:
    sizes = [chance.choice(content.SIZES[:9]) for _ in range(chance.randrange(1, 20))]

    async def messages() -> AsyncIterator[bytes]:
        for size in sizes:
            yield moved.up(content.body(size))

    checksum = 0
    for size in sizes:
        checksum = zlib.crc32(content.body(size), checksum)
    answer = await channel.stream_unary("/soak.Echo/Up")(messages())
    if answer != b"%d %d" % (sum(sizes), checksum):
        raise Broken(f"the application got {answer!r}")


async def both(channel: Any, chance: random.Random, moved: Moved) -> None:
    """Message by message, with pauses: a stream that lives for some seconds."""
    call = channel.stream_stream("/soak.Echo/Both")()
    for _ in range(chance.randrange(1, 30)):
        message = moved.up(content.body(chance.choice(content.SIZES[:8])))
        await call.write(message)
        answer = await call.read()
        if answer is grpc.aio.EOF:
            await _raise(call)
        if answer != message[::-1]:
            raise Broken("other bytes came back")
        moved.down_bytes += len(message)
        await asyncio.sleep(chance.uniform(0.0, 0.2))
    await call.done_writing()
    if await call.read() is not grpc.aio.EOF:
        raise Broken("more came than was asked for")


async def _raise(call: Any) -> None:
    raise grpc.aio.AioRpcError(await call.code(), (), (), await call.details())


KINDS = {"gRPC unary": unary, "gRPC down": down, "gRPC up": up, "gRPC both": both}
_CUT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
"""What a call may end with whose connection was killed: the proxy's own answer, and that of a stream that was cut."""


async def call(channel: Any, kind: str, ledger: Ledger, chance: random.Random) -> None:
    """One call, checked, and put into the ledger."""
    began, moved = monotonic(), Moved()
    try:
        async with asyncio.timeout(WITHIN_S):
            await KINDS[kind](channel, chance, moved)
    except TimeoutError:
        reason = "no whole answer in time"
    except Broken as broken:
        reason = str(broken)
    except grpc.aio.AioRpcError as error:
        unreached = "no endpoint of the service" in (error.details() or "")
        known = "503" if unreached else "cut" if error.code() in _CUT else ""
        known = "cancelled" if error.code() is grpc.StatusCode.CANCELLED else known
        reason = known or f"{error.code()}: {error.details()}"
    except asyncio.InvalidStateError:
        reason = "cut"  # grpcio's word for a write to a call that has ended
    else:
        ledger.well(kind, moved.up_bytes, moved.down_bytes)
        return
    ledger.trouble(kind, reason, began, sent_bytes=moved.up_bytes)


async def cancels(port: int, ledger: Ledger, chance: random.Random) -> None:
    """Calls that nobody waits for."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        calls = [channel.unary_stream("/soak.Echo/Down")(b"100000") for _ in range(3)]
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        for each in calls:
            each.cancel()
    ledger.given_up["cancelled call"] += len(calls)
