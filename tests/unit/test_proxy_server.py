"""A caller's connection: what reaches the endpoint, what comes back, and when the connection ends."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Failure, bound_of
from proxy.http1.heads import MAX_HEAD_BYTES
from proxy.http1.server import HEAD_S, IDLE_S, LINGER_S, MAX_PASSED_BYTES, MAX_PIPELINED_BYTES
from tests.support.exchanges import Rig
from tests.support.wire import HIGH_WATER_BYTES, READ_BYTES, Wire

GET = b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MORE_THAN_BUFFERS = b"x" * (HIGH_WATER_BYTES + READ_BYTES)


def answered(rig: Rig, caller: Wire, answer: bytes = OK) -> bytes:
    """What the caller hears when the endpoint of the request under way answers."""
    wire = rig.open() if rig.asked else rig.opened[-1]
    wire.says(answer)
    caller.settle()
    return caller.heard()


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


# --- keep-alive and pipelining


def test_requests_one_after_the_other_share_a_connection() -> None:
    rig = Rig()
    caller = rig.call()
    for _ in range(3):
        caller.says(GET)
        assert answered(rig, caller) == OK
    assert len(rig.opened) == 1
    assert rig.opened[0].heard() == GET * 3
    assert rig.counted() == (3, {200: 3})
    assert (rig.pending, rig.idle) == (0, 1)


def test_one_byte_at_a_time() -> None:
    rig = Rig()
    caller = rig.call()
    for byte in b"\r\n" + POST + b"hello":
        caller.says(bytes([byte]))
    endpoint = rig.open()
    caller.settle()
    assert endpoint.heard() == POST + b"hello"
    for byte in OK:
        endpoint.says(bytes([byte]))
    assert caller.heard() == OK
    assert rig.idle == 1


def test_one_empty_line_before_a_request_is_ignored() -> None:
    """However it is cut; a second one begins a malformed request, and does not keep a connection open for nothing."""
    rig = Rig()
    caller = rig.call()
    for _ in range(3):
        caller.says(b"\r\n")
        caller.says(GET)
        rig.opened[0].says(OK) if rig.opened else rig.open().says(OK)
        assert caller.heard() == OK
    for pieces in ([b"\r\n\r\n" + GET], [b"\r\n", b"\r\n", GET], [b"\r", b"\n\r", b"\n", GET]):
        caller = rig.call()
        for piece in pieces:
            caller.says(piece)
        assert caller.heard().startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_are_answered_in_order() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET + POST + b"hello" + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + GET)
    endpoint = rig.open()
    seen = []
    for number in range(4):
        seen.append(endpoint.heard())
        endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
    assert seen == [GET, POST + b"hello", CHUNKED + b"1\r\na\r\n0\r\n\r\n", GET]
    assert [part[-1:] for part in caller.heard().split(b"HTTP/1.1")[1:]] == [b"0", b"1", b"2", b"3"]


def test_pipelined_requests_are_read_ahead_only_so_far() -> None:
    rig = Rig()
    caller = rig.call()
    wanted = 4 * READ_BYTES // len(GET)
    flood = GET * wanted
    caller.says(flood)
    assert caller.held()
    endpoint = rig.open()
    for _ in range(wanted):
        endpoint.says(OK)
        caller.settle()
    assert endpoint.heard() == flood
    assert caller.heard() == OK * wanted
    assert not caller.held()


def test_pipelined_requests_of_one_who_has_said_all_are_answered() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET * 3)
    caller.ends()
    endpoint = rig.open()
    for _ in range(3):
        endpoint.says(OK)
    assert caller.heard() == OK * 3
    assert caller.is_closing()


def test_pipelined_requests_of_a_slow_reader_who_has_said_all_are_answered() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (2 * HIGH_WATER_BYTES, b"x" * 2 * HIGH_WATER_BYTES)
    caller.says(GET * 2)
    endpoint = rig.open()
    endpoint.says(large)
    caller.ends()
    assert endpoint.heard() == GET
    endpoint.settle()
    caller.reads()
    endpoint.settle()
    caller.settle()
    endpoint.says(OK)
    assert endpoint.heard() == GET
    assert caller.heard() == large + OK
    assert caller.is_closing()


def test_a_caller_that_half_closed_gets_its_answer() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    caller.ends()
    assert answered(rig, caller) == OK
    assert caller.lost


def test_a_caller_that_half_closed_in_the_midst_of_its_request_is_let_go() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(POST + b"he")
    endpoint = rig.open()
    caller.ends()
    endpoint.settle()
    assert caller.lost
    assert endpoint.aborted
    assert rig.pending == 0


def test_connection_close_is_kept_to() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"GET /x HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n" + GET)
    assert answered(rig, caller) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok"
    caller.ends()
    assert caller.lost
    assert rig.opened[0].heard() == GET, "what follows is no request"
    assert rig.idle == 1, "the endpoint's connection is another matter"


# --- HTTP/1.0


@pytest.mark.parametrize(
    ("asked", "answer", "heard", "closes"),
    [
        (b"", OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok", True),
        (
            b"Connection: keep-alive\r\n",
            OK,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nok",
            False,
        ),
        (
            b"Connection: keep-alive\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok",
            True,
        ),
        (
            b"",
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok",
            True,
        ),
    ],
)
def test_http_1_0(asked: bytes, answer: bytes, heard: bytes, closes: bool) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"GET /x HTTP/1.0\r\nHost: api\r\n" + asked + b"\r\n")
    assert answered(rig, caller, answer) == heard
    assert caller.lost is closes
    assert rig.opened[0].heard() == GET


def test_a_head_of_http_1_0_is_answered_without_chunking() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"HEAD /x HTTP/1.0\r\nHost: api\r\n\r\n")
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answered(rig, caller, answer) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"


# --- bodies of answers


@pytest.mark.parametrize(
    ("method", "answer", "heard"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", None),
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
    ],
)
def test_answers_without_a_body(method: bytes, answer: bytes, heard: bytes | None) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(method + GET[3:])
    assert answered(rig, caller, answer) == (answer if heard is None else heard)
    assert not caller.is_closing()
    assert rig.idle == 1


def test_a_chunked_answer_with_trailers() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    heard = answered(rig, caller, answer)
    assert heard == (
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert rig.idle == 1


def test_an_answer_until_close_is_chunked_so_that_its_end_can_be_told() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.says(b"HTTP/1.1 200 OK\r\n\r\nok")
    endpoint.ends()
    assert caller.heard() == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert not caller.is_closing()
    assert rig.counted() == (1, {200: 1})


def test_an_answer_that_breaks_off_is_cut_and_not_passed_off_as_whole() -> None:
    for begun in (b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"\r\nhalf"):
        rig = Rig()
        caller = rig.call()
        caller.says(GET)
        endpoint = rig.open()
        endpoint.says(b"HTTP/1.1 200 OK\r\n" + begun)
        endpoint.breaks(ConnectionResetError())
        caller.settle()
        assert caller.aborted
        assert rig.counted() == (1, {502: 1})
        assert rig.pending == 0


# --- bodies of requests


def test_a_chunked_request_with_trailers() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(CHUNKED)
    endpoint = rig.open()
    caller.says(b"5;ext\r\nhello\r\n")
    caller.says(b"0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n" + GET)
    assert endpoint.heard() == CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    endpoint.says(OK)
    assert endpoint.heard() == GET


def test_expect_100_continue() -> None:
    rig = Rig()
    caller = rig.call()
    head = b"POST /x HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    caller.says(head)
    endpoint = rig.open()
    assert endpoint.heard() == head
    endpoint.says(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert caller.heard() == b"HTTP/1.1 100 Continue\r\n\r\n"
    caller.says(b"hello")
    assert endpoint.heard() == b"hello"
    endpoint.says(OK)
    assert caller.heard() == OK
    assert rig.idle == 1


def test_interim_answers_pass_and_a_continue_nobody_expects_does_not() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert answered(rig, caller, b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK) == hints + OK


def test_an_expectation_that_is_turned_down_ends_the_connection() -> None:
    """Whether the body still comes cannot be known, so what follows cannot be told apart."""
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n")
    heard = answered(rig, caller, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    assert heard == b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nconnection: close\r\n\r\n"
    assert caller.half_closed
    caller.ends()
    assert caller.lost


def test_an_early_answer_is_heard_before_the_connection_ends() -> None:
    """To close while the caller still sends would reset the connection, and could lose the answer with it."""
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 9999999\r\n\r\nbegun")
    heard = answered(rig, caller, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert heard == b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nconnection: close\r\n\r\n"
    rig.opened[0].heard()
    assert not caller.is_closing()
    caller.says(b"more that nobody reads" * 100)
    rig.opened[0].settle()
    assert rig.opened[0].lost
    rig.tick(LINGER_S + 1)
    assert caller.is_closing()
    assert rig.counted() == (1, {413: 1})


EARLY = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")
"""An answer whose head goes on before it is known that the request will not be whole by its end."""


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nbegun", b" end"),
        (CHUNKED + b"5\r\nbegun\r\n", b"4\r\n end\r\n0\r\n\r\n"),
    ],
)
def test_who_was_told_that_the_connection_stays_may_finish_a_request_that_was_answered(
    head: bytes, rest: bytes
) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(head)
    assert b"".join(answered(rig, caller, piece) for piece in EARLY) == OK
    rig.opened[0].settle()
    assert rig.opened[0].lost  # the endpoint does not get the rest
    for byte in rest:
        caller.says(bytes([byte]))
    caller.says(GET)
    assert answered(rig, caller) == OK
    assert rig.opened[1].heard() == GET
    assert not caller.is_closing()


def test_who_does_not_finish_a_request_that_was_answered_is_left() -> None:
    for rest, gone in ((b"", HEAD_S + 1), (b"x" * 9, HEAD_S - 1), (b"y" * (MAX_PASSED_BYTES + 1), LINGER_S + 1)):
        rig = Rig()
        caller = rig.call()
        caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 99999999\r\n\r\nbegun")
        assert b"".join(answered(rig, caller, piece) for piece in EARLY) == OK
        for at in range(0, len(rest), READ_BYTES):
            caller.says(rest[at : at + READ_BYTES])
        rig.tick(gone)
        assert caller.is_closing() == (len(rest) != 9)
        assert caller.heard() == b""  # it has its answer


def test_a_body_that_becomes_malformed_after_the_answer_ends_the_connection() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(CHUNKED + b"5\r\nbegun\r\n")
    assert b"".join(answered(rig, caller, piece) for piece in EARLY) == OK
    caller.says(b"not a size\r\n" + GET)
    assert caller.aborted
    assert rig.counted() == (1, {200: 1})


def test_who_waits_to_be_told_to_send_its_body_may_never_send_it() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert b"".join(answered(rig, caller, piece) for piece in EARLY) == OK
    assert caller.half_closed  # what comes next could be the body, or a request


# --- back-pressure


def test_an_endpoint_without_room_holds_the_caller() -> None:
    rig = Rig()
    caller = rig.call()
    size = 64 * READ_BYTES
    caller.says(b"POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    endpoint = rig.open(clogged=True)
    caller.settle()
    assert caller.held()
    assert endpoint.buffered <= HIGH_WATER_BYTES + 2 * READ_BYTES
    endpoint.reads()
    caller.settle()
    assert len(endpoint.heard()) > size
    endpoint.says(OK)
    assert caller.heard() == OK


def test_a_request_that_waits_for_its_connection_holds_the_caller() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(CHUNKED + b"%x\r\n" % (64 * READ_BYTES) + b"x" * 64 * READ_BYTES)
    assert caller.held()
    endpoint = rig.open(clogged=True)
    caller.settle()
    assert caller.held()
    assert endpoint.buffered <= HIGH_WATER_BYTES + 3 * READ_BYTES


def test_a_caller_without_room_holds_the_endpoint() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(GET)
    endpoint = rig.open()
    size = 64 * READ_BYTES
    endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    assert endpoint.held()
    assert caller.buffered <= HIGH_WATER_BYTES + READ_BYTES
    caller.reads()
    endpoint.settle()
    assert len(caller.heard()) > size
    assert not endpoint.held()
    assert rig.idle == 1


def test_a_connection_held_by_the_last_of_an_answer_reads_the_next() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(GET)
    endpoint = rig.open()
    payload = b"x" * (2 * HIGH_WATER_BYTES)
    chunked = b"%x\r\n%b\r\n0\r\nX: 1\r\n\r\n" % (len(payload), payload)
    endpoint.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
    assert rig.idle == 1
    caller.reads()
    assert caller.heard().endswith(b"\r\n0\r\nX: 1\r\n\r\n")
    caller.says(GET)
    endpoint.says(OK)
    assert caller.heard() == OK


def test_one_who_reads_no_answers_is_asked_no_more() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (HIGH_WATER_BYTES, b"x" * HIGH_WATER_BYTES)
    for _ in range(3):
        caller.says(GET * 5000)
    endpoint = rig.open()
    for _ in range(3):
        if endpoint.heard():
            endpoint.says(large)
    assert caller.buffered < 3 * len(large)
    assert caller.held()


# --- malformed requests


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00", 400),
        (b"GET / HTTP/1.1\nHost: a\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\x00\r\n\r\n", 400),
    ],
)
def test_what_is_malformed_is_refused_and_nothing_of_it_goes_on(data: bytes, code: int) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(data)
    heard = caller.heard()
    assert status(heard) == code
    assert b"\r\nconnection: close\r\n" in heard
    assert b"\r\nl5d-proxy-error: " in heard
    caller.says(GET)
    caller.ends()
    assert caller.lost
    assert rig.asked == []
    assert rig.refusals[0][0] == bound_of(code)
    assert len(rig.refusals) == 1


def test_a_body_that_turns_out_malformed_ends_the_endpoint_s_connection_too() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(CHUNKED + b"5\r\nhello\r\n")
    endpoint = rig.open()
    caller.says(b"zz\r\n" + GET)
    endpoint.settle()
    assert status(caller.heard()) == 400
    assert endpoint.aborted
    assert endpoint.heard() == CHUNKED + b"5\r\nhello\r\n"
    assert rig.pending == 0


def test_a_malformed_body_cuts_off_an_answer_that_has_begun() -> None:
    """A 400 in the midst of another answer would be taken for a part of it."""
    rig = Rig()
    caller = rig.call()
    caller.says(CHUNKED + b"5\r\nhello\r\n")
    endpoint = rig.open()
    endpoint.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nbegun")
    before = caller.heard()
    caller.says(b"zz\r\n")
    assert before.endswith(b"begun")
    assert caller.heard() == b""
    assert caller.aborted


@given(st.binary(max_size=200), st.integers(1, 50))
@settings(max_examples=60)
def test_no_bytes_upset_it(data: bytes, step: int) -> None:
    rig = Rig()
    caller = rig.call()
    for at in range(0, len(data), step):
        if caller.is_closing():
            break
        caller.says(data[at : at + step])
    if not caller.lost:
        caller.breaks(None)
    while rig.asked:  # some bytes are a request, though its caller has gone
        rig.refuse()
    assert rig.pending == 0


# --- the proxy's own answers


def test_what_cannot_be_routed_is_answered_and_the_connection_goes_on() -> None:
    rig = Rig()
    rig.unroutable = Failure.NO_CALLER
    caller = rig.call()
    caller.says(GET)
    heard = caller.heard()
    assert status(heard) == 403
    assert b"l5d-proxy-unsent: true" in heard
    assert not caller.is_closing()


def test_the_proxy_s_own_answer_to_head_has_no_body() -> None:
    """The caller would take it for the beginning of the next answer."""
    rig = Rig()
    rig.unroutable = Failure.NO_CALLER
    caller = rig.call()
    caller.says(b"HEAD" + GET[3:])
    assert caller.heard().endswith(b"\r\n\r\n")


def test_a_request_with_a_body_that_cannot_be_routed_ends_the_connection() -> None:
    rig = Rig()
    rig.unroutable = Failure.NO_CALLER
    caller = rig.call()
    caller.says(POST)
    assert b"connection: close" in caller.heard()
    caller.says(b"hello" + GET)
    assert caller.heard() == b""
    caller.ends()
    assert caller.lost


# --- deadlines, draining


def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"GET / HT")
    rig.tick(HEAD_S - 1)
    assert caller.heard() == b""
    rig.tick(HEAD_S + 1)
    assert status(caller.heard()) == 408


def test_a_head_has_its_time_from_when_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for a minute is as good as a new one."""
    now = [1000.0]
    monkeypatch.setattr("proxy.http1.server.monotonic", lambda: now[0])
    rig = Rig()
    caller = rig.call()
    now[0] += 60.0
    caller.says(b"GET / HT")
    for _ in range(10):
        rig.sweep.tick(now[0] + HEAD_S - 1)
    assert caller.heard() == b""


