"""A connection to an endpoint that speaks HTTP/2: many exchanges at once, each a stream.

Its counterparts are the exchanges that have its streams, and the endpoint's set of shared connections, which it is in
for as long as it takes new ones.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from proxy.endpoint import LiveEndpoint
from proxy.errors import Bound, Failure, of_answer
from proxy.exchange import Exchange
from proxy.http1.heads import CHUNKED, UNTIL_CLOSE, BadHead, ResponseHead
from proxy.http2 import heads
from proxy.http2.connection import Http2Connection
from proxy.http2.engine import ProtocolError, Stream
from proxy.http2.fields import CompressionError, FieldDecoder, FieldsTooLarge, encode
from proxy.http2.frames import Code
from proxy.http2.memo import BlockReader, SharedHeads
from proxy.http2.raw import RawStream
from proxy.stats import TcpTraffic
from proxy.sweep import Sweep

log = logging.getLogger(__name__)

IDLE_S: Final = 60.0
SILENT_S: Final = 10.0
"""How long another proxy may say nothing to requests before it is asked whether it is there; Linkerd's keep-alive."""
ANSWER_S: Final = 3.0
"""How long it may take to say so."""
MAX_STREAMS: Final = 256
"""Streams on one connection; beyond it another is opened, even where the peer allows more."""

_NO_CONTENT: Final = encode([(b"content-length", b"0")])

_from_applications: SharedHeads[ResponseHead] = SharedHeads()
_from_proxies: SharedHeads[ResponseHead] = SharedHeads()
_trailers: SharedHeads[bytes] = SharedHeads()

D = TypeVar("D")


class Http2Client(Http2Connection):
    """See the module. `opening` is sent first: the transport header, on a mesh connection."""

    def __init__(self, live: LiveEndpoint, sweep: Sweep, tcp: TcpTraffic, opening: bytes = b"") -> None:
        super().__init__(True, tcp, sweep)
        self._live = live
        self._decoder = FieldDecoder()
        proxy = bool(live.endpoint.identity)
        shared = _from_proxies if proxy else _from_applications
        self._reader = BlockReader(self._decoder, shared, partial(heads.response, from_proxy=proxy))
        self._trailers = BlockReader(self._decoder, _trailers, heads.trailers)
        self._idle_since = 0.0
        self.proxy = proxy
        if opening:
            self.out.append(opening)

    @property
    def room(self) -> int:
        """How many more streams may be opened now."""
        if self.going_away or self.exhausted or self.transport.is_closing():
            return 0
        return min(self.peer_max_streams, MAX_STREAMS) - len(self.streams)

    def stream(self) -> "ClientStream":
        """A stream for an exchange; it takes its number when it is sent."""
        return ClientStream(self)

    def close(self) -> None:
        """End it when its streams have ended: it is no longer wanted for new ones."""
        if not self.going_away:
            self.go_away(final=True)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self.streams:
            self._flush()
            self.transport.close()

    # --- from the engine

    def read(self, block: bytes) -> ResponseHead:
        """The response's head that block holds. BadHead; ProtocolError."""
        try:
            return self._reader.read(block)
        except CompressionError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error), Bound.COMPRESSION) from error
        except FieldsTooLarge as error:
            raise BadHead("a head that is too large", 431) from error

    def trailers(self, block: bytes) -> bytes:
        """The lines of the trailer section that block holds. BadHead; ProtocolError."""
        return self._decoded(self._trailers.read, block)

    def _decoded(self, read: Callable[[bytes], D], block: bytes) -> D:
        try:
            return read(block)
        except (CompressionError, FieldsTooLarge) as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error), Bound.COMPRESSION) from error

    def on_stray_block(self, block: bytes) -> None:
        """Keep the dynamic table in step."""
        self._decoded(self._decoder.decode, block)

    def on_stream(self, number: int, block: bytes, ended: bool) -> None:  # noqa: ARG002 - the engine's signature
        raise ProtocolError(Code.PROTOCOL_ERROR, "a stream that the server opened")

    def on_goaway(self, code: int) -> None:  # noqa: ARG002 - the engine's signature
        self._live.unshare(self)
        self._close_if_idle()

    def on_capacity(self) -> None:
        if self.going_away:
            self._close_if_idle()

    def broken(self, error: ProtocolError) -> None:
        endpoint = self._live.endpoint
        log.warning(
            "%s:%d does not keep to HTTP/2: its connection is ended: %s", endpoint.address, endpoint.port, error
        )
        self._lose(Failure.BAD_ENDPOINT, str(error))

    def break_off(self, stream: Stream, code: Code) -> None:
        """See `Engine.break_off`."""
        if isinstance(stream, ClientStream):
            stream.give_up(code, Failure.BAD_ENDPOINT, f"a stream that ended with {code.name}")
        else:
            super().break_off(stream, code)

    def unread(self) -> None:
        self._lose(Failure.UNREAD, "nothing of what was sent has been read for a while")

    def lost(self) -> None:
        self._lose(Failure.CLOSED, "the connection was lost")

    def _lose(self, failure: Failure, reason: str) -> None:
        """It is over, or will be at once, and with it what is under way."""
        self._live.unshare(self)
        streams = tuple(self.streams.values())
        self.streams.clear()
        self._waiting.clear()
        for stream in streams:
            if isinstance(stream, ClientStream):
                stream.on_lost(failure, reason)
            else:
                stream.on_reset(Code.CONNECT_ERROR, False)

    def sweep(self, now: float) -> None:
        super().sweep(now)
        # Applications are not asked, as gRPC's servers take frequent PINGs for an attack.
        if self.proxy and self.vanished(now, SILENT_S, ANSWER_S):
            endpoint = self._live.endpoint
            log.warning("%s at %s has gone silent: its connection is given up", endpoint.identity, endpoint.address)
            self._lose(Failure.SILENT, "the other proxy has gone silent")
            self.transport.abort()
        if self.streams or not self._idle_since:
            self._idle_since = now
        elif now - self._idle_since > IDLE_S:
            self._live.unshare(self)
            self.close()


