"""Heads of HTTP/1.x: which are refused and with what, what is forwarded, and that remembering changes nothing."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.heads import (
    CHUNKED,
    MAX_FIELDS,
    UNTIL_CLOSE,
    BadHead,
    HeadTable,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    trailer_lines,
)


def request(*lines: bytes, first: bytes = b"GET /x HTTP/1.1", host: bytes = b"Host: api") -> RequestHead:
    return parse_request(b"\r\n".join([first, *([host] if host else []), *lines]))


def forwarded(*lines: bytes, first: bytes = b"GET /x HTTP/1.1", host: bytes = b"Host: api") -> list[bytes]:
    return request(*lines, first=first, host=host).forward.split(b"\r\n")[:-1]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5_0", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1" + b"0" * 18, 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked", 400),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\nHost: a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tfolded", 400),
        (b"GET / HTTP/1.1\r\n Host: a", 400),
        (b"GET / HTTP/1.1\r\nHost : a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX(y): z", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        (b"GET / HTTP/1.1\r\nX: y", 400),
        (b"GET / HTTP/1.1\r\nHost: a b", 400),
        (b"GET / HTTP/1.1\r\nHost: user@a", 400),
        (b"GET / HTTP/1.1\r\nHost: a:", 400),
        (b"GET / HTTP/1.1\r\nHost: a:80:80", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles", 417),
        (b"GET / HTTP/2.0\r\nHost: a", 505),
        (b"GET / HTTP/1.2\r\nHost: a", 505),
        (b"GET / http/1.1\r\nHost: a", 505),
        (b"GET / HTTP/1.1 \r\nHost: a", 400),
        (b"GET  / HTTP/1.1\r\nHost: a", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: a", 400),
        (b" GET / HTTP/1.1\r\nHost: a", 400),
        (b"GET /\r\nHost: a", 400),
        (b"GET / x HTTP/1.1\r\nHost: a", 400),
        (b"G(T / HTTP/1.1\r\nHost: a", 400),
        (b"G" * 33 + b" / HTTP/1.1\r\nHost: a", 400),
        (b"", 400),
        (b"GET * HTTP/1.1\r\nHost: a", 400),
        (b"GET a:80 HTTP/1.1\r\nHost: a", 400),
        (b"GET x/y HTTP/1.1\r\nHost: a", 400),
        (b"GET https://a/ HTTP/1.1\r\nHost: a", 400),
        (b"GET http:///x HTTP/1.1\r\nHost: a", 400),
        (b"GET http://a@b/ HTTP/1.1\r\nHost: a", 400),
        (b"GET http://a/#f HTTP/1.1\r\nHost: a", 400),
        (b"CONNECT a HTTP/1.1\r\nHost: a", 400),
        (b"CONNECT /a:80 HTTP/1.1\r\nHost: a", 400),
        (b"CONNECT http://a:80 HTTP/1.1\r\nHost: a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding", 400),
        (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: y" * MAX_FIELDS, 431),
    ],
)
def test_requests_that_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadHead) as refused:
        parse_request(head)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("first", "host", "authority", "line"),
    [
        (b"GET /x?y=1 HTTP/1.1", b"Host: api", "api", b"GET /x?y=1 HTTP/1.1"),
        (b"GET /x HTTP/1.1", b"Host:   api:80  ", "api:80", b"GET /x HTTP/1.1"),
        (b"GET /x HTTP/1.1", b"Host: API.Default", "api.default", b"GET /x HTTP/1.1"),
        (b"GET / HTTP/1.1", b"Host:", "", b"GET / HTTP/1.1"),
        (b"GET / HTTP/1.1", b"Host: [::1]:80", "[::1]:80", b"GET / HTTP/1.1"),
        (b"OPTIONS * HTTP/1.1", b"Host: api", "api", b"OPTIONS * HTTP/1.1"),
        (b"GET http://api:81/x HTTP/1.1", b"Host: other", "api:81", b"GET /x HTTP/1.1"),
        (b"GET HTTP://Api?q HTTP/1.1", b"Host: other", "api", b"GET /?q HTTP/1.1"),
        (b"OPTIONS http://api HTTP/1.1", b"Host: other", "api", b"OPTIONS * HTTP/1.1"),
        (b"OPTIONS http://api/ HTTP/1.1", b"Host: other", "api", b"OPTIONS / HTTP/1.1"),
        (b"CONNECT db:5432 HTTP/1.1", b"Host: other", "db:5432", b"CONNECT db:5432 HTTP/1.1"),
        (b"GET /x HTTP/1.0", b"", "", b"GET /x HTTP/1.1"),
        (b"GET http://api/x HTTP/1.0", b"", "api", b"GET /x HTTP/1.1"),
    ],
)
def test_where_a_request_goes(first: bytes, host: bytes, authority: str, line: bytes) -> None:
    """RFC 9112, section 3.2: an absolute target overrules Host, and becomes what an origin expects."""
    head = request(first=first, host=host)
    assert head.authority == authority
    assert head.forward.split(b"\r\n")[0] == line
    assert head.absolute == (b"http://" in first.lower() and not first.startswith(b"CONNECT"))


def test_a_request_without_host_gets_an_empty_one() -> None:
    assert forwarded(first=b"GET / HTTP/1.0", host=b"") == [b"GET / HTTP/1.1", b"Host:"]


def test_an_absolute_target_replaces_host() -> None:
    lines = forwarded(b"X: y", first=b"GET http://api:81/x HTTP/1.1", host=b"hOsT: evil")
    assert lines == [b"GET /x HTTP/1.1", b"Host: api:81", b"X: y"]


@pytest.mark.parametrize(
    ("sent", "goes_on"),
    [
        ([b"X: y", b"x: z"], [b"X: y", b"x: z"]),
        ([b"Connection: keep-alive", b"Keep-Alive: 5", b"X: y"], [b"X: y"]),
        ([b"Connection: close, X-Hop", b"x-hop: 1", b"X-Hop2: 2"], [b"X-Hop2: 2"]),
        ([b"Proxy-Connection: close", b"Proxy-Authorization: Basic x"], []),
        ([b"Upgrade: websocket"], []),
        ([b"TE: trailers", b"Connection: TE"], [b"TE: trailers", b"Connection: TE"]),
        ([b"TE: gzip"], []),
        ([b"Transfer-Encoding:  CHUNKED "], [b"Transfer-Encoding: chunked"]),
        ([b"Content-Length: 3"], [b"Content-Length: 3"]),
        ([b"Expect: 100-Continue"], [b"Expect: 100-Continue"]),
        ([b"l5d-client-id: spiffe://a/ns/b/sa/c"], []),
        ([b"L5D-Client-ID: x", b"l5d-proxy-unsent: true", b"l5d-proxy-error: x"], []),
    ],
)
def test_hop_by_hop_fields_and_ours_end_here(sent: list[bytes], goes_on: list[bytes]) -> None:
    assert forwarded(*sent) == [b"GET /x HTTP/1.1", b"Host: api", *goes_on]


@pytest.mark.parametrize(
    ("sent", "offered"),
    [
        ([b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
        ([b"upgrade: WebSocket", b"connection: keep-alive, uPGRADE"], b"WebSocket"),
        ([b"Connection: upgrade", b"Upgrade: foo/1,bar ,\tbaz/2"], b"foo/1, bar, baz/2"),
        ([b"Connection: upgrade", b"Upgrade: tcp", b"Content-Length: 0"], b"tcp"),
        ([b"Connection: Upgrade, close", b"Upgrade: SPDY/3.1"], b"SPDY/3.1"),
        # HTTP itself
        ([b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"], b""),
        ([b"Connection: Upgrade", b"Upgrade: H2C, websocket, HTTP/2.0"], b"websocket"),
        ([b"Connection: Upgrade", b"Upgrade: http/1.1, h2"], b""),
        # not nominated, or not one list of protocols
        ([b"Upgrade: websocket"], b""),
        ([b"Connection: keep-alive", b"Upgrade: websocket"], b""),
        ([b"Connection: Upgrade"], b""),
        ([b"Connection: Upgrade", b"Upgrade:"], b""),
        ([b"Connection: Upgrade", b"Upgrade: web socket"], b""),
        ([b"Connection: Upgrade", b"Upgrade: foo/1/2"], b""),
        ([b"Connection: Upgrade", b"Upgrade: websocket,"], b""),
        ([b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: websocket"], b""),
        ([b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"], b""),
        # a body comes first
        ([b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 1"], b""),
        ([b"Connection: Upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"], b""),
    ],
)
def test_what_a_request_asks_to_be_upgraded_to(sent: list[bytes], offered: bytes) -> None:
    head = request(*sent)
    assert head.upgrade == offered
    lines = head.forward.split(b"\r\n")
    this_hop = [line for line in lines if line[:7].lower() in (b"upgrade", b"connect", b"http2-s")]
    assert this_hop == ([b"Upgrade: " + offered, b"Connection: Upgrade"] if offered else [])
    assert head.plain is (head.length == 0 and not offered)
    if offered:
        assert not any(line[:14].lower() == b"content-length" for line in lines)


def test_only_http_1_1_has_upgrades_and_a_tunnel_is_one_already() -> None:
    lines = [b"Connection: Upgrade", b"Upgrade: websocket"]
    assert request(*lines, first=b"GET / HTTP/1.0").upgrade == b""
    assert request(*lines, first=b"CONNECT a:1 HTTP/1.1").upgrade == b""
    assert request(*lines, first=b"GET http://api/ HTTP/1.1").upgrade == b"websocket"
    both = forwarded(b"Connection: Upgrade, TE", b"TE: trailers", b"Upgrade: websocket")
    assert both[2:] == [b"TE: trailers", b"Upgrade: websocket", b"Connection: TE, Upgrade"]


@pytest.mark.parametrize(
    ("status_line", "lines", "named"),
    [
        (b"HTTP/1.1 101 Switching Protocols", [b"Connection: upgrade", b"Upgrade: WebSocket"], b"WebSocket"),
        (b"HTTP/1.1 101", [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 7"], b"websocket"),
        (b"HTTP/1.1 101 X", [b"Upgrade: websocket"], b""),
        (b"HTTP/1.1 101 X", [b"Connection: Upgrade"], b""),
        (b"HTTP/1.1 101 X", [b"Connection: Upgrade", b"Upgrade: h2c"], b""),
        (b"HTTP/1.0 101 X", [b"Connection: Upgrade", b"Upgrade: websocket"], b""),
        (b"HTTP/1.1 200 OK", [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 0"], b""),
        (b"HTTP/1.1 426 X", [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 0"], b""),
    ],
)
def test_what_an_answer_switches_to(status_line: bytes, lines: list[bytes], named: bytes) -> None:
    head = parse_response(b"\r\n".join([status_line, b"X: y", *lines]))
    assert head.upgrade == named
    assert not head.verbatim
    assert head.switches(request(b"Connection: upgrade", b"Upgrade: foo, websocket")) is bool(named)
    assert not head.switches(request(b"Connection: upgrade", b"Upgrade: foo"))
    assert not head.switches(request())
    if named:
        assert head.forward == b"\r\n".join(
            [b"HTTP/1.1 " + status_line[9:], b"X: y", b"Upgrade: " + named, b"Connection: Upgrade", b""]
        )


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, Close"], False),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive", b"Connection: close"], False),
    ],
)
def test_when_a_connection_outlives_a_message(version: bytes, lines: list[bytes], keep_alive: bool) -> None:
    assert request(*lines, first=b"GET / HTTP/" + version).keep_alive is keep_alive
    response = parse_response(b"\r\n".join([b"HTTP/" + version + b" 200 OK", b"Content-Length: 0", *lines]))
    assert response.keep_alive is keep_alive


def test_a_name_that_is_remembered_still_needs_its_colon() -> None:
    request(b"X-Remembered: 1")
    for head in (b"GET / HTTP/1.1\r\nHost: a\r\nX-Remembered", b"GET / HTTP/1.1\r\nHost: a\r\nX-Remembered\r\nY: z"):
        with pytest.raises(BadHead):
            parse_request(head)
    with pytest.raises(BadHead):
        parse_response(b"HTTP/1.1 200 OK\r\nX-Remembered")


def test_a_body_s_length_and_what_is_expected() -> None:
    assert request().plain
    assert request(b"Content-Length: 0").plain
    assert request(b"Content-Length: 3").length == 3
    assert request(b"Transfer-Encoding: chunked").length == CHUNKED
    assert not request(first=b"CONNECT a:1 HTTP/1.1").plain
    assert request(b"Expect: 100-continue").expects_continue
    assert not request(b"Expect: 100-continue", first=b"POST / HTTP/1.0").expects_continue


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 099 X",
        b"HTTP/1.1 2000 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 200 O\x01K",
        b"HTTP/1.1 200 OK\nX: y",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nX : y",
    ],
)
def test_responses_that_are_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_response(head)


@pytest.mark.parametrize(
    ("head", "length", "keep_alive", "verbatim", "forward"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", 2, True, True, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
        (b"HTTP/1.1 200", UNTIL_CLOSE, False, True, b"HTTP/1.1 200\r\n"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2", 2, False, False, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", CHUNKED, True, False, b"HTTP/1.1 200 OK\r\n"),
        (b"HTTP/1.1 204 No Content", UNTIL_CLOSE, True, True, b"HTTP/1.1 204 No Content\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9", 9, True, True, None),
        (b"HTTP/1.1 204 None\r\nContent-Length: 9\r\nX: y", 9, True, False, b"HTTP/1.1 204 None\r\nX: y\r\n"),
        (b"HTTP/1.1 103 Hints\r\nContent-Length: 0", 0, True, False, b"HTTP/1.1 103 Hints\r\n"),
        (b"HTTP/1.1 200 OK\r\nConnection: X\r\nX: 1\r\nContent-Length: 0", 0, True, False, None),
    ],
)
def test_responses(head: bytes, length: int, keep_alive: bool, verbatim: bool, forward: bytes | None) -> None:
    found = parse_response(head)
    assert (found.length, found.keep_alive, found.verbatim) == (length, keep_alive, verbatim)
    assert forward is None or found.forward == forward


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [(b"GET", 200, 9), (b"HEAD", 200, 0), (b"GET", 204, 0), (b"GET", 304, 0), (b"GET", 103, 0), (b"POST", 404, 9)],
)
def test_method_and_status_overrule_a_response_s_length(method: bytes, status: int, length: int) -> None:
    head = parse_response(b"HTTP/1.1 %d X\r\nContent-Length: 9" % status)
    assert head.body_length(method) == length


def test_only_a_proxy_of_the_mesh_vouches_for_its_errors() -> None:
    head = b"HTTP/1.1 503 X\r\nl5d-proxy-error: why\r\nl5d-proxy-unsent: true\r\nContent-Length: 0"
    assert b"l5d" not in parse_response(head).forward
    assert not parse_response(head).unsent
    assert b"l5d-proxy-error: why\r\nl5d-proxy-unsent: true\r\n" in parse_response(head, from_proxy=True).forward


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        (b"", b""),
        (b"X-Sum: 1", b"X-Sum: 1\r\n"),
        (b"X-Sum: 1\r\nContent-Length: 5\r\nHost: a\r\nTransfer-Encoding: x\r\nY: 2", b"X-Sum: 1\r\nY: 2\r\n"),
        (b"l5d-client-id: x", b""),
    ],
)
def test_trailers(block: bytes, kept: bytes) -> None:
    assert trailer_lines(block) == kept


@pytest.mark.parametrize("block", [b"X : 1", b"X: 1\nY: 2", b" X: 1", b"X: \x00", b"X", b"X: 1\r\n Y"])
def test_trailers_that_are_refused(block: bytes) -> None:
    with pytest.raises(BadHead):
        trailer_lines(block)


# --- properties ----------------------------------------------------------------------------------------------------

TOKEN = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,8}", fullmatch=True)
VALUE = st.from_regex(rb"[!-~](?:[ -~]{0,8}[!-~])?", fullmatch=True)
NAMED = st.sampled_from(
    [b"Connection: close", b"Connection: X-Hop", b"X-Hop: 1", b"Content-Length: 3", b"Transfer-Encoding: chunked",
     b"TE: trailers", b"Expect: 100-continue", b"l5d-client-id: spoofed", b"Upgrade: h2c", b"Keep-Alive: 3"]
)  # fmt: skip
LINES = st.lists(st.one_of(st.builds(lambda name, value: name + b": " + value, TOKEN, VALUE), NAMED), max_size=6)
TARGET = st.sampled_from([b"/", b"/a?b=c", b"http://api/x", b"http://api:81", b"*"])
REQUEST = st.builds(
    lambda method, target, minor, lines: b"\r\n".join([b"%b %b HTTP/1.%d" % (method, target, minor), *lines]),
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"HEAD"]),
    TARGET,
    st.sampled_from([1, 1, 1, 0]),
    st.builds(lambda host, lines: [*host, *lines], st.sampled_from([[b"Host: api"], [b"Host: API:80"], []]), LINES),
)


def mutated(head: bytes, at: int, byte: int) -> bytes:
    at %= len(head)
    return head[:at] + bytes([byte]) + head[at + 1 :]


ODD = st.sampled_from([0, 9, 10, 11, 13, 32, 34, 44, 47, 58, 0x7F, 0x80, 0xFF, 65, 48])
MUTATED = st.builds(mutated, REQUEST, st.integers(0, 10_000), ODD)


def parsed(head: bytes) -> RequestHead | None:
    try:
        return parse_request(head)
    except BadHead:
        return None


def fields(head: RequestHead | ResponseHead) -> tuple[object, ...]:
    return tuple(getattr(head, slot) for slot in head.__slots__)


@given(st.one_of(REQUEST, MUTATED))
def test_what_is_forwarded_reads_the_same_again(head: bytes) -> None:
    """A fixpoint: whoever comes after us sees the same request, and forwards the same bytes."""
    first = parsed(head)
    if first is None:
        return
    again = parse_request(first.forward[:-2])
    assert (again.method, again.length, again.minor) == (first.method, first.length, 1)
    assert again.forward == first.forward
    assert b"l5d-client-id" not in first.forward.lower()
    if again.authority:
        assert again.authority == first.authority


@given(st.one_of(REQUEST, MUTATED))
def test_h11_agrees_on_what_is_forwarded(head: bytes) -> None:
    """An independent reader finds in the forwarded bytes one request, with the same framing."""
    ours = parsed(head)
    if ours is None or not ours.authority or not ours.forward.isascii():
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(ours.forward + b"\r\n")
    theirs = server.next_event()
    assert isinstance(theirs, h11.Request)
    assert theirs.method == ours.method
    framing = {name: value for name, value in theirs.headers if name in (b"content-length", b"transfer-encoding")}
    if ours.length == CHUNKED:
        assert framing == {b"transfer-encoding": b"chunked"}
    elif ours.length:
        assert framing == {b"content-length": b"%d" % ours.length}
    else:
        assert framing.get(b"content-length", b"0").strip(b"0") == b""


@given(MUTATED)
def test_what_h11_refuses_is_refused(head: bytes) -> None:
    """h11 is the laxer of the two: bare LF, folding, and lists of lengths are all the same to it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(head + b"\r\n\r\n")
    refusal = ""
    try:
        server.next_event()
    except h11.RemoteProtocolError as error:
        refusal = str(error)
    if not head.split(b"\r\n")[0].isascii():  # a target of raw UTF-8 we let through, as nginx does; h11 does not
        return
    assert not refusal or parsed(head) is None, refusal


@given(st.one_of(REQUEST, MUTATED))
def test_a_remembered_head_equals_the_head_parsed_anew(head: bytes) -> None:
    table = HeadTable(parse_request)
    whole = head + b"\r\n\r\n"
    for _ in range(3):
        try:
            remembered = table.get(whole) or table.parse(whole)
        except BadHead:
            assert parsed(head) is None
            assert table.get(whole) is None
        else:
            assert fields(remembered) == fields(parse_request(head))


def test_a_table_keeps_what_it_sees_twice_and_no_more_than_its_capacity() -> None:
    table = HeadTable(parse_request, capacity=8)
    heads = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(100)]
    for head in heads:
        table.parse(head)
    assert len(table) == 0
    for head in heads:
        table.parse(head)
        table.parse(head)
        assert table.get(head) is not None
        assert len(table) <= 8
    large = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * HeadTable.MAX_REMEMBERED_BYTES)
    for _ in range(3):
        table.parse(large)
    assert table.get(large) is None