def test_an_idle_connection_is_closed_at_last() -> None:
    rig = Rig()
    caller = rig.call()
    rig.tick(IDLE_S - 1)
    assert not caller.is_closing()
    rig.tick(IDLE_S + 1)
    assert caller.is_closing()


def test_draining_ends_a_connection_after_the_request_under_way() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    connection = caller.get_protocol()
    connection.drain()  # type: ignore[attr-defined]
    endpoint.says(OK)
    assert b"connection: close" in caller.heard()
    assert caller.is_closing()


def test_draining_waits_a_moment_for_a_request_that_may_be_on_its_way() -> None:
    rig = Rig()
    new, idle = rig.call(), rig.call()
    idle.says(GET)
    assert answered(rig, idle) == OK
    for caller in (new, idle):
        caller.get_protocol().drain()  # type: ignore[attr-defined]
        assert not caller.is_closing()
        caller.says(GET)
        assert b"connection: close" in answered(rig, caller)
        assert caller.is_closing()


def test_draining_in_the_midst_of_an_answer_waits_for_one_that_can_say_so() -> None:
    """The head under way promised to keep the connection: to close after it could lose the next request."""
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    endpoint = rig.open()
    endpoint.says(OK[:-1])
    caller.get_protocol().drain()  # type: ignore[attr-defined]
    endpoint.says(OK[-1:])
    assert caller.heard() == OK
    assert not caller.is_closing()
    caller.says(GET)
    assert b"connection: close" in answered(rig, caller)
    assert caller.is_closing()


