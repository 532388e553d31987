"""A connection from a caller that speaks HTTP/1.x: requests in, one exchange at a time, answers out in order.

Its counterparts are the caller, whose bytes are not trusted, and the exchange. Requests that come while one is under
way (pipelining, RFC 9112, section 9.3.2) wait in the buffer, and when that is full in the kernel's. After anything
malformed the caller gets an answer and the connection ends: what follows could be read in two ways. So it is where an
upgrade is refused and bytes came before the answer: were they a request, or of the other protocol?
"""

import asyncio
import re
from time import monotonic
from typing import Final, Protocol, cast

from proxy import errors
from proxy.errors import Bound, Failure, bound_of
from proxy.exchange import Exchange, Route
from proxy.http1.bodies import BadBody, BodyReader, ChunkedReader, LengthReader, chunk, last_chunk
from proxy.http1.heads import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    BadHead,
    HeadTable,
    RequestHead,
    ResponseHead,
    parse_request,
)
from proxy.http1.raw import RawConnection
from proxy.stalls import STALL_S, Outflow
from proxy.stats import TcpTraffic
from proxy.sweep import Sweep
from proxy.transports import break_off, hand_on, take_over

IDLE_S: Final = 120.0
"""How long a caller may keep a connection open between requests; longer than any client of ours does."""
HEAD_S: Final = 10.0
"""How long a head may take to arrive."""
UNUSED_S: Final = 1.0
"""How long a connection that brings no request is waited for when the proxy drains."""
LINGER_S: Final = 2.0
"""How long a caller who has its last answer and may still be sending is let finish."""
MAX_PASSED_BYTES: Final = 16 << 20
"""Of a request that has been answered, so much is let pass for the sake of the connection. To make a new one costs less
than to read more; and who was told that it stays has not been told how long."""
MAX_PIPELINED_BYTES: Final = 64 << 10
"""Read ahead of the request that is under way; beyond it the connection is not read."""

_UPSTREAM, _AHEAD = 1, 2  # why reading is on hold: the endpoint has no room; enough has been read ahead

_NEVER_A_HEAD = re.compile(rb"(?<!\r)\n|\x00")

requests = HeadTable(parse_request)


class Service(Protocol):
    """What a listener is for: it says where a request goes."""

    def route(self, head: RequestHead) -> Route | Failure:
        """Where the request goes, or why nowhere."""

    def tunnel(self, connection: "ServerConnection", authority: str) -> Failure | None:
        """Connect to authority for a CONNECT, then `hand_over` the connection or let it `fail`. A Failure: at once."""

    def refused(self, bound: Bound, reason: str) -> None:
        """A caller went beyond a bound, and was told so or cut off."""

    def closed(self, connection: "Drained") -> None:
        """The connection has ended, or is no longer an HTTP connection."""


class Drained(Protocol):
    """A connection from a caller, of any version of HTTP, as its listener keeps it."""

    def drain(self) -> None:
        """End after the requests under way."""


