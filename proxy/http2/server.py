"""A connection from a caller that speaks HTTP/2: each stream a request, and an exchange's `Caller`.

Its counterparts are the caller, whose bytes are not trusted, and the exchanges. A malformed request is answered 400
and its stream reset; a broken connection ends with GOAWAY and the code that says why.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, TypeVar

from proxy import errors
from proxy.errors import Bound, Failure, bound_of
from proxy.exchange import Exchange
from proxy.http1.heads import BadHead, RequestHead, ResponseHead, parse_response
from proxy.http1.server import IDLE_S, Service
from proxy.http2 import heads
from proxy.http2.connection import Http2Connection
from proxy.http2.engine import MAX_STREAMS, OUR_MAX_FRAME_BYTES, ProtocolError, Stream
from proxy.http2.fields import CompressionError, Field, FieldDecoder, FieldsTooLarge
from proxy.http2.frames import Code
from proxy.http2.memo import BlockReader, SharedHeads
from proxy.http2.raw import RawStream
from proxy.stats import TcpTraffic
from proxy.sweep import Sweep

SILENT_S: Final = 60.0
"""How long a caller may say nothing while it is being answered before it is asked whether it is there."""
ANSWER_S: Final = 20.0
"""How long it may take to say so."""
READ_BYTES: Final = OUR_MAX_FRAME_BYTES
"""What one read of an endpoint's socket may bring."""
DRAIN_S: Final = 1.0
"""Between the two GOAWAYs of a drain: requests that cross the first on their way are still served."""

_whole: SharedHeads[RequestHead] = SharedHeads()
_open: SharedHeads[RequestHead] = SharedHeads()
_from_proxies: SharedHeads[RequestHead] = SharedHeads()  # open too, and what only proxies may say is believed
_trailers: SharedHeads[bytes] = SharedHeads()

D = TypeVar("D")


def _whole_request(fields: list[Field]) -> RequestHead:
    return heads.request(fields, ended=True)


def _open_request(fields: list[Field]) -> RequestHead:
    return heads.request(fields, ended=False)


def _request_from_proxy(fields: list[Field]) -> RequestHead:
    return heads.request(fields, ended=False, from_proxy=True)


