"""Messages that two readers could take for different ones, or for several: tables that more than one test goes by.

`HTTP1` and `HTTP2` are requests that no proxy may let through, `ONE` those that are in order and look as if they were
not, `BROKEN2` those that turn bad after their head. What an endpoint may do to an answer is `ANSWERS`.
"""

from proxy.http2 import frames
from proxy.http2.fields import Field, encode
from proxy.http2.frames import DATA, END_STREAM, frame

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
"""What an attacker would have the endpoint take for a request: it follows each of `HTTP1`."""

HTTP1 = {
    "CL.TE": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n29\r\n",
    "TE.TE": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE after bare LF": POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE after bare CR": POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE after NUL": POST + b"X: \x00Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE comma": POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "TE empty": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "TE space name": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE vt": POST + b"Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
    "TE params": POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "http0.9": b"GET /\r\n\r\n",
    "CL list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "CL twice differ": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "chunk sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk minus": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk underscore": CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n",
    "chunk space before": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "chunk overflow": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk empty": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "chunk lf in ext": CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "chunk cr in ext": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "chunk bare lf": CHUNKED + b"5\nhello\n0\n\n",
    "chunk long data": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "chunk nul ext": CHUNKED + b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "trailer lf": CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n",
    "trailer fold": CHUNKED + b"0\r\nA: b\r\n C: d\r\n\r\n",
    "trailer nul": CHUNKED + b"0\r\nA: \x00\r\n\r\n",
    "CL twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL plus": POST + b"Content-Length: +5\r\n\r\nhello",
    "CL minus": POST + b"Content-Length: -0\r\n\r\n",
    "CL hex": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "CL underscore": POST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "CL empty": POST + b"Content-Length:\r\n\r\n",
    "CL beyond 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "CL space name": POST + b"Content-Length : 5\r\n\r\nhello",
    "CL folded": POST + b"Content-Length:\r\n 5\r\n\r\nhello",
    "CL nominated": POST + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
    "TE nominated": POST + b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": POST + b"Host: b\r\n\r\n",
    "host space name": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "host folded": b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n",
    "name of two words": POST + b"X Y: z\r\n\r\n",
    "no colon": POST + b"X\r\n\r\n",
    "first field folded": b"GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
    "bare LF throughout": b"GET / HTTP/1.1\nHost: a\n\n",
    "a line of CR CR LF": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "expect something else": POST + b"Expect: 100-continue, x\r\nContent-Length: 5\r\n\r\nhello",
    "a target of two words": b"GET / /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "version 1.10": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
}

CONTENT = b"GET /content HTTP/1.1\r\nHost: a\r\n\r\n"
"""Content that is a request, if one takes it for that."""

