"""The sockets of the name server: datagrams, and connections (RFC 7766), at one port.

A port that cannot be had is said, and keeps nothing from running: any user of the host could take it first.
"""

import asyncio
import logging
import os
import struct
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from meshd.agent.complaints import complaints
from meshd.agent.names.existence import Existence, Watch
from meshd.agent.names.responder import MAX_QUERY_BYTES, Reply, Responder
from meshd.agent.names.settings import NamesSettings
from meshd.agent.names.sockets import opened
from meshd.agent.names.store import FILE_NAME, Store
from meshd.agent.names.table import Table
from meshd.agent.names.zones import Zones
from meshd.api.inherited import inherited
from meshd.api.names import Address
from meshd.api.tasks import Tasks
from meshd.ca.rates import Rate

log = logging.getLogger(__name__)

MAX_WAITING = 512
"""Questions for which discovery is waited for."""

MAX_CONNECTIONS = 64

MAX_QUERIES = 1000
"""Of one connection."""

IDLE_S = 10.0
"""How long a connection has for its next question, and for reading an answer."""

QUERIES_PER_S, QUERIES_BURST = 2000.0, 4000
"""Beyond this datagrams are dropped, and connections ended: the agent has other work to do. A question takes a tenth
of a millisecond."""

SWEEP_S = 30.0

_LENGTH = struct.Struct("!H")


class NameServer:
    """At `listen`; the addresses are kept in `state_dir`. `answered` counts questions, by what their answers were."""

    def __init__(self, settings: NamesSettings, domains: tuple[str, ...], trust_domain: str, state_dir: Path) -> None:
        address = settings.address
        assert address is not None
        self.address = address
        """Where it listens, once it does."""
        self.trouble = ""
        """Why it does not."""
        self.answered: Counter[str] = Counter()
        self.virtual = Table(settings.ranges(trust_domain))
        self._store = Store(self.virtual, state_dir / FILE_NAME)
        self._namespace = settings.namespace
        self._zones = Zones(domains, self.virtual.ranges, settings.namespace)
        self._rate = Rate(QUERIES_PER_S, QUERIES_BURST, time.monotonic)
        self._tasks = Tasks("names")
        self._waiting = self._connections = 0
        self._existence: Existence | None = None
        self._responder: Responder | None = None
        self._server: asyncio.Server | None = None
        self._transport: asyncio.BaseTransport | None = None

    async def start(self, watch: Watch) -> None:
        """Answer from what is watched."""
        self._existence = Existence(watch, self._namespace)
        self._responder = Responder(self._zones, self.virtual, self._existence)
        loop = asyncio.get_running_loop()
        try:
            stream, datagrams = opened(self.address, inherited())
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self.trouble = f"{self.address}: names are not answered: cannot listen: {reason}: choose another "
            self.trouble += "`names.listen`, and restart"
            log.error("%s", self.trouble)
            return
        self.address = Address(*stream.getsockname()[:2])
        self._server = await asyncio.start_server(self._connected, sock=stream, limit=MAX_QUERY_BYTES + 2)
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._tasks.start(self._sweep(self._existence), "sweep")
        log.info("names are answered at %s", self.address)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._transport is not None:
            self._transport.close()
        await self._tasks.cancel()
        if self._existence is not None:
            self._existence.close()
        self._store.close()

    @staticmethod
    async def _sweep(existence: Existence) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            existence.sweep()

    # --- questions ----------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        if self._rate.wait_s(""):
            self.answered["dropped"] += 1
            complaints.warning("names: more than %d questions a second: some are dropped", QUERIES_PER_S)
            return False
        self._rate.take("")
        return True

    def datagram(self, data: bytes, sender: tuple[Any, ...], transport: asyncio.DatagramTransport) -> None:
        """A question from sender."""
        assert self._responder is not None
        if not self._has_room():
            return
        reply = self._responder.respond(data)
        if reply is None or isinstance(reply, Reply):
            self._send(reply, sender, transport)
        elif self._waiting >= MAX_WAITING:
            reply.close()
            self._send(self._responder.refused(data), sender, transport)
        else:
            self._waiting += 1
            self._tasks.start(self._send_later(reply, sender, transport), "question")

    async def _send_later(
        self, reply: Coroutine[Any, Any, Reply], sender: tuple[Any, ...], transport: asyncio.DatagramTransport
    ) -> None:
        try:
            self._send(await reply, sender, transport)
        finally:
            self._waiting -= 1

    def _send(self, reply: Reply | None, sender: tuple[Any, ...], transport: asyncio.DatagramTransport) -> None:
        if reply is not None and not transport.is_closing():
            self.answered[reply.code] += 1
            transport.sendto(reply.wire, sender)

    # --- connections --------------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            complaints.warning("names: more than %d connections: one was ended", MAX_CONNECTIONS)
            writer.transport.abort()
            return
        self._connections += 1
        self._tasks.start(self._serve(reader, writer), "connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(MAX_QUERIES):
                async with asyncio.timeout(IDLE_S):
                    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                    if length > MAX_QUERY_BYTES or not self._has_room():
                        return
                    data = await reader.readexactly(length)
                    reply = await self._reply(data)
                    if reply is None:
                        return
                    self.answered[reply.code] += 1
                    writer.write(_LENGTH.pack(len(reply.wire)) + reply.wire)
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _reply(self, data: bytes) -> Reply | None:
        assert self._responder is not None
        reply = self._responder.respond(data, stream=True)
        return reply if reply is None or isinstance(reply, Reply) else await reply


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._server.datagram(data, addr, self._transport)