class Http2Server(Http2Connection):
    """See the module. `service` says where requests go, as for `proxy.http1.server`; `from_proxy`: the caller is
    another proxy of the mesh, and has proved it."""

    def __init__(self, service: Service, tcp: TcpTraffic, sweep: Sweep, from_proxy: bool = False) -> None:
        super().__init__(False, tcp, sweep)
        self._service = service
        self._decoder = FieldDecoder()
        self._whole = BlockReader(self._decoder, _whole, _whole_request)
        if from_proxy:
            self._open = BlockReader(self._decoder, _from_proxies, _request_from_proxy)
        else:
            self._open = BlockReader(self._decoder, _open, _open_request)
        self._trailers = BlockReader(self._decoder, _trailers, heads.trailers)
        self._since = monotonic()
        self._drain_at = 0.0
        self._let_go = 0  # the stream that was last let go on though the connection was full

    # --- from the engine

    def on_stream(self, number: int, block: bytes, ended: bool) -> None:
        """A request begins."""
        try:
            head = (self._whole if ended else self._open).read(block)
        except CompressionError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error), Bound.COMPRESSION) from error
        except FieldsTooLarge:
            self._refuse(number, ended, BadHead("a head that is too large", 431))
            return
        except BadHead as error:
            self._refuse(number, ended, error)
            return
        if len(self.streams) >= MAX_STREAMS or self._drain_at < 0:
            if self._drain_at >= 0:
                self._service.refused(Bound.STREAMS, "more streams than were allowed")
            self.refuse(number, Code.REFUSED_STREAM)
            return
        stream = ServerStream(self, number, head) if ended or not head.upgrade else _UpgradeStream(self, number, head)
        stream.remote_ended = ended
        self.open(stream)
        stream.begin(self._service)

    def _refuse(self, number: int, ended: bool, error: BadHead) -> None:
        """Answer a request that is malformed."""
        self._service.refused(bound_of(error.status), error.reason)
        stream = Stream(self, number)
        stream.remote_ended = ended
        self.open(stream)
        _answer(stream, errors.response(error.status, error.reason, close=False))
        stream.reset(Code.PROTOCOL_ERROR if error.status == 400 else Code.NO_ERROR)

    def break_off(self, stream: Stream, code: Code) -> None:
        """See `Engine.break_off`; it is counted."""
        bound = Bound.WINDOW if code is Code.FLOW_CONTROL_ERROR else Bound.MALFORMED
        self._service.refused(bound, f"a stream that ended with {code.name}")
        super().break_off(stream, code)

    def on_stray_block(self, block: bytes) -> None:
        """Keep the dynamic table in step."""
        self._decoded(self._decoder.decode, block)

    def trailers(self, block: bytes) -> bytes:
        """The lines of the trailer section that block holds. BadHead; ProtocolError."""
        return self._decoded(self._trailers.read, block)

    def _decoded(self, read: Callable[[bytes], D], block: bytes) -> D:
        try:
            return read(block)
        except CompressionError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error), Bound.COMPRESSION) from error
        except FieldsTooLarge as error:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "trailers that are too large", Bound.HEAD_SIZE) from error

    def on_queued(self) -> None:
        for stream in tuple(self.streams.values()):
            if isinstance(stream, ServerStream):
                if self.full:
                    stream.hold_answer()
                else:
                    stream.release_answer()

    def _let_one_go(self) -> None:
        """Let one answer come though the connection is full, the next of them each time: its caller may well read it,
        and none is to wait for others that are not read."""
        ready = [number for number, stream in self.streams.items() if not stream.queue]
        if ready:
            self._let_go = min((number for number in ready if number > self._let_go), default=min(ready))
            stream = self.streams[self._let_go]
            if isinstance(stream, ServerStream):
                stream.release_answer()

    def on_goaway(self, code: int) -> None:
        """The caller will open no more; it is answered what it has asked."""

    def broken(self, error: ProtocolError) -> None:
        self._service.refused(error.bound, str(error))

    def unread(self) -> None:
        self._service.refused(Bound.UNREAD, "the caller does not read its answers")

    def stalled(self, bound: Bound, reason: str) -> None:
        """A stream is given up, since its caller lets nothing move."""
        self._service.refused(bound, reason)

    def lost(self) -> None:
        self._service.closed(self)
        for stream in tuple(self.streams.values()):
            stream.on_reset(Code.CANCEL, False)
        self.streams.clear()

    # --- from the listener

    def drain(self) -> None:
        """Take no new requests, once those on their way have come, and end when all are answered."""
        if not self._drain_at:
            self._drain_at = monotonic() + DRAIN_S
            self.go_away(final=False)

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self.full:
            self._let_one_go()
        if self.vanished(now, SILENT_S, ANSWER_S):
            self._service.refused(Bound.SILENT, "the caller has gone silent")
            self.transport.abort()
        elif self._drain_at > 0 and now >= self._drain_at:
            self._drain_at = -1.0
            self.go_away(final=True)
        if self.streams:
            self._since = now
        elif self._drain_at < 0 or now - self._since > IDLE_S:
            self.go_away(final=True)
            self._flush()
            self.transport.close()


