"""What holding connections open costs the CA: so many, each for so long; and so many handshakes at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import cast

from meshd.ca.authority import Authority
from meshd.ca.door import AT_ONCE
from meshd.ca.limits import Limited
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, client, served


class Echo(asyncio.Protocol):
    """Sends back what it gets, and counts itself."""

    alive = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        Echo.alive += 1

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.alive -= 1


@asynccontextmanager
async def listening(limits: Limited) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(limits, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echoed(port: int) -> tuple[bytes, asyncio.StreamWriter]:
    """What a new connection hears; nothing when it is closed on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    try:
        return await reader.read(5), writer
    except ConnectionError:
        return b"", writer


def test_a_connection_too_many_is_closed_and_its_place_is_free_when_another_ends() -> None:
    async def main() -> None:
        async with listening(Limited(Echo, max_connections=2)) as port:
            (first, one), (second, two) = await echoed(port), await echoed(port)
            third, three = await echoed(port)
            assert (first, second, third) == (b"hello", b"hello", b"")
            one.close()
            async with asyncio.timeout(60):
                while (again := await echoed(port))[0] == b"":
                    again[1].close()
            assert Echo.alive == 2
            for writer in (two, three, again[1]):
                writer.close()

    aio.run(main())


def test_a_connection_ends_when_its_time_is_over_whatever_it_does() -> None:
    async def main() -> None:
        async with listening(Limited(Echo, life_s=0.3)) as port:
            begun = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):
                writer.write(b"x")
                while await reader.read(1):
                    writer.write(b"x")
            assert time.monotonic() - begun > 0.25
            writer.close()
        assert Echo.alive == 0

    aio.run(main())


def test_peers_that_say_nothing_keep_no_one_out(tmp_path: Path) -> None:
    """More of them than handshakes are begun at once."""

    async def main() -> None:
        with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time(), TOKEN)) as authority:
            async with served(authority) as server, AsyncExitStack() as silent:
                for _ in range(AT_ONCE + 10):
                    _, writer = await asyncio.open_connection(server.address.host, server.address.port)
                    silent.callback(writer.close)
                async with asyncio.timeout(60):
                    await client(server, authority.bundle_pem).health()

    aio.run(main())


def test_what_is_no_tls_takes_the_place_of_no_one(tmp_path: Path) -> None:
    async def main() -> None:
        with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time(), TOKEN)) as authority:
            async with served(authority) as server:
                for _ in range(AT_ONCE + 10):
                    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                    with suppress(ConnectionError):
                        await reader.read()
                    writer.close()
                await client(server, authority.bundle_pem).health()

    aio.run(main())
