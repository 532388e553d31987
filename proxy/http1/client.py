"""A connection to an endpoint that speaks HTTP/1.1: one exchange at a time, then back to the pool.

Its counterpart is the exchange that has it. It sends a request as its parts come and reads the response strictly;
a connection on which anything was out of order is never used again, nor one that 101 made another protocol's.
"""

import asyncio
from typing import Final, cast

from proxy.endpoint import LiveEndpoint
from proxy.errors import Failure, of_answer
from proxy.exchange import Exchange
from proxy.http1.bodies import BadBody, BodyReader, ChunkedReader, LengthReader, UntilCloseReader, chunk, last_chunk
from proxy.http1.heads import CHUNKED, MAX_HEAD_BYTES, UNTIL_CLOSE, BadHead, HeadTable, ResponseHead, parse_response
from proxy.http1.raw import RawConnection
from proxy.stalls import Outflow
from proxy.stats import TcpTraffic
from proxy.sweep import Sweep

IDLE_S: Final = 3.0
"""How long a connection to an application is kept idle, a second more at worst: less than the 5 s after which common
servers close theirs."""
MAX_IDLE: Final = 1000
"""Idle connections kept to one endpoint."""

responses = HeadTable(parse_response)


class ClientConnection(asyncio.Protocol):
    """See the module."""

    def __init__(self, live: LiveEndpoint, sweep: Sweep, tcp: TcpTraffic) -> None:
        self.live = live
        self.reused = False
        self.idle_since = 0.0
        self._sweep = sweep
        self._tcp = tcp
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._scanned = 0  # so much of it is known to hold no end of a head
        self._body: BodyReader | None = None
        self._status = 0
        self._keep = True
        self._sent_all = True
        self._chunked = False
        self._held = False  # the caller has no room for more of the answer
        self._full = False  # the endpoint has none for more of the request
        self._outflow = Outflow()
        self._transport: asyncio.Transport

    # --- from the exchange

    def send(self, exchange: Exchange, extra: bytes, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Send the exchange's head with the `extra` field lines, and what is there of its body."""
        self._exchange = exchange
        head = exchange.head
        data = head.forward + extra + b"\r\n"
        if head.length:
            self._chunked = head.length == CHUNKED
            data += self._framed(payload, ended, trailers)
        self._sent_all = ended or not head.length  # an upgrade does not end, but has no body
        self._tcp.written_bytes += len(data)
        self._transport.write(data)

    def send_more(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        """Send more of the body."""
        self._sent_all = ended
        data = self._framed(payload, ended, trailers)
        if data:
            self._tcp.written_bytes += len(data)
            self._transport.write(data)

    def _framed(self, payload: bytes, ended: bool, trailers: bytes) -> bytes:
        if not self._chunked:
            return payload
        return chunk(payload) + last_chunk(trailers) if ended else chunk(payload)

    def hold(self) -> None:
        """Read no more of the answer for now."""
        if not self._held:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """There is room again."""
        if self._held:
            self._held = False
            self._transport.resume_reading()

    def cancel(self) -> None:
        """Nobody wants the answer any more; it is on its way, so the connection cannot be used again."""
        self._exchange = None
        self._transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        self._transport.close()

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._tcp.opened += 1
        self._sweep.add(self)

    def data_received(self, data: bytes) -> None:
        self._tcp.read_bytes += len(data)
        if self._exchange is None:
            self._leave_pool()
            self._transport.abort()  # an answer to nothing
        elif self._body is not None:
            self._more_body(data)
        else:
            self._read_head(self._buffer + data if self._buffer else data)

    def _read_head(self, data: bytes) -> None:
        """Read the head at the start of data, interim ones before it, and what is there of the body."""
        exchange = self._exchange
        assert exchange is not None
        while True:
            end = data.find(b"\r\n\r\n", self._scanned) + 4
            if end == 3:
                self._buffer = data
                self._scanned = max(0, len(data) - 3)
                if len(data) > MAX_HEAD_BYTES:
                    self._broken(f"a response head of more than {MAX_HEAD_BYTES} bytes", Failure.LARGE_RESPONSE)
                return
            raw = data[:end]
            head = responses.get(raw)
            if head is None:
                try:
                    head = responses.parse(raw)
                except BadHead as error:
                    self._broken(error.reason, of_answer(error.status))
                    return
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(exchange, head, data[end:])
                return
            if not exchange.interim(head):
                self._broken("interim answers without end")
                return
            data = data[end:]
            self._scanned = 0
        self._buffer = b""
        self._scanned = 0
        self._keep = head.keep_alive
        length = 0 if exchange.head.method == b"HEAD" else head.usual_length
        if length == len(data) - end:
            # All of it at once, which is the usual case.
            self._done()
            exchange.respond(head, length, data[end:], True, data if head.verbatim else None)
        else:
            self._begin_body(exchange, head, length, data[end:])

    def _switch(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """Another protocol follows, if it was asked for."""
        if not head.switches(exchange.head):
            self._broken("101 with a protocol that the request did not ask for")
            return
        self._exchange, self._buffer = None, b""
        self._sweep.discard(self)
        end = RawConnection(
            self._transport, self._tcp, rest, ended=False, full=self._full, held=self._held, closed=lambda: None
        )
        exchange.switch(head, end)

    def _begin_body(self, exchange: Exchange, head: ResponseHead, length: int, rest: bytes) -> None:
        body: BodyReader
        if length == CHUNKED:
            body = ChunkedReader()
        elif length == UNTIL_CLOSE:
            body = UntilCloseReader()
            self._keep = False
        else:
            body = LengthReader(length)
        self._body, self._status = body, head.status
        try:
            payload = body.feed(rest)
        except BadBody as error:
            self._broken(str(error))
            return
        if body.trailers:
            exchange.respond(head, length, payload, False, None)
            self._end_of_body(body)  # not before: the caller may have held this connection
            exchange.respond_more(head.status, b"", True, body.trailers)
            return
        if body.done:
            self._end_of_body(body)
        exchange.respond(head, length, payload, body.done, None)

    def _more_body(self, data: bytes) -> None:
        exchange, body = self._exchange, self._body
        assert exchange is not None
        assert body is not None
        try:
            payload = body.feed(data)
        except BadBody as error:
            self._broken(str(error))
            return
        if body.done:
            self._end_of_body(body)
        exchange.respond_more(self._status, payload, body.done, body.trailers)

    def _end_of_body(self, body: BodyReader) -> None:
        self._body = None
        if body.rest:
            self._keep = False  # more than was asked for
        self._done()

    def _done(self) -> None:
        """The response is whole: back to the pool, if the connection is in order."""
        self._exchange = None
        live = self.live
        if self._keep and self._sent_all and not self._full and not live.retired and len(live.idle) < MAX_IDLE:
            self.park()
        else:
            self._transport.close()

    def park(self) -> None:
        """Wait in the endpoint's pool."""
        if self._held:
            self.release()
        self.reused = True
        self.idle_since = 0.0  # from the next look at the clock on
        self.live.idle.append(self)

    def _leave_pool(self) -> None:
        """It is about to close: no exchange may have it, though its loss is told only later."""
        if self in self.live.idle:
            self.live.idle.remove(self)

    def _broken(self, reason: str, failure: Failure = Failure.BAD_RESPONSE) -> None:
        exchange, self._exchange = self._exchange, None
        self._transport.abort()
        if exchange is not None:
            exchange.lost(failure, ConnectionError(reason))

    def eof_received(self) -> bool:
        self._leave_pool()
        return False  # close; connection_lost tells the exchange

    def connection_lost(self, exc: Exception | None) -> None:
        self._tcp.close(exc)
        self._sweep.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            self._leave_pool()
        elif isinstance(self._body, UntilCloseReader) and exc is None:
            self._body = None
            exchange.respond_more(self._status, b"", True, b"")
        else:
            exchange.lost(Failure.CLOSED, exc)

    def pause_writing(self) -> None:
        self._full = True
        if self._exchange is not None:
            self._exchange.caller.hold()

    def resume_writing(self) -> None:
        self._full = False
        if self._exchange is not None:
            self._exchange.caller.release()

    def sweep(self, now: float) -> None:
        if self._outflow.stuck(self._transport.get_write_buffer_size(), now):
            self._broken("nothing of the request has been read for a while", Failure.UNREAD)
        elif self._exchange is None and self.reused:
            if not self.idle_since:
                self.idle_since = now
            elif now - self.idle_since > IDLE_S:
                self._leave_pool()
                self._transport.close()
