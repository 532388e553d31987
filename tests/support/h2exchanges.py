"""Callers' and endpoints' connections of HTTP/2 with real exchanges between them, on recorded wires."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.endpoint import LiveEndpoint
from proxy.exchange import Exchange
from proxy.http2.client import Http2Client
from proxy.http2.fields import Field, FieldDecoder
from proxy.http2.frames import DATA, END_STREAM, HEADERS, PREFACE, RST_STREAM, Code
from proxy.http2.server import Http2Server
from tests.support.aio import run
from tests.support.exchanges import OUTBOUND, Rig
from tests.support.h2 import Frame, frames_of, settings
from tests.support.wire import Wire


class Peer:
    """The other side of a wire, who reads and writes frames."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._decoder = FieldDecoder()

    def says(self, *sent: bytes) -> None:
        self.wire.says(b"".join(sent))

    async def hears(self) -> list[Frame]:
        """The frames that came since it last listened."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.wire.settle()
        return frames_of(self.wire.heard())

    async def hears_on(self, number: int) -> tuple[list[Field], bytes, bool, Code | None]:
        """(fields of all blocks, content, whether it ended, code it was reset with), on one stream."""
        fields: list[Field] = []
        content, ended, code = b"", False, None
        for each in await self.hears():
            block = self._decoder.decode(each.payload) if each.kind == HEADERS else []
            if each.stream != number:
                continue
            fields += block
            if each.kind == DATA:
                content += each.payload
            if each.kind in (DATA, HEADERS):
                ended = ended or bool(each.flags & END_STREAM)
            if each.kind == RST_STREAM:
                code = Code(int.from_bytes(each.payload, "big"))
        return fields, content, ended, code


class H2Rig(Rig):
    """A rig whose endpoints speak HTTP/2: exchanges share their connections, as by `proxy.connect.Dialer`."""

    def connect(self, exchange: Exchange, live: LiveEndpoint) -> None:
        for connection in live.shared:
            if connection.room > 0:
                exchange.connected(connection.stream())
                return
        self.asked.append((exchange, live))

    async def open_h2(self, **values: int) -> Peer:
        """The connection that the first exchange asked for is made; all that wait for its endpoint have it."""
        live = self.asked[0][1]
        client = Http2Client(live, self.sweep, live.tcp)
        peer = Peer(Wire(client))
        live.shared.append(client)
        peer.says(settings(**values))
        await peer.hears()
        self.destination.succeeded(live)
        waiting = [each for each in self.asked if each[1] is live]
        self.asked = [each for each in self.asked if each[1] is not live]
        for exchange, _ in waiting:
            if client.room > 0:
                exchange.connected(client.stream())
            else:
                self.asked.append((exchange, live))
        return peer

    async def caller(self, clogged: bool = False, from_proxy: bool = False, **values: int) -> Peer:
        """A caller that speaks HTTP/2, and has begun."""
        server = Http2Server(self, self.stats.tcp(OUTBOUND, "src"), self.sweep, from_proxy)
        peer = Peer(Wire(server, clogged))
        peer.says(PREFACE, settings(**values))
        await peer.hears()
        return peer


Test = Callable[[], Coroutine[Any, Any, None]]


def on_loop(test: Test) -> Callable[[], None]:
    """A test that runs on the product's loop."""

    def runs() -> None:
        run(test())

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    return runs
