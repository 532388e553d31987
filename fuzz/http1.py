"""HTTP/1.x against h11: heads, bodies, and whole connections with what they send on."""

from typing import Any, Final

import h11

from proxy.http1.bodies import BadBody, ChunkedReader
from proxy.http1.heads import (
    CHUNKED,
    BadHead,
    HeadTable,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    trailer_lines,
)
from tests.support.exchanges import Rig
from tests.support.wire import Wire

MAX_H11_BYTES: Final = 1 << 20

REQUESTS: Final = [
    b"GET /x?y=1 HTTP/1.1\r\nHost: api\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: api:80\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: api\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET http://api:81/x HTTP/1.1\r\nHost: other\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nl5d-client-id: x\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    b"\r\nHEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nopaque",
    b"GET /chat HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]
RESPONSES: Final = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x\r\nyou\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"HTTP/1.1 503 Busy\r\nl5d-proxy-unsent: true\r\nl5d-proxy-error: x\r\nContent-Length: 2\r\n\r\nno",
]
CHUNKS: Final = [
    b"\x035\r\nhello\r\n0\r\n\r\nrest",
    b'\x00A;x="y"\r\n0123456789\r\n01\r\nx\r\n000\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n',
    b"\x07ffffffffffffff\r\n",
]


def heads_of(messages: list[bytes]) -> list[bytes]:
    """Each message's head, without the empty line."""
    return [message.partition(b"\r\n\r\n")[0].removeprefix(b"\r\n") for message in messages]


def names_of(lines: bytes) -> set[bytes]:
    """The names of fields."""
    return {line.partition(b":")[0].lower() for line in lines.split(b"\r\n")}


def pieces(data: bytes) -> list[bytes]:
    """What comes after the first byte, in pieces of as many bytes as that says."""
    step = (data[0] if data else 0) + 1
    return [data[at : at + step] for at in range(1, len(data), step)]


def request(data: bytes) -> None:
    """A request's head: what h11 refuses is refused; what goes on reads the same, again and to h11."""
    try:
        head = parse_request(data)
    except BadHead:
        return
    _same_in_table(HeadTable(parse_request), data, head)
    if head.method == b"CONNECT":
        return  # it is answered here and goes nowhere
    again = parse_request(head.forward[:-2])
    assert (again.method, again.length, again.minor) == (head.method, head.length, 1)
    assert again.forward == head.forward
    assert again.authority in (head.authority, "")
    assert b"l5d-client-id" not in names_of(head.forward)
    if not data.split(b"\r\n")[0].isascii():
        return  # a target of raw UTF-8 is let through, as nginx does; h11 does not
    for raw in (data + b"\r\n\r\n", head.forward + b"\r\n"):
        theirs = _h11_request(raw)
        assert theirs.method == head.method
        framing = {name: value for name, value in theirs.headers if name in (b"content-length", b"transfer-encoding")}
        if head.length == CHUNKED:
            assert framing == {b"transfer-encoding": b"chunked"}
        else:
            assert int(framing.get(b"content-length", b"0")) == head.length
            assert b"transfer-encoding" not in framing


def _h11_request(raw: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_H11_BYTES)
    server.receive_data(raw)
    event = server.next_event()
    assert isinstance(event, h11.Request), event
    return event


def _same_in_table(table: HeadTable[Any], data: bytes, head: RequestHead | ResponseHead) -> None:
    whole = data + b"\r\n\r\n"
    for _ in range(3):
        found = table.get(whole) or table.parse(whole)
        assert all(getattr(found, slot) == getattr(head, slot) for slot in head.__slots__)


def response(data: bytes) -> None:
    """A response's head: as `request`. What h11 refuses and we do not is only a reason phrase or a status it minds."""
    try:
        head = parse_response(data)
    except BadHead:
        return
    again = parse_response(head.forward[:-2])
    assert again.status == head.status
    assert again.forward == head.forward
    assert b"l5d-proxy-error" not in names_of(head.forward)
    _same_in_table(HeadTable(parse_response), data, head)
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_H11_BYTES)
    asked = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")]
    client.send(h11.Request(method="GET", target="/", headers=asked))
    client.send(h11.EndOfMessage())
    client.receive_data(data + b"\r\n\r\n")
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), event
    assert event.status_code == head.status
    framing = {name: value for name, value in event.headers if name in (b"content-length", b"transfer-encoding")}
    if head.status < 200:
        return  # it has no content, whatever it says
    if head.length == CHUNKED:
        assert framing == {b"transfer-encoding": b"chunked"}
    elif head.length >= 0:
        assert {name: int(value) for name, value in framing.items()} == {b"content-length": head.length}


def trailers(data: bytes) -> None:
    """A trailer section: what goes on reads the same again, and frames nothing."""
    try:
        lines = trailer_lines(data)
    except BadHead:
        return
    assert trailer_lines(lines[:-2]) == lines
    assert not names_of(lines) & {b"content-length", b"transfer-encoding", b"host", b"connection", b"l5d-client-id"}


def chunked(data: bytes) -> None:
    """A chunked body: in pieces it reads as at once; what h11 refuses is refused, and what both read is the same."""
    found = _read(pieces(data))
    assert found == _read([data[1:]]), "pieces must not matter"
    if found is None or not found[3]:
        return
    payload, rest, *_ = found
    body = data[1 : len(data) - len(rest)]
    if any(BWS in body for BWS in (b" ;", b"\t;")):
        return  # h11 knows no white space before an extension; RFC 9112, section 7.1.1, does
    theirs = _h11_body(body)
    # h11 reads a Content-Length even in trailers, where we drop it, and some odd one of those it refuses.
    assert theirs == payload or (theirs is None and b":" in body), theirs