def test_draining_ends_connections_that_bring_nothing() -> None:
    rig = Rig()
    caller = rig.call()
    caller.get_protocol().drain()  # type: ignore[attr-defined]
    rig.tick(2.0)
    assert caller.is_closing()


# --- tunnels


def test_connect_waits_for_its_tunnel_and_hands_over_what_came_early() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nearly")
    caller.says(b" too")
    assert rig.tunnels == ["db:5432"]
    assert caller.heard() == b""
    other = Recording()
    caller.get_protocol().hand_over(other)  # type: ignore[attr-defined]
    assert caller.heard() == b"HTTP/1.1 200 OK\r\n\r\n"
    caller.says(b" and late")
    assert other.got == b"early too and late"
    assert len(rig.ended) == 1


def test_connect_to_nowhere_is_answered_and_ends() -> None:
    rig = Rig()
    rig.unroutable = Failure.NO_CALLER
    caller = rig.call()
    caller.says(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    assert status(caller.heard()) == 403
    assert caller.is_closing()


def test_much_that_comes_before_the_tunnel_stands_is_held() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    caller.says(b"x" * (MAX_PIPELINED_BYTES + 1))
    assert caller.held()
    other = Recording()
    caller.get_protocol().hand_over(other)  # type: ignore[attr-defined]
    assert not caller.held()
    assert len(other.got) == MAX_PIPELINED_BYTES + 1


def test_what_takes_over_the_tunnel_may_hold_it_at_once() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    caller.says(b"x" * (MAX_PIPELINED_BYTES + 1))

    class Holding(asyncio.Protocol):
        def data_received(self, _: bytes) -> None:
            caller.pause_reading()

    caller.get_protocol().hand_over(Holding())  # type: ignore[attr-defined]
    assert caller.held()


class Recording(asyncio.Protocol):
    """A protocol that takes over."""

    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data