class ClientStream(Stream):
    """A request to an endpoint; a `proxy.seams.Client`."""

    __slots__ = ("_exchange", "_left", "_responding", "_status", "reused")

    def __init__(self, engine: Http2Client) -> None:
        super().__init__(engine, 0)
        self.reused = engine.used
        self._exchange: Exchange | None = None
        self._left = UNTIL_CLOSE
        self._responding = False
        self._status = 0

    # --- from the exchange

    def send(self, exchange: Exchange, extra: bytes, payload: bytes, ended: bool, trailers: bytes) -> None:
        engine = self.engine
        self.number = engine.next_number()
        self.send_window = engine.peer_window
        engine.open(self)
        self._exchange = exchange
        block = heads.request_block(exchange.head)
        if extra:
            block += heads.line_block(extra)
        over = ended and not payload and not trailers
        if over and exchange.head.length == CHUNKED:
            block += _NO_CONTENT  # it had chunks, though none with anything in it: the far side is not to wonder
        elif not over and exchange.head.upgrade:
            assert isinstance(engine, Http2Client)
            over = not engine.proxy  # an application is asked without: HTTP/2 has no Upgrade
            if not over:
                block += heads.upgrade_block(exchange.head)
        self.send_headers(block, over)
        if not over:
            self.send_more(payload, ended, trailers)

    def send_more(self, payload: bytes, ended: bool, trailers: bytes) -> None:
        if not trailers:
            if payload or ended:
                self.send_data(payload, ended)
            return
        if payload:
            self.send_data(payload, False)
        self.send_headers(heads.line_block(trailers), True)

    def cancel(self) -> None:
        self._exchange = None
        self.reset(Code.CANCEL)

    def close(self) -> None:
        """It was never sent: there is nothing to end."""

    # --- from the engine

    def on_headers(self, block: bytes, ended: bool) -> None:
        try:
            self._take_block(block, ended)
        except ProtocolError:
            self.engine.open(self)  # it may have ended with this, and is to hear with the others what becomes of them
            raise

    def _take_block(self, block: bytes, ended: bool) -> None:
        connection = self.engine
        assert isinstance(connection, Http2Client)
        exchange = self._exchange
        if self._responding:
            try:
                lines = connection.trailers(block)
            except BadHead as error:
                self._refused(error)
                return
            if not ended or self._left > 0:
                self._broken("trailers that do not end the message, or come before its end")
            else:
                self._end(b"", lines)
            return
        try:
            head = connection.read(block)
        except BadHead as error:
            self._refused(error)
            return
        if exchange is None:
            return
        if head.status < 200:
            if head.upgrade and not ended:
                self._switch(exchange, head)
            elif ended or head.status == 101:
                self._broken("an interim answer that ends the stream, or 101")
            elif not exchange.interim(head):
                self._broken("interim answers without end")
            return
        self._responding = True
        self._status = head.status
        length = head.body_length(exchange.head.method)
        self._left = length
        if ended:
            if length > 0:
                self._broken("a content-length on a message that has no content")
                return
            self._exchange = None
            self._stop(exchange)
        exchange.respond(head, 0 if ended else CHUNKED if length == UNTIL_CLOSE else length, b"", ended, None)

    def _switch(self, exchange: Exchange, head: ResponseHead) -> None:
        """Another protocol follows, if it was asked for."""
        if not head.switches(exchange.head):
            self._broken("an upgrade to a protocol that the request did not ask for")
            return
        self._exchange = None
        exchange.switch(head, RawStream(self))

    def on_data(self, data: bytes, ended: bool) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if not self._responding:
            self._broken("content before a head")
            return
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (ended and self._left):
                self._broken("content that is not as long as content-length says")
                return
        if ended:
            self._end(data, b"")
        elif data:
            exchange.respond_more(self._status, data, False, b"")

    def _end(self, data: bytes, trailers: bytes) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._stop(exchange)
            exchange.respond_more(self._status, data, True, trailers)

    def _stop(self, exchange: Exchange) -> None:
        """The answer is whole: what is left of the request is not wanted. Of an upgrade that is but its end."""
        if self.local_ended:
            return
        if exchange.head.upgrade:
            self.send_data(b"", True)
        else:
            self.reset(Code.NO_ERROR)

    def _broken(self, reason: str) -> None:
        self.give_up(Code.PROTOCOL_ERROR, Failure.BAD_RESPONSE, reason)

    def _refused(self, error: BadHead) -> None:
        self.give_up(Code.PROTOCOL_ERROR, of_answer(error.status), error.reason)

    def on_shut(self) -> None:
        self.give_up(Code.CANCEL, Failure.UNREAD, "the window stays shut")

    def give_up(self, code: Code, failure: Failure, reason: str) -> None:
        """Reset it, and tell the exchange why."""
        self.reset(code)
        self.on_lost(failure, reason)

    def on_lost(self, failure: Failure, reason: str) -> None:
        """There is no stream any more."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(failure, ConnectionError(reason))

    def on_reset(self, code: int, unprocessed: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            error = ConnectionError(f"the stream was reset with code {code}")
            exchange.lost(Failure.CLOSED, error, unsent=unprocessed)

    def on_full(self) -> None:
        if self._exchange is not None:
            self._exchange.caller.hold()

    def on_room(self) -> None:
        if self._exchange is not None:
            self._exchange.caller.release()