def _read(parts: list[bytes]) -> tuple[bytes, bytes, bytes, bool] | None:
    reader, payload, rest = ChunkedReader(), b"", b""
    try:
        for part in parts:
            if reader.done:
                rest += part
            else:
                payload += reader.feed(part)
    except BadBody:
        return None
    return payload, reader.rest + rest, reader.trailers, reader.done


def _h11_body(body: bytes) -> bytes | None:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_H11_BYTES)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    payload = b""
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Data):
            payload += event.data
        elif isinstance(event, h11.EndOfMessage):
            return payload
        elif not isinstance(event, h11.Request):
            return None


class _Endpoint:
    """An application on h11 that answers every request; AssertionError where what came to it is no sequence of them."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._server = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_H11_BYTES)
        self._over = False
        self.requests: list[h11.Request] = []
        self.whole: list[h11.Request] = []

    def serve(self) -> None:
        self._server.receive_data(heard) if (heard := self.wire.heard()) else None
        while not self._over and not self.wire.is_closing():
            event = self._server.next_event()
            if isinstance(event, h11.Request):
                self.requests.append(event)
            elif isinstance(event, h11.EndOfMessage):
                self.whole.append(self.requests[-1])
                self._answer()
            elif not isinstance(event, h11.Data):
                break

    def _answer(self) -> None:
        answer = h11.Response(status_code=200, headers=[("content-length", "2")])
        head = self._server.send(answer) or b""
        body = b"" if self.requests[-1].method == b"HEAD" else self._server.send(h11.Data(data=b"ok")) or b""
        self._server.send(h11.EndOfMessage())
        if self._server.our_state is h11.DONE and self._server.their_state is h11.DONE:
            self._server.start_next_cycle()
        else:
            self._over = True  # an upgrade that was not granted, say: h11 is done with the connection
        self.wire.says(head + body)


def connection(data: bytes) -> None:
    """A caller's connection: whatever it says, endpoints get nothing but whole requests (and the beginning of one), the
    same in pieces as at once; the caller is answered, and when it goes nothing is left behind."""
    if not data.isascii():
        return  # see `request`; fields of other bytes are `request`'s
    found = _converse(pieces(data))
    # Whether bytes come before the answer to an upgrade or behind it makes a difference, and has to.
    assert b"upgrade" in data.lower() or found == _converse([data[1:]])


def _converse(parts: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The requests that came to endpoints whole."""
    rig = Rig(patience_s=0.0)
    caller = rig.call()
    endpoints: list[_Endpoint] = []
    for part in parts:
        if caller.lost or rig.tunnels:
            break
        caller.says(part)
        served = -1
        while served != sum(len(each.requests) for each in endpoints) or rig.asked:
            served = sum(len(each.requests) for each in endpoints)
            if rig.asked:
                endpoints.append(_Endpoint(rig.open()))
            for each in endpoints:
                each.serve()
        caller.settle()
    heard = caller.heard()
    assert not heard or heard.startswith(b"HTTP/1.1 "), heard
    assert heard.count(b"HTTP/1.1 400") <= 1, "after a malformed request there is no other"
    if not caller.lost and not rig.tunnels:
        caller.breaks()
    assert rig.pending == 0
    assert rig.destination.in_flight == 0
    return [(request.method, request.target) for each in endpoints for request in each.whole]


def answer(data: bytes) -> None:
    """An endpoint's connection: whatever it answers, the caller gets a whole answer of HTTP/1.1, the same in pieces as
    at once, or one of the proxy's own, or is cut off."""
    method = b"HEAD" if data[:1] > b"\x80" else b"GET"
    found = [_answered(method, parts) for parts in (pieces(data), [data[1:]])]
    whole = [each for each in found if each is not None]
    assert len(whole) < 2 or whole[0] == whole[1]


def _answered(method: bytes, parts: list[bytes]) -> tuple[int, bytes] | None:
    """(status, content) that the caller gets of the endpoint."""
    rig = Rig(patience_s=0.0)
    caller = rig.call()
    caller.says(method + b" / HTTP/1.1\r\nHost: api\r\n\r\n")
    wire = rig.open()
    for part in parts:
        if wire.is_closing() or caller.is_closing():
            break
        wire.says(part)
    wire.settle()
    if not wire.lost:
        wire.ends() if not wire.is_closing() else wire.settle()
    if not wire.lost:
        wire.breaks()
    while rig.asked:  # again, since nothing had come
        rig.refuse()
    caller.settle()
    heard, aborted = caller.heard(), caller.aborted
    if not caller.lost:
        caller.breaks()
    assert rig.pending == 0
    assert rig.destination.in_flight == 0
    return None if aborted or not heard else _read_answer(method, heard)


def _read_answer(method: bytes, heard: bytes) -> tuple[int, bytes] | None:
    """(status, content) of what a caller heard, None where it is the proxy's own. AssertionError where it is not one
    answer, whole, and nothing else."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_H11_BYTES)
    client.send(h11.Request(method=method, target="/", headers=[("host", "api")]))
    client.send(h11.EndOfMessage())
    client.receive_data(heard)
    client.receive_data(b"")
    status, content = 0, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA, "an answer that is not whole"
        assert not isinstance(event, h11.ConnectionClosed), "no answer"
        if isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.Response):
            status = 0 if b"l5d-proxy-error" in dict(event.headers) else event.status_code
    assert client.trailing_data[0] == b"", "more than an answer"
    return (status, content) if status else None