class ServerConnection(asyncio.Protocol):
    """See the module."""

    def __init__(self, service: Service, tcp: TcpTraffic, sweep: Sweep) -> None:
        self._service = service
        self._tcp = tcp
        self._sweep = sweep
        self._buffer = b""
        self._scanned = 0  # so much of it is known to hold no end of a head, and nothing that no head has
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None  # of the request that is still arriving
        self._advancing = False
        self._last = False  # no request is taken after the one under way, and its answer says so
        self._draining = False  # the next answer's head is to say so
        self._ended = False  # the caller has said all it will
        self._blocked = False  # the caller does not read its answers, or a tunnel is being made
        self._skipped = False  # an empty line has come before the next request
        self._minor = 1
        self._chunked = False
        self._on_hold = 0
        self._since = 0.0  # when the connection last began to wait for its caller
        self._unbidden = False  # the caller waits to be told to send its body, which is so far all to come
        self._passed = 0  # of a body that nobody wants any more
        self._outflow = Outflow()
        self.transport: asyncio.Transport

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._tcp.opened += 1
        self._since = monotonic()
        self._sweep.add(self)

    def data_received(self, data: bytes) -> None:
        self._tcp.read_bytes += len(data)
        if self._body is not None:
            self._more_body(data)
        elif self._exchange is not None or self._blocked:
            if self._exchange is not None and self._exchange.head.upgrade and not self._exchange.responding:
                self._last = True  # see the module; if the upgrade is made, nothing is the last
            self._buffer += data
            if len(self._buffer) > MAX_PIPELINED_BYTES:
                self._hold(_AHEAD)
        elif self._buffer:
            self._buffer += data
            self._advance()
        else:
            head = requests.get(data)
            if head is not None and head.plain:
                self._begin(head, b"")  # the usual case: one request, known, and no body
            else:
                self._buffer = data
                self._since = monotonic()
                self._advance()

    def _advance(self) -> None:
        """Begin the requests that the buffer holds, until one is under way."""
        if self._advancing:
            return
        self._advancing = True
        while self._buffer and self._exchange is None and not self._blocked and not self.transport.is_closing():
            if not self._next_request():
                break
        self._advancing = False
        if self._on_hold & _AHEAD and len(self._buffer) <= MAX_PIPELINED_BYTES:
            self._unhold(_AHEAD)

    def _next_request(self) -> bool:
        """Begin the request at the start of the buffer; False where its head is not whole yet."""
        buffer = self._buffer
        if not self._skipped and buffer.startswith(b"\r\n"):  # RFC 9112, section 2.2: one empty line is ignored
            buffer = self._buffer = buffer[2:]
            self._skipped = True
        end = buffer.find(b"\r\n\r\n", self._scanned, MAX_HEAD_BYTES) + 4
        if end == 3:
            self._unfinished(buffer)
            return False
        self._scanned = 0
        raw = buffer[:end]
        head = requests.get(raw)
        if head is None:
            try:
                head = requests.parse(raw)
            except BadHead as error:
                self._refuse(error.status, error.reason)
                return False
        rest = buffer[end:]
        if head.method == b"CONNECT":
            self._connect(head, rest)
        elif head.length:
            self._buffer = b""
            self._body = ChunkedReader() if head.length == CHUNKED else LengthReader(head.length)
            self._unbidden = head.expects_continue and not rest
            self._begin(head, rest)
        else:
            if head.upgrade and rest:
                self._last = True
            self._buffer = rest
            self._begin(head, b"")
        return True

    def _unfinished(self, buffer: bytes) -> None:
        if len(buffer) >= MAX_HEAD_BYTES:
            self._refuse(431, f"a head of more than {MAX_HEAD_BYTES} bytes")
        elif _NEVER_A_HEAD.search(buffer, self._scanned) is not None:
            # Its sender may be waiting for an answer.
            self._refuse(400, "a control character, bare CR or bare LF in the head")
        else:
            self._scanned = max(0, len(buffer) - 3)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        now = self._since = monotonic()
        self._skipped = False
        self._minor = head.minor
        if not head.keep_alive:
            self._last = True
        route = self._service.route(head)
        if isinstance(route, Failure):
            self._answer(route, True, head.method == b"HEAD")
            return
        exchange = self._exchange = Exchange(self, head, route, now)
        body = self._body
        if body is None:
            exchange.start(b"", head.plain, b"")  # all there is, but for an upgrade
            return
        try:
            payload = body.feed(rest)
        except BadBody as error:
            self._exchange = None
            self._refuse(400, str(error))
            return
        if body.done:
            self._body = None
            self._buffer = body.rest
        exchange.start(payload, body.done, body.trailers)

    def _more_body(self, data: bytes) -> None:
        exchange, body = self._exchange, self._body
        assert body is not None
        if exchange is None:
            self._let_pass(body, data)
            return
        try:
            payload = body.feed(data)
        except BadBody as error:
            exchange.cancel()
            if exchange.responding:
                self._service.refused(Bound.MALFORMED, str(error))
                self.abort()  # no other answer can be given in the midst of this one
            else:
                self._refuse(400, str(error))
            return
        self._since = monotonic()
        self._unbidden = False
        if body.done:
            self._body = None
            self._buffer = body.rest
        exchange.request_more(payload, body.done, body.trailers)

    def _let_pass(self, body: BodyReader, data: bytes) -> None:
        """The rest of a body whose request was answered before it was whole, by an answer that did not say that the
        connection ends."""
        self._since = monotonic()
        self._passed += len(data)
        try:
            body.feed(data)
        except BadBody as error:
            self._service.refused(Bound.MALFORMED, str(error))
            self.abort()
            return
        if body.done:
            self._body = None
            self._buffer = body.rest
            self._advance()
            self._close_if_said_all()
        elif self._passed > MAX_PASSED_BYTES:
            self._leave()

    def _connect(self, head: RequestHead, rest: bytes) -> None:
        self._buffer = rest
        self._last = True
        self._blocked = True
        failure = self._service.tunnel(self, head.authority)
        if failure is not None:
            self.fail(failure, unsent=True)

    def eof_received(self) -> bool:
        # The caller has no more to say; it may still want the answer.
        self._ended = True
        wanted = (self._exchange is not None and self._body is None) or self._asked_more()
        return wanted and self.transport.can_write_eof()  # TLS ends both directions at once

    def connection_lost(self, exc: Exception | None) -> None:
        self._tcp.close(exc)
        self._forget()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def _forget(self) -> None:
        self._sweep.discard(self)
        self._service.closed(self)

    def pause_writing(self) -> None:
        self._blocked = True
        if self._exchange is not None:
            self._exchange.hold()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._exchange is not None:
            self._exchange.release()
        elif self._buffer:
            self._advance()

    def sweep(self, now: float) -> None:
        if self._outflow.stuck(self.transport.get_write_buffer_size(), now):
            self._service.refused(Bound.UNREAD, "the caller does not read its answers")
            self.transport.abort()
            return
        waited = now - self._since
        exchange = self._exchange
        if exchange is not None:
            if waited > STALL_S and self._owes(exchange):
                self._too_late(exchange)
        elif self._body is not None:
            if waited > HEAD_S:
                self.transport.close()  # it has been answered
        elif self._buffer:
            if waited > HEAD_S:
                self._refuse(408, Failure.TIMEOUT.value.text)
        elif waited > (UNUSED_S if self._draining else IDLE_S):
            self.transport.close()

    def _owes(self, exchange: Exchange) -> bool:
        """Whether it is the caller that keeps its request from going on. Who sends chunks for as long as it is being
        answered may be having a conversation."""
        if self._body is None or self._on_hold or self._unbidden:
            return False
        return not exchange.responding or isinstance(self._body, LengthReader)

    def _too_late(self, exchange: Exchange) -> None:
        exchange.cancel()
        if exchange.responding:
            self._service.refused(Bound.BODY_TIME, Failure.TIMEOUT.value.text)
            self.abort()
        else:
            self._refuse(408, Failure.TIMEOUT.value.text, Bound.BODY_TIME)

    # --- from the exchange

    def interim(self, head: ResponseHead) -> None:
        self._unbidden = False
        self._since = monotonic()
        self._write(head.forward + b"\r\n")

    def switch(self, head: ResponseHead) -> RawConnection:
        self._exchange = None
        self._sweep.discard(self)
        self._write(head.forward + b"\r\n")
        early, self._buffer = self._buffer, b""
        return RawConnection(
            self.transport,
            self._tcp,
            early,
            ended=self._ended,
            full=self._blocked,
            held=bool(self._on_hold),
            closed=lambda: self._service.closed(self),  # until then a drain waits for it
        )

    def respond(self, head: ResponseHead, length: int, payload: bytes, done: bool, whole: bytes | None) -> None:
        if self._draining:
            self._last = True
        if self._body is not None and done:
            self._last = True  # answered before the request was whole: what follows is no request
        if whole is not None and not self._last and self._minor == 1:
            self._write(whole)
        else:
            self._write(self._framed_head(head, length) + self._framed(payload, done, b""))
        if done:
            self._done()

    def _framed_head(self, head: ResponseHead, length: int) -> bytes:
        """The head as this caller is to get it, with the framing that its version allows."""
        forward = head.forward
        self._chunked = False
        if length in (CHUNKED, UNTIL_CLOSE):
            if self._minor == 1:
                self._chunked = True
                forward += b"transfer-encoding: chunked\r\n"
            else:
                self._last = True
        elif head.length == CHUNKED and self._minor == 1 and head.status != 204:  # RFC 9112, section 6.1
            forward += b"transfer-encoding: chunked\r\n"  # an answer to HEAD says what GET would get
        if self._last:
            return forward + b"connection: close\r\n\r\n"
        return forward + (b"\r\n" if self._minor == 1 else b"connection: keep-alive\r\n\r\n")

    def _framed(self, payload: bytes, done: bool, trailers: bytes) -> bytes:
        if not self._chunked:
            return payload
        return chunk(payload) + last_chunk(trailers) if done else chunk(payload)

    def respond_more(self, payload: bytes, done: bool, trailers: bytes) -> None:
        if done and self._unbidden:
            self._last = True  # what comes next may be the body, or no longer
        data = self._framed(payload, done, trailers)
        if data:
            self._write(data)
        if done:
            self._done()

    def _write(self, data: bytes) -> None:
        self._tcp.written_bytes += len(data)
        self.transport.write(data)

    def _done(self) -> None:
        """The answer is whole."""
        self._exchange = None
        if self._last:
            self._leave()
            return
        if self._on_hold & _UPSTREAM:
            self._unhold(_UPSTREAM)
        self._since = monotonic()
        if self._body is not None:
            self._passed = 0
        elif self._buffer:
            self._advance()
        self._close_if_said_all()

    def _close_if_said_all(self) -> None:
        if self._ended and self._exchange is None and not self._asked_more():
            self.transport.close()

    def _asked_more(self) -> bool:
        """Whether there are requests that wait for the caller to read its answers."""
        return self._blocked and bool(self._buffer)

    def fail(self, failure: Failure, unsent: bool) -> None:
        """Answer in the proxy's own name."""
        exchange = self._exchange
        self._answer(failure, unsent, exchange is not None and exchange.head.method == b"HEAD")

    def _answer(self, failure: Failure, unsent: bool, head_only: bool) -> None:
        if self._draining or self._body is not None:
            self._last = True
        error = failure.value
        close = self._last or self._minor == 0
        self._last = close
        self._write(errors.response(error.status, error.text, close=close, unsent=unsent, head_only=head_only))
        self._done()

    def _refuse(self, status: int, reason: str, bound: Bound | None = None) -> None:
        """Answer what is malformed, and end the connection: nothing after it can be told apart."""
        self._exchange = None
        self._service.refused(bound or bound_of(status), reason)
        self._write(errors.response(status, reason, close=True))
        self._leave()

    def _leave(self) -> None:
        """End the connection after its last answer, in such a way that the caller gets it.

        What is closed with bytes unread is reset by the kernel, and a reset may overtake the answer: so where the
        caller may still be sending, the end is said first and what comes is let pass (RFC 9112, section 9.6).
        """
        if self._ended or (self._body is None and not self._buffer):
            self.transport.close()
            return
        self._buffer = b""
        self._sweep.discard(self)
        if self.transport.can_write_eof():  # with TLS it cannot: the caller goes by the length of its answer
            self.transport.write_eof()
        hand_on(self.transport, _Leaving(self, self._sweep))
        if self._on_hold:
            self.transport.resume_reading()

    def abort(self) -> None:
        """An answer that has begun cannot be completed: cut off, so that it is not taken for a whole one."""
        self._exchange = None
        break_off(self.transport)

    def hold(self) -> None:
        self._hold(_UPSTREAM)

    def release(self) -> None:
        self._unhold(_UPSTREAM)

    def _hold(self, reason: int) -> None:
        if not self._on_hold:
            self.transport.pause_reading()
        self._on_hold |= reason

    def _unhold(self, reason: int) -> None:
        if self._on_hold:
            self._on_hold &= ~reason
            if not self._on_hold:
                self._since = monotonic()  # while it was not read it could not be late
                self.transport.resume_reading()

    # --- from the listener

    def drain(self) -> None:
        """End after the next answer whose head can say so, or when no request comes: a caller that was not told
        may be sending one at this moment, and a connection that closes then has lost it."""
        self._draining = True

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let another protocol have the transport: the tunnel stands. What came early goes to it."""
        self._forget()
        self._tcp.close(None)
        self._write(b"HTTP/1.1 200 OK\r\n\r\n")
        if self._on_hold:
            self.transport.resume_reading()  # before the other, which may hold too, has the connection
        early, self._buffer = self._buffer, b""
        take_over(self.transport, protocol, early)


class _Leaving(asyncio.Protocol):
    """A connection whose caller has its last answer: what still comes is not looked at."""

    def __init__(self, connection: ServerConnection, sweep: Sweep) -> None:
        self._connection = connection
        self._sweep = sweep
        self._until = monotonic() + LINGER_S
        self._outflow = Outflow()
        sweep.add(self)

    def sweep(self, now: float) -> None:
        transport = self._connection.transport
        if self._outflow.stuck(transport.get_write_buffer_size(), now):
            transport.abort()
        elif now >= self._until:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sweep.discard(self)
        self._connection.connection_lost(exc)
