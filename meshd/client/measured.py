"""What the proxies of this host measured of a service's endpoints, asked at their admin ports.

One request a proxy, all at once. What a port says is bounded and strictly parsed: a workload's admin port is whatever
its `meshd run` said it is.
"""

import asyncio
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import msgspec

from meshd.api.measured import Measured
from meshd.api.names import Address
from meshd.api.problems import Problem

WITHIN_S: Final = 4.0
"""A proxy waits 2 s for its workers."""

MAX_PAGE_BYTES: Final = 16 << 20
MAX_AT_ONCE: Final = 64

_decode: Final = msgspec.json.Decoder(Measured).decode


async def measured(admins: Iterable[Address], service: str) -> dict[Address, Measured | Problem]:
    """What the proxy at each admin address says of the service NAME.NAMESPACE:PORT, or why it does not."""
    turns = asyncio.Semaphore(MAX_AT_ONCE)
    asked = tuple(dict.fromkeys(admins))

    async def ask(admin: Address) -> Measured | Problem:
        async with turns:
            try:
                return await _ask(admin, service)
            except Problem as problem:
                return problem

    return dict(zip(asked, await asyncio.gather(*map(ask, asked)), strict=True))


async def _ask(admin: Address, service: str) -> Measured:
    try:
        async with asyncio.timeout(WITHIN_S):
            head, _, body = (await _get(admin, f"/endpoints?service={quote(service, safe=':')}")).partition(b"\r\n\r\n")
    except TimeoutError as error:
        raise Problem(f"the proxy at {admin} did not answer within {WITHIN_S:g} s") from error
    except OSError as error:
        raise Problem(f"the proxy at {admin} does not answer: {error.strerror or error}") from error
    version, _, status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or status != "200 OK":
        raise Problem(f"the proxy at {admin} does not say what it measured (of another version?): {status[:50]!r}")
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(f"the proxy at {admin} says what is not understood: {error}") from error


async def _get(admin: Address, target: str) -> bytes:
    """The answer to a request, head and body, to the end of the connection."""
    reader, writer = await asyncio.open_connection(*admin)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n".encode())
        parts, size = [], 0
        while part := await reader.read(256 << 10):
            parts.append(part)
            size += len(part)
            if size > MAX_PAGE_BYTES:
                raise Problem(f"the proxy at {admin} says more than {MAX_PAGE_BYTES >> 20} MiB")
        return b"".join(parts)
    finally:
        writer.transport.abort()
