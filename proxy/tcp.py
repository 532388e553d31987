"""Opaque bytes, both ways, with back-pressure and half-close.

A relay is two ends joined. Each end is a protocol on one connection; what it reads its `other` writes. Towards another
proxy an end speaks records (`proxy.mesh.records`), which carry the end of a direction where TLS cannot. A connection
that breaks, or is cut short of its empty record, resets the other: what was truncated is never passed off as whole. One
between proxies on which both directions have ended in order is given back, for another relay (`proxy.parked`).
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from proxy.connect import Dialer, Opened
from proxy.destination import Destination
from proxy.endpoint import LiveEndpoint
from proxy.errors import Failure
from proxy.mesh.records import END, BadRecord, RecordReader, as_record
from proxy.stats import Direction, Stats, TcpTraffic
from proxy.transports import break_off

MAX_EARLY_BYTES: Final = 256 << 10
"""Read from a caller before its endpoint is connected; beyond it the caller waits."""


Park = Callable[[LiveEndpoint, asyncio.Transport], bool]


class RelayEnd(asyncio.Protocol):
    """One end of a relay. `records`: the other side of this connection is a proxy. `opening` is sent first.

    `ended` and `finished` are the two directions of this connection: the peer will send no more, and neither shall we.
    """

    def __init__(self, tcp: TcpTraffic, *, records: bool, opening: bytes = b"") -> None:
        self._tcp = tcp
        self._reader = RecordReader() if records else None
        self._opening = opening
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._other: RelayEnd | None = None
        self.ended = False
        self.finished = False
        self.error: BaseException | None = None
        self.lost = False
        self.heard = False  # anything at all has come
        self.broken_off = False  # by this side
        self.transport: asyncio.Transport

    def join(self, other: "RelayEnd") -> None:
        """Make a relay of this end and another, both connected once; what has come already is passed on first."""
        if self.lost and other.lost:
            return
        self._other, other._other = other, self  # both at once, so that either can hold the other from the first byte
        if (self.lost and not self._took_leave) or other.lost:
            (other if self.lost else self).abort(self.error or other.error)
            return
        self._pass_on_early(other)
        other._pass_on_early(self)

    def _pass_on_early(self, other: "RelayEnd") -> None:
        if self._early_bytes > MAX_EARLY_BYTES and not self.lost:
            self.transport.resume_reading()  # first: to pass it on may be to hold again
        for data in self._early:
            other.write(data)
        self._early.clear()
        if self.ended:
            other.finish()

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._tcp.opened += 1
        if self._opening:
            self.transport.write(self._opening)

    def data_received(self, data: bytes) -> None:
        self._tcp.read_bytes += len(data)
        if not self.heard:
            self.heard = True
            self.hears()
        reader = self._reader
        if reader is None:
            self._pass_on(data)
            return
        try:
            pieces = reader.feed(data)
        except BadRecord as error:
            self.abort(ConnectionError(str(error)))
            return
        for piece in pieces:
            self._pass_on(piece)
        if reader.ended:
            self._end()
            if len(reader.rest) >= 4 and not self.lost:
                self.abort(ConnectionError("bytes after the end of the direction"))

    def hears(self) -> None:
        """The first bytes have come."""

    def _pass_on(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
            return
        self._early.append(data)
        self._early_bytes += len(data)
        if self._early_bytes > MAX_EARLY_BYTES:
            self.transport.pause_reading()

    def _end(self) -> None:
        """The peer has said all."""
        if not self.ended:
            self.ended = True
            if self._other is not None:
                self._other.finish()

    def eof_received(self) -> bool:
        if self._reader is not None:
            if not self._reader.ended:
                self.error = ConnectionError("the peer's connection was cut short")
            return False
        self._end()
        return not self.finished and self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = self.error or exc
        self._tcp.close(self.error)
        self.lost = True
        other = self._other
        if other is None:
            return
        if not (self.ended and self.finished and self.error is None):
            if not self._took_leave:
                other.abort(self.error)
            elif not other.lost:
                other.transport.resume_reading()  # to see its end
        if other.lost:
            # Two ends that know each other are a ring, and each holds a connection's buffers: a megabyte or so until
            # the collector comes by, which is seldom.
            self._other = other._other = None

    @property
    def _took_leave(self) -> bool:
        """Whether the peer has said all and hears no more: TLS ends both directions at once. What it said still
        goes to the other end, which is broken off when it says more, as a peer that has closed would reset it."""
        return self.lost and self.ended and self.error is None and self._reader is None

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.transport.resume_reading()

    # --- from the other end

    def write(self, data: bytes) -> None:
        """Send data to the peer."""
        if self.lost and self._other is not None:
            self._other.abort(ConnectionResetError("the peer has closed"))
            return
        self._tcp.written_bytes += len(data)
        if self._reader is None:
            self.transport.write(data)
        else:
            self.transport.writelines(as_record(data))

    def finish(self) -> None:
        """The other side has said all: tell the peer so, and close when it has said all too."""
        if self.finished:
            return
        self.finished = True
        if self._reader is not None:
            self.transport.write(END)
        elif not self.transport.can_write_eof():
            self._end()  # TLS ends both directions at once
        elif not self.ended:
            self.transport.write_eof()
        other = self._other  # which is forgotten where the connection is given back
        self._close_when_over()
        if other is not None:
            other._close_when_over()

    def _close_when_over(self) -> None:
        if self.ended and self.finished and not self.lost:
            if self._reader is not None and not self.broken_off and self.give_back(self._reader):
                # The other may still be sending. How that goes is not to be felt by whom the connection is of use to.
                other, self._other = self._other, None
                if other is not None:
                    other._other = None
                self.connection_lost(None)  # for the relay it is
            else:
                self.transport.close()

    def give_back(self, reader: RecordReader) -> bool:  # noqa: ARG002 - for those that can
        """Let the connection to another proxy, on which all has been said, be of use to others; whether it is."""
        return False

    def leave(self) -> None:
        """End the connection: nothing was said on it from our side, and nothing will be."""
        self.broken_off = True  # that the peer says nothing either is not its fault
        self._other = None
        if not self.lost:
            self.finish()
            self.transport.close()

    def abort(self, error: BaseException | None) -> None:
        """Break the connection: what was sent is not all there was."""
        self.broken_off = True
        self.error = self.error or error or ConnectionAbortedError("the other end was lost")
        break_off(self.transport)


async def open_end(destination: Destination, dialer: Dialer, patience_s: float) -> "EndpointEnd | Failure":
    """The end of a relay at an endpoint of destination, connected."""

    def make(live: LiveEndpoint, opening: bytes) -> EndpointEnd:
        return EndpointEnd(destination, live, opening, dialer.park)

    return await dialer.open_tcp(destination, patience_s, make)


class EndpointEnd(RelayEnd, Opened):
    """The end at an endpoint, which counts it as open from when it is made until it is lost, or was never had.

    Another proxy takes the connection before it has one to its application, and cuts it when it gets none: so the
    endpoint has not shown itself before something has come. Else the one whose application is gone, with the fewest
    connections of all, would get every new one.
    """

    def __init__(self, destination: Destination, live: LiveEndpoint, opening: bytes, park: Park) -> None:
        super().__init__(live.relayed, records=bool(live.endpoint.identity), opening=opening)
        self._park = park
        self._destination = destination
        self._live = live
        self._is_open = True
        live.open += 1
        self.meshed = bool(live.endpoint.identity)

    def not_opened(self) -> None:
        """See `proxy.connect.Opened`. A connection that was made in the moment its time was over is counted once."""
        if self._is_open:
            self._is_open = False
            self._live.open -= 1

    def hears(self) -> None:
        self._destination.succeeded(self._live)

    def give_back(self, reader: RecordReader) -> bool:
        return not reader.last and not reader.rest and self._park(self._live, self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.not_opened()
        super().connection_lost(exc)
        if self._live.endpoint.identity and not self.heard and not self.broken_off:
            self._destination.missed(self._live)


async def relay(
    caller: RelayEnd, direction: Direction, destination: Destination, dialer: Dialer, patience_s: float, stats: Stats
) -> None:
    """Connect `caller` to an endpoint of destination and join them; break it off where none is had."""
    endpoint = await open_end(destination, dialer, patience_s)
    if isinstance(endpoint, Failure):
        stats.count_error(direction, "tcp", endpoint.value.label)
        caller.abort(ConnectionError(endpoint.value.text))
    else:
        caller.join(endpoint)
