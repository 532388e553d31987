r"""Heads of HTTP/2: what is let through means the same in HTTP/1.1, and what could mean something else is refused."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.heads import CHUNKED, MAX_FIELDS, UNTIL_CLOSE, BadHead, RequestHead, parse_request, parse_response
from proxy.http2 import heads
from proxy.http2.fields import Field, FieldDecoder
from tests.support.smuggling import GET, HTTP2, POST2, instead, without

GOOD = [
    (GET, b"GET /x HTTP/1.1\r\nHost: api\r\n"),
    ([*GET, (b"a", b"1"), (b"a", b"2"), (b"b", b"")], b"GET /x HTTP/1.1\r\nHost: api\r\na: 1\r\na: 2\r\nb: \r\n"),
    ([*without(b":authority"), (b"host", b"api:80")], b"GET /x HTTP/1.1\r\nHost: api:80\r\n"),
    ([*GET, (b"host", b"API")], b"GET /x HTTP/1.1\r\nHost: api\r\n"),
    (instead(b":authority", b"[::1]:80"), b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n"),
    (instead(b":scheme", b"https"), b"GET /x HTTP/1.1\r\nHost: api\r\n"),
    (instead(b":method", b"OPTIONS", instead(b":path", b"*")), b"OPTIONS * HTTP/1.1\r\nHost: api\r\n"),
    ([*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")],
     b"GET /x HTTP/1.1\r\nHost: api\r\nx: y\r\ncookie: a=1; b=2\r\n"),
    ([*GET, (b"cookie", b"a=1"), (b"cookie", b"")], b"GET /x HTTP/1.1\r\nHost: api\r\ncookie: a=1\r\n"),
    ([*GET, (b"te", b"trailers")], b"GET /x HTTP/1.1\r\nHost: api\r\nTE: trailers\r\nConnection: TE\r\n"),
    ([*GET, (b"content-length", b"0")], b"GET /x HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n"),
    ([*GET, (b"x", b"in\tside \xe4")], b"GET /x HTTP/1.1\r\nHost: api\r\nx: in\tside \xe4\r\n"),
    ([*GET, (b"l5d-client-id", b"spiffe://mine")], b"GET /x HTTP/1.1\r\nHost: api\r\n"),
    ([*GET, (b"l5d-proxy-unsent", b"true")], b"GET /x HTTP/1.1\r\nHost: api\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "forward"), GOOD)
def test_a_good_request_reads_the_same_in_http1(fields: list[Field], forward: bytes) -> None:
    head = heads.request(fields, ended=True)
    assert head.forward == forward
    again = parse_request(forward[:-2])
    assert (again.method, again.authority, again.length) == (head.method, head.authority.lower(), 0)


def test_an_authority_is_the_same_in_any_case() -> None:
    """Else `API.MESH` would be a name outside the mesh to the forward proxy, and be asked for in plain text."""
    assert heads.request(instead(b":authority", b"API.Mesh:80"), ended=True).authority == "api.mesh:80"


@pytest.mark.parametrize("fields", HTTP2.values(), ids=HTTP2.keys())
def test_a_malformed_request_is_refused(fields: list[Field]) -> None:
    with pytest.raises(BadHead) as refused:
        heads.request(fields, ended=True)
    assert refused.value.status == 400


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH"])
def test_http1_is_told_that_a_request_with_no_content_has_none(method: bytes) -> None:
    """RFC 9110, section 8.6: some servers answer 411 else. To HTTP/2 it goes on as it came."""
    fields = instead(b":method", method)
    head = heads.request(fields, ended=True)
    assert head.forward == method + b" /x HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n"
    assert head.length == 0
    assert sorted(FieldDecoder().decode(heads.request_block(head))) == sorted(fields[:4])
    assert b"Content-Length" not in heads.request(instead(b":method", b"DELETE"), ended=True).forward


def test_there_are_no_more_fields_than_in_http1() -> None:
    many = [(b"x-%d" % number, b"1") for number in range(MAX_FIELDS)]
    assert heads.request([*GET, *many[1:]], ended=True).forward.count(b"\r\n") == 1 + MAX_FIELDS
    with pytest.raises(BadHead) as refused:
        heads.request([*GET, *many], ended=True)
    assert refused.value.status == 431
    assert heads.response([(b":status", b"200"), *many], from_proxy=True).status == 200
    with pytest.raises(BadHead):
        heads.response([(b":status", b"200"), *many, (b"x", b"1")], from_proxy=True)


def test_what_cannot_be_expected_is_refused_as_in_http1() -> None:
    with pytest.raises(BadHead) as refused:
        heads.request([*POST2, (b"expect", b"miracles")], ended=False)
    assert refused.value.status == 417
    assert heads.request([*POST2, (b"expect", b"100-Continue")], ended=False).expects_continue


def test_connect_is_not_implemented() -> None:
    with pytest.raises(BadHead) as refused:
        heads.request([(b":method", b"CONNECT"), (b":authority", b"api:80")], ended=False)
    assert refused.value.status == 501


@pytest.mark.parametrize(
    ("more", "length", "framing"),
    [
        ([], CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        ([(b"content-length", b"5")], 5, b"Content-Length: 5\r\n"),
        ([(b"content-length", b"0")], 0, b"Content-Length: 0\r\n"),
    ],
)
def test_a_request_with_content_has_one_framing(more: list[Field], length: int, framing: bytes) -> None:
    head = heads.request([*POST2, *more], ended=False)
    assert head.length == length
    assert head.forward == b"POST /x HTTP/1.1\r\nHost: api\r\n" + framing
    assert parse_request(head.forward[:-2]).length == length


@pytest.mark.parametrize(
    ("content_type", "timeout", "grpc", "deadline_s"),
    [
        (b"application/grpc", b"5S", True, 5.0),
        (b"application/grpc+proto", b"200m", True, 0.2),
        (b"application/grpc;charset=utf-8", b"1H", True, 3600.0),
        (b"application/grpc", b"0n", True, 1e-3),
        (b"application/grpc", b"99999999u", True, 99.999999),
        (b"application/grpc", b"123456789S", True, 0.0),
        (b"application/grpc", b"5", True, 0.0),
        (b"application/grpc", b"", True, 0.0),
        (b"application/grpc", b"-1S", True, 0.0),
        (b"application/grpc-web", b"5S", False, 0.0),  # its status is in the body, not in trailers
        (b"application/grpcish", b"5S", False, 0.0),
        (b"application/json", b"5S", False, 0.0),
    ],
)
def test_a_call_of_grpc_is_known_by_its_type(
    content_type: bytes, timeout: bytes, grpc: bool, deadline_s: float
) -> None:
    head = heads.request([*POST2, (b"content-type", content_type), (b"grpc-timeout", timeout)], ended=False)
    assert head.grpc is grpc
    assert head.deadline_s == pytest.approx(deadline_s)


# --- answers


@pytest.mark.parametrize(
    ("fields", "forward", "length"),
    [
        ([(b":status", b"200")], b"HTTP/1.1 200 OK\r\n", UNTIL_CLOSE),
        ([(b":status", b"418")], b"HTTP/1.1 418 I'm a teapot\r\n", UNTIL_CLOSE),
        ([(b":status", b"100")], b"HTTP/1.1 100 Continue\r\n", UNTIL_CLOSE),
        ([(b":status", b"299"), (b"a", b"b")], b"HTTP/1.1 299 \r\na: b\r\n", UNTIL_CLOSE),
        ([(b":status", b"204"), (b"content-length", b"0")], b"HTTP/1.1 204 No Content\r\n", 0),
        ([(b":status", b"200"), (b"l5d-proxy-error", b"x")], b"HTTP/1.1 200 OK\r\n", UNTIL_CLOSE),
    ],
)
def test_a_good_answer_reads_the_same_in_http1(fields: list[Field], forward: bytes, length: int) -> None:
    head = heads.response(fields, from_proxy=False)
    assert (head.forward, head.length) == (forward, length)
    assert parse_response(forward[:-2]).status == head.status


def test_a_proxy_is_believed_that_it_sent_nothing_and_an_application_is_not() -> None:
    fields = [(b":status", b"503"), (b"l5d-proxy-error", b"why"), (b"l5d-proxy-unsent", b"true")]
    from_proxy = heads.response(fields, from_proxy=True)
    assert from_proxy.unsent
    assert from_proxy.forward == b"HTTP/1.1 503 Service Unavailable\r\nl5d-proxy-error: why\r\n"
    assert not heads.response(fields, from_proxy=False).unsent


REFUSED_ANSWERS: dict[str, list[Field]] = {
    "nothing": [],
    "no status": [(b"a", b"b")],
    "a status of two digits": [(b":status", b"20")],
    "a status of four": [(b":status", b"2000")],
    "a status that is no number": [(b":status", b"2x0")],
    "a status below 100": [(b":status", b"099")],
    "two statuses": [(b":status", b"200"), (b":status", b"200")],
    "a pseudo-field of requests": [(b":status", b"200"), (b":path", b"/")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "CR LF": [(b":status", b"200"), (b"a", b"b\r\n\r\nHTTP/1.1 200 OK")],
    "two lengths": [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
    "a name in upper case": [(b":status", b"200"), (b"Set-Cookie", b"a=b")],
}


@pytest.mark.parametrize("fields", REFUSED_ANSWERS.values(), ids=REFUSED_ANSWERS.keys())
def test_a_malformed_answer_is_refused(fields: list[Field]) -> None:
    with pytest.raises(BadHead):
        heads.response(fields, from_proxy=True)


# --- trailers


def test_trailers_that_may_not_come_late_are_dropped() -> None:
    fields = [(b"grpc-status", b"0"), (b"host", b"x"), (b"content-length", b"3"), (b"te", b"trailers")]
    assert heads.trailers(fields) == b"grpc-status: 0\r\n"


@pytest.mark.parametrize("field", [(b":status", b"200"), (b"A", b"b"), (b"a", b"b\r\nc: d"), (b"connection", b"x")])
def test_malformed_trailers_are_refused(field: Field) -> None:
    with pytest.raises(BadHead):
        heads.trailers([field])


# --- HTTP/1.1 to HTTP/2 and back


def crossed(head: RequestHead) -> RequestHead:
    """The request as the proxy on the far side makes it of its block."""
    return heads.request(FieldDecoder().decode(heads.request_block(head)), ended=head.length == 0)


@pytest.mark.parametrize(
    ("raw", "forward"),
    [
        (b"GET / HTTP/1.1\r\nHost: api", b"GET / HTTP/1.1\r\nHost: api\r\n"),
        (b"GET /?q HTTP/1.1\r\nHost: api\r\nX-A:  b \r\nConnection: X-B, close\r\nX-B: c",
         b"GET /?q HTTP/1.1\r\nHost: api\r\nx-a: b\r\n"),
        (b"PUT / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x",
         b"PUT / HTTP/1.1\r\nHost: api\r\ntrailer: x\r\n"
         b"Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n"),
        (b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nExpect: 100-Continue",
         b"POST / HTTP/1.1\r\nHost: api\r\nexpect: 100-Continue\r\nContent-Length: 5\r\n"),
        (b"OPTIONS * HTTP/1.1\r\nHost: api", b"OPTIONS * HTTP/1.1\r\nHost: api\r\n"),
        (b"GET http://api:80/x HTTP/1.1\r\nHost: other", b"GET /x HTTP/1.1\r\nHost: api:80\r\n"),
        (b"GET / HTTP/1.0", b"GET / HTTP/1.1\r\nHost: \r\n"),
        (b"POST / HTTP/1.1\r\nHost: api", b"POST / HTTP/1.1\r\nHost: api\r\n"),
        (b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0",
         b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n"),
        (b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: \r\n"),
        (b"GET / HTTP/1.0\r\nHost: api\r\nConnection: keep-alive", b"GET / HTTP/1.1\r\nHost: api\r\n"),
        (b"GET / HTTP/1.1\r\nHost: api\r\nCookie: a=1\r\nCookie: b=2",
         b"GET / HTTP/1.1\r\nHost: api\r\ncookie: a=1; b=2\r\n"),
    ],
)  # fmt: skip
def test_a_request_of_http1_comes_out_as_it_went_in(raw: bytes, forward: bytes) -> None:
    head = parse_request(raw)
    out = crossed(head)
    assert out.forward == forward
    assert not out.h2
    assert out.length == head.length
    assert out.expects_continue == head.expects_continue


VALUE = st.from_regex(rb"[!-~]([ -~\t]{0,20}[!-~])?", fullmatch=True)
NAME = st.from_regex(rb"[a-z][a-z0-9_.-]{0,15}", fullmatch=True).filter(
    lambda name: name not in (b"te", b"host", b"connection", b"upgrade", b"expect", b"cookie", b"trailer")
)


@given(st.lists(st.tuples(NAME, VALUE), max_size=8), st.from_regex(rb"/[!-~]{0,30}", fullmatch=True))
def test_any_request_of_http2_comes_out_as_it_went_in(fields: list[Field], path: bytes) -> None:
    head = heads.request([*instead(b":path", path), *fields], ended=True)
    out = crossed(head)
    assert out.h2
    assert out.forward == head.forward
    assert heads.request_block(out) == heads.request_block(head)
    assert parse_request(head.forward[:-2]).forward == head.forward


@given(st.lists(st.tuples(NAME, VALUE), max_size=8), st.integers(200, 599))
def test_any_answer_comes_out_as_it_went_in(fields: list[Field], status: int) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    head = parse_response(b"HTTP/1.1 %d Whatever\r\n%b" % (status, lines.removesuffix(b"\r\n")) if lines
                          else b"HTTP/1.1 %d Whatever" % status)  # fmt: skip
    out = heads.response(FieldDecoder().decode(heads.response_block(head)), from_proxy=False)
    assert out.status == status
    assert out.forward.partition(b"\r\n")[2] == lines
    assert heads.response_block(out) == heads.response_block(head)


def test_field_names_of_any_number_and_size_are_not_kept_for_ever() -> None:
    """Names are remembered to save checking them; a peer that makes them up must not fill the memory."""
    tracemalloc.start()
    for number in range(1500):
        heads.request([*GET, (b"x-%d-" % number + b"y" * 10_000, b"1")], ended=True)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1 << 20