class ServerStream(Stream):
    """A request of a caller; a `proxy.seams.Caller`. `_left` is what its content-length promises and has not come."""

    __slots__ = ("_exchange", "_head", "_left", "_unbidden")

    def __init__(self, engine: Http2Server, number: int, head: RequestHead) -> None:
        super().__init__(engine, number)
        self._head = head
        self._left = head.length
        self._unbidden = head.expects_continue  # the caller waits to be told to send its content
        self._exchange: Exchange | None = None

    def begin(self, service: Service) -> None:
        """Send it on its way."""
        route = service.route(self._head)
        if isinstance(route, Failure):
            self.fail(route, unsent=True)
            return
        exchange = self._exchange = Exchange(self, self._head, route, monotonic())
        exchange.start(b"", self.remote_ended, b"")
        if self.engine.full:
            self.hold_answer()

    # --- from the engine

    def on_data(self, data: bytes, ended: bool) -> None:
        self._unbidden = False
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0 or (ended and self._left):
                self._malformed()
                return
        if self._exchange is not None:
            self._exchange.request_more(data, ended, b"")

    def on_headers(self, block: bytes, ended: bool) -> None:
        connection = self.engine
        assert isinstance(connection, Http2Server)
        try:
            lines = connection.trailers(block)
        except BadHead:
            self._malformed()
            return
        if not ended or self._left > 0:
            self._malformed()
        elif self._exchange is not None:
            self._exchange.request_more(b"", True, lines)

    def _malformed(self) -> None:
        self.engine.break_off(self, Code.PROTOCOL_ERROR)

    def on_reset(self, code: int, unprocessed: bool) -> None:  # noqa: ARG002 - the seam's signature
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def on_quiet(self) -> None:
        exchange = self._exchange
        if exchange is None or not self._owes(exchange):
            return
        self._exchange = None
        exchange.cancel()
        self._stalled(Bound.BODY_TIME, Failure.TIMEOUT.value.text)
        if exchange.responding:
            self.reset(Code.CANCEL)
        else:
            _answer(self, errors.response(408, Failure.TIMEOUT.value.text, close=False))
            self.reset(Code.NO_ERROR)

    def _owes(self, exchange: Exchange) -> bool:
        """Whether it is the caller that keeps its request from going on. Where no length was promised, who is being
        answered may be having a conversation, and who calls gRPC may be so before the first answer."""
        if self._unbidden:
            return False
        return self._left > 0 or not (exchange.responding or self._head.grpc)

    def on_shut(self) -> None:
        self._stalled(Bound.WINDOW_STALL, "the caller's window stays shut")
        self.on_reset(Code.CANCEL, False)
        self.reset(Code.CANCEL)

    def _stalled(self, bound: Bound, reason: str) -> None:
        connection = self.engine
        assert isinstance(connection, Http2Server)
        connection.stalled(bound, reason)

    def on_full(self) -> None:
        if self._exchange is not None:
            self._exchange.hold()

    def on_room(self) -> None:
        if self._exchange is None:
            self._done()
        elif self.engine.full:
            self.hold_answer()
        else:
            self._exchange.release()

    def on_window(self) -> None:
        self.hold_answer()

    def hold_answer(self) -> None:
        """Too much is queued on the connection: let nothing of the answer come that would wait here too, but all where
        the caller has room for it."""
        if self._exchange is not None:
            if self.engine.room_for(self) < READ_BYTES:
                self._exchange.hold()
            else:
                self._exchange.release()

    def release_answer(self) -> None:
        """Let it come, unless some of it waits here already."""
        if self._exchange is not None and not self.queue:
            self._exchange.release()

    # --- from the exchange

    def interim(self, head: ResponseHead) -> None:
        self._unbidden = False
        self.came = True
        self.send_headers(heads.response_block(head), False)

    def switch(self, head: ResponseHead) -> RawStream:
        self._exchange = None
        self.send_headers(heads.response_block(head), False)
        return RawStream(self)

    def respond(self, head: ResponseHead, length: int, payload: bytes, done: bool, whole: bytes | None) -> None:  # noqa: ARG002
        if done:
            self._exchange = None
        block = heads.response_block(head)
        if payload:
            self.send_headers(block, False)
            self.send_data(payload, done)
        else:
            self.send_headers(block, done)
        if done:
            self._done()

    def respond_more(self, payload: bytes, done: bool, trailers: bytes) -> None:
        if done:
            self._exchange = None
        if not trailers:
            self.send_data(payload, done)
        else:
            if payload:
                self.send_data(payload, False)
            self.send_headers(heads.line_block(trailers), True)
        if done:
            self._done()

    def _done(self) -> None:
        if not self.remote_ended and not self.queue:
            self.reset(Code.NO_ERROR)  # answered early: the rest of the request is not wanted (section 8.1)

    def fail(self, failure: Failure, unsent: bool) -> None:
        self._exchange = None
        error = failure.value
        if self._head.grpc:
            status = b"4" if failure is Failure.TIMED_OUT else b"14"  # DEADLINE_EXCEEDED, UNAVAILABLE
            self.send_headers(heads.grpc_failure(error.text, status, unsent), True)
        else:
            head_only = self._head.method == b"HEAD"
            _answer(self, errors.response(error.status, error.text, close=False, unsent=unsent, head_only=head_only))
        self._done()

    def abort(self) -> None:
        self._exchange = None
        self.reset(Code.INTERNAL_ERROR)


class _UpgradeStream(ServerStream):
    """A request to switch to another protocol, from another proxy, which sends nothing before it is answered, and then
    but the end where the answer is no."""

    __slots__ = ()

    def on_data(self, data: bytes, ended: bool) -> None:  # noqa: ARG002 - the engine's signature
        if data or self._exchange is not None:
            self._malformed()

    def on_headers(self, block: bytes, ended: bool) -> None:  # noqa: ARG002 - the engine's signature
        self.engine.on_stray_block(block)
        self._malformed()

    def on_quiet(self) -> None:
        """It owes nothing, unless it was answered."""
        if self._exchange is None:
            self.reset(Code.NO_ERROR)

    def _done(self) -> None:
        """The other proxy ends its side: to reset every one that is refused would look like an attack."""


def _answer(stream: Stream, response: bytes) -> None:
    """Send a whole answer of the proxy's own (`proxy.errors.response`) on stream."""
    head, _, body = response.partition(b"\r\n\r\n")
    stream.send_headers(heads.response_block(parse_response(head, from_proxy=True)), not body)
    if body:
        stream.send_data(body, True)