ONE = {
    "a request as content": (POST + b"Content-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT, CONTENT),
    "a request in a chunk": (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT), CONTENT),
    "extensions of chunks": (CHUNKED + b'5;a="0";b\r\nhello\r\n0;c=d\r\n\r\n', b"hello"),
    "framing in trailers": (
        CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n",
        b"hello",
    ),
    "zeros before the length": (POST + b"Content-Length: 0005\r\n\r\nhello", b"hello"),
    "a nominated field": (POST + b"Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "absolute form against Host": (b"POST http://b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
}
"""Requests of HTTP/1.1, each with its content."""

GET: list[Field] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/x")]
POST2: list[Field] = [(b":method", b"POST"), *GET[1:]]


def without(name: bytes, fields: list[Field] = GET) -> list[Field]:
    return [field for field in fields if field[0] != name]


def instead(name: bytes, value: bytes, fields: list[Field] = GET) -> list[Field]:
    return [(name, value) if field[0] == name else field for field in fields]


HTTP2: dict[str, list[Field]] = {
    "no method": without(b":method"),
    "no path": without(b":path"),
    "no scheme": without(b":scheme"),
    "another scheme": instead(b":scheme", b"file"),
    "nobody's": without(b":authority"),
    "an empty authority": instead(b":authority", b""),
    "an empty authority beside a host": [*instead(b":authority", b""), (b"host", b"api")],
    "userinfo": instead(b":authority", b"me@api"),
    "an authority with a path": instead(b":authority", b"api/x"),
    "an authority with a space": instead(b":authority", b"api x"),
    "two authorities": [(b":authority", b"api"), *GET],
    "authority against host": [*GET, (b"host", b"other")],
    "two hosts": [*GET, (b"host", b"api"), (b"host", b"api")],
    "an empty path": instead(b":path", b""),
    "a path that is none": instead(b":path", b"x"),
    "an absolute path": instead(b":path", b"http://other/"),
    "a path with a space": instead(b":path", b"/x HTTP/1.1"),
    "a path with a line": instead(b":path", b"/ HTTP/1.1\r\nx: y"),
    "a star that is no OPTIONS": instead(b":path", b"*"),
    "a method with a space": instead(b":method", b"GET /"),
    "a method with a line": instead(b":method", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET"),
    "an unknown pseudo-field": [*GET, (b":protocol", b"websocket")],
    "a pseudo-field of answers": [*GET, (b":status", b"200")],
    "a pseudo-field after others": [*GET[:3], (b"a", b"b"), GET[3]],
    "a name in upper case": [*GET, (b"X-A", b"b")],
    "an empty name": [*GET, (b"", b"b")],
    "a name with a space": [*GET, (b"a b", b"c")],
    "a name with a colon": [*GET, (b"a:", b"c")],
    "a name with a line": [*GET, (b"a\r\nb", b"c")],
    "CR LF in a value": [*GET, (b"a", b"b\r\nc: d")],
    "CR in a value": [*GET, (b"a", b"b\rc")],
    "LF in a value": [*GET, (b"a", b"b\nc")],
    "NUL in a value": [*GET, (b"a", b"b\x00c")],
    "DEL in a value": [*GET, (b"a", b"b\x7fc")],
    "space before a value": [*GET, (b"a", b" b")],
    "space after a value": [*GET, (b"a", b"b\t")],
    "connection": [*GET, (b"connection", b"close")],
    "keep-alive": [*GET, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*GET, (b"proxy-connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"h2c")],
    "te": [*GET, (b"te", b"gzip")],
    "two lengths": [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
    "a length with a sign": [*GET, (b"content-length", b"+1")],
    "a length in a list": [*GET, (b"content-length", b"1, 1")],
    "an empty length": [*GET, (b"content-length", b"")],
    "an endless length": [*GET, (b"content-length", b"9" * 30)],
    "content that is not there": [*GET, (b"content-length", b"3")],
}


def content(length: int | None, *pieces: bytes, trailers: Field | None = None) -> bytes:
    """A request of HTTP/2 on stream 1 with a `content-length`, or none, and content."""
    fields = POSTED if length is None else [*POSTED, (b"content-length", b"%d" % length)]
    data = frames.headers(1, encode(fields), False)
    for number, piece in enumerate(pieces, 1):
        data += frame(DATA, END_STREAM if number == len(pieces) and trailers is None else 0, 1, piece)
    return data if trailers is None else data + frames.headers(1, encode([trailers]), True)


POSTED = instead(b":path", b"/broken", instead(b":method", b"POST"))

BROKEN2 = {
    "less than content-length": content(9, b"hello"),
    "more than content-length": content(5, b"hello" + SMUGGLED),
    "more than content-length, later": content(5, b"hello", SMUGGLED),
    "content-length: 0 and content": content(0, SMUGGLED),
    "trailers with CR LF": content(None, b"hello", trailers=(b"x", b"y\r\n\r\n" + SMUGGLED)),
    "trailers with transfer-encoding": content(None, b"hello", trailers=(b"transfer-encoding", b"chunked")),
    "trailers before all has come": content(9, b"hello", trailers=(b"x", b"y")),
}
"""Requests of HTTP/2 for /broken that break the protocol after their head, which may have gone on by then."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
"""What a caller would take for a second answer: it follows each of `ANSWERS`, at once."""

ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "bytes behind it": (OK, b"200"),
    "behind none by its status": (b"HTTP/1.1 204 No Content\r\n\r\n", b"204"),
    "204 with content": (b"HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\ncontent!", b"204"),
    "204 in chunks": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"204"),
    "304 with content": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\ncontent!", b"304"),
    "103 with content": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 8\r\n\r\ncontent!", b"502"),
    "103 in chunks": (b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"502"),
    "100 with content": (b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "101 unasked": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", b"502"),
    "CL and TE": (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"502"),
    "TE and CL": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n0\r\n\r\nok", b"502"),
    "two CLs": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nok", b"502"),
    "two CLs that agree": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "a CL in a list": (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", b"502"),
    "a CL with a sign": (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", b"502"),
    "TE gzip, chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"502"),
    "two TEs": (b"HTTP/1.1 200 OK\r\n" + 2 * b"Transfer-Encoding: chunked\r\n" + b"\r\n0\r\n\r\n", b"502"),
    "TE in 1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"502"),
    "CL folded": (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok", b"502"),
    "a field folded": (b"HTTP/1.1 200 OK\r\nX: y\r\n\tz\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "a field of two words": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", b"502"),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"502"),
    "bare LF in the midst": (b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok", b"502"),
    "bare CR": (b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 2\r\n\r\nok", b"502"),
    "NUL": (b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "HTTP/0.9": (b"<p>ok</p>\r\n", b"502"),
    "HTTP/0.9, with an empty line": (b"<p>ok</p>\r\n\r\n", b"502"),
    "HTTP/2": (b"HTTP/2 200\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", b"502"),
    "a chunk with a sign": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n", b"502"),
    "a chunk that overflows": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b2\r\nok" % (b"0" * 17), b"502"),
    "a chunk too long": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", b"502"),
    "chunks with bare LF": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", b"502"),
    "trailers folded": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\n", b"502"),
}
"""What an endpoint answers to one request, and the status that the caller is to hear of it, once."""
