"""Upgrades: from a request to raw bytes both ways, in HTTP/1.1 and across the streams between proxies."""

import asyncio
from itertools import pairwise
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.api.endpoints import Endpoint
from meshd.api.policy import Limits, Policy, Timeouts
from proxy.http1.heads import RequestHead, parse_request, parse_response
from proxy.http1.server import MAX_PIPELINED_BYTES
from proxy.http2 import frames, heads
from proxy.http2.engine import STREAM_WINDOW
from proxy.http2.fields import Field, FieldDecoder, encode
from proxy.http2.frames import DATA, END_STREAM, RST_STREAM, Code, rst_stream, window_update
from proxy.stalls import STALL_S
from tests.support.aio import run
from tests.support.exchanges import Rig
from tests.support.h2 import data, request
from tests.support.h2exchanges import H2Rig, Peer, on_loop
from tests.support.waiting import eventually
from tests.support.wire import HIGH_WATER_BYTES, READ_BYTES, Wire

GET = b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n"
ASK = b"GET /x HTTP/1.1\r\nHost: api\r\nUpgrade: foo/1, bar\r\nConnection: Upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\nUpgrade: bar\r\nConnection: Upgrade\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
MESHED = Endpoint("192.0.2.1", 80, "spiffe://mesh.example/ns/default/sa/api", 4143)


def settled(*wires: Wire) -> None:
    """All that the loop would do next is done, on every wire."""
    for _ in range(4):
        for wire in wires:
            wire.settle()


def opened(rig: Rig) -> int:
    """What endpoints count as open connections of opaque bytes."""
    return sum(live.open for live in rig.destination.endpoints)


def upgraded(rig: Rig, clogged: bool = False, tls: bool = False) -> tuple[Wire, Wire]:
    """A caller and an endpoint with a tunnel between them. `clogged`: neither reads what it is sent from now on."""
    caller = rig.call(tls=tls)
    caller.says(ASK)
    endpoint = rig.open()
    assert endpoint.heard() == ASK
    endpoint.says(SWITCH)
    assert caller.heard() == SWITCH
    caller.clogged = endpoint.clogged = clogged
    return caller, endpoint


# --- through one proxy


def test_after_101_bytes_pass_as_they_come() -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig)
    assert rig.counted() == (1, {101: 1})
    assert (rig.pending, rig.idle, rig.destination.in_flight) == (0, 0, 0), "how long it lasts is no load"
    assert opened(rig) == 1
    caller.says(GET)
    caller.says(b"\x00not HTTP\n\n")
    assert endpoint.heard() == GET + b"\x00not HTTP\n\n"
    endpoint.says(OK + SWITCH)
    assert caller.heard() == OK + SWITCH
    assert rig.counted() == (1, {101: 1})
    src, dst = (next(each for each in rig.stats.tcp_series if each.peer == peer) for peer in ("src", "dst"))
    assert src.read_bytes == dst.written_bytes == len(ASK + GET) + 11
    assert src.written_bytes == dst.read_bytes == len(SWITCH + OK + SWITCH)
    assert rig.ended == [], "a drain waits for it"
    caller.ends()
    endpoint.ends()
    settled(caller, endpoint)
    assert (caller.lost, endpoint.lost, caller.aborted, endpoint.aborted) == (True, True, False, False)
    assert (opened(rig), src.open, dst.open, len(rig.ended)) == (0, 0, 0, 1)


def test_an_upgrade_gets_the_fields_of_its_route() -> None:
    rig = Rig(extra=b"l5d-client-id: x\r\n")
    caller = rig.call()
    caller.says(ASK)
    assert rig.open().heard() == ASK[:-2] + b"l5d-client-id: x\r\n\r\n"


@pytest.mark.parametrize("early", [b"\x81\x05hello", GET, ASK, b"\r\n\r\n"])
def test_what_comes_before_101_is_held_and_not_read_as_a_request(early: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK + early)
    caller.says(early)
    endpoint = rig.open()
    caller.says(early)
    assert endpoint.heard() == ASK
    endpoint.says(SWITCH + b"early too")
    assert endpoint.heard() == early * 3
    assert caller.heard() == SWITCH + b"early too"
    caller.says(b"more")
    assert endpoint.heard() == b"more"
    assert rig.asked == []


def test_not_much_is_held() -> None:
    rig = Rig()
    caller = rig.call()
    flood = bytes(3 * READ_BYTES)
    caller.says(ASK + flood)
    assert caller.held()
    endpoint = rig.open()
    endpoint.heard()
    endpoint.says(SWITCH)
    early = len(endpoint.heard())
    assert MAX_PIPELINED_BYTES < early <= 2 * READ_BYTES
    assert not caller.held()
    caller.settle()
    assert early + len(endpoint.heard()) == len(flood)


@given(st.lists(st.integers(1, 400), max_size=6), st.lists(st.integers(1, 400), max_size=6))
@settings(max_examples=40)
def test_however_it_is_cut(said: list[int], answered: list[int]) -> None:
    """Where one protocol ends and the other begins does not depend on how the bytes come."""
    rig = Rig()
    caller = rig.call()
    for piece in cut(ASK + GET * 3, said):
        caller.says(piece)
    endpoint = rig.open()
    for piece in cut(b"HTTP/1.1 103 X\r\n\r\n" + SWITCH + OK * 3, answered):
        endpoint.says(piece)
    assert endpoint.heard() == ASK + GET * 3
    assert caller.heard() == b"HTTP/1.1 103 X\r\n\r\n" + SWITCH + OK * 3
    assert rig.counted() == (1, {101: 1})


def cut(sent: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(sent)) for place in places} | {0, len(sent)})
    return [sent[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("answer", [OK, NO, b"HTTP/1.1 426 X\r\nUpgrade: bar\r\nContent-Length: 0\r\n\r\n"])
def test_any_other_answer_is_ordinary_and_both_connections_go_on(answer: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK)
    endpoint = rig.open()
    assert endpoint.heard() == ASK
    endpoint.says(answer)
    assert caller.heard().startswith(answer[:12])
    assert (rig.idle, opened(rig)) == (1, 0)
    caller.says(GET)
    assert endpoint.heard() == GET
    endpoint.says(OK)
    assert caller.heard() == OK


@pytest.mark.parametrize("early", [GET, b"\x81\x05hello", b"P"])
@pytest.mark.parametrize("together", [True, False])
def test_after_a_refusal_nothing_that_came_before_is_read_in_either_way(early: bytes, together: bool) -> None:
    rig = Rig()
    caller = rig.call()
    if together:
        caller.says(ASK + early)
    else:
        caller.says(ASK)
        caller.says(early)
    endpoint = rig.open()
    endpoint.says(NO)
    assert endpoint.heard() == ASK
    assert b"\r\nconnection: close\r\n" in caller.heard()
    caller.says(GET)
    settled(caller)
    assert (rig.asked, caller.heard(), endpoint.heard()) == ([], b"", b"")
    assert caller.half_closed or caller.lost
    assert rig.counted() == (1, {403: 1})


def test_a_request_after_a_refusal_that_has_begun_is_one() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK)
    endpoint = rig.open()
    endpoint.says(NO[:-1])
    caller.says(GET)
    endpoint.heard()
    endpoint.says(NO[-1:])
    assert endpoint.heard() == GET
    assert b"close" not in caller.heard()


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(b"bar", b"baz"),
        SWITCH.replace(b"bar", b"foo"),  # of another version, or of none
        SWITCH.replace(b"bar", b"foo/1, bar"),
        SWITCH.replace(b"bar", b"h2c"),
        SWITCH.replace(b"Upgrade: bar\r\n", b""),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_101_that_does_not_name_what_was_asked_for_is_a_bad_gateway(answer: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK)
    endpoint = rig.open()
    endpoint.says(answer + b"raw")
    assert caller.heard().startswith(b"HTTP/1.1 502 ")
    assert endpoint.aborted
    assert not caller.is_closing()
    assert (rig.idle, rig.pending, opened(rig)) == (0, 0, 0)
    assert rig.counted() == (1, {502: 1})


def test_a_101_that_nobody_asked_for_is_a_bad_gateway() -> None:
    for asked in (GET, ASK.replace(b"HTTP/1.1", b"HTTP/1.0"), ASK.replace(b"Connection: Upgrade\r\n", b"")):
        rig = Rig()
        caller = rig.call()
        caller.says(asked)
        endpoint = rig.open()
        assert b"pgrade" not in endpoint.heard()
        endpoint.says(SWITCH)
        assert caller.heard().startswith(b"HTTP/1.1 502 ")
        assert endpoint.aborted


def test_a_name_is_the_same_in_any_case() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK)
    rig.open().says(SWITCH.replace(b"bar", b"FOO/1"))
    assert caller.heard() == SWITCH.replace(b"bar", b"FOO/1")


def test_an_upgrade_is_tried_again_as_any_request_and_never_after_101() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(GET)
    stale = rig.open()
    stale.says(OK)
    caller.heard()
    caller.says(ASK)
    stale.breaks()
    endpoint = rig.open()
    assert endpoint.heard() == ASK
    endpoint.says(SWITCH)
    endpoint.breaks()
    settled(caller)
    assert (rig.asked, caller.heard(), caller.aborted) == ([], SWITCH, True)
    assert rig.counted() == (2, {200: 1, 101: 1})


@pytest.mark.parametrize("first", ["caller", "endpoint"])
def test_a_direction_ends_for_itself(first: str) -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig)
    one, other = (caller, endpoint) if first == "caller" else (endpoint, caller)
    one.says(b"all I have")
    one.ends()
    assert other.heard() == b"all I have"
    assert other.half_closed
    assert not one.is_closing()
    other.says(b"but I go on")
    assert one.heard() == b"but I go on"
    other.ends()
    settled(one, other)
    assert (one.lost, other.lost, one.aborted, other.aborted) == (True, True, False, False)
    assert opened(rig) == 0


def test_who_has_said_all_before_101_has_said_all_after_it() -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK + b"all I have")
    caller.ends()
    endpoint = rig.open()
    endpoint.heard()
    endpoint.says(SWITCH)
    assert endpoint.heard() == b"all I have"
    assert endpoint.half_closed
    endpoint.says(b"answer")
    assert caller.heard() == SWITCH + b"answer"


@pytest.mark.parametrize("lost", ["caller", "endpoint"])
@pytest.mark.parametrize("half", [False, True])
def test_a_connection_that_is_lost_breaks_the_other(lost: str, half: bool) -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig)
    one, other = (caller, endpoint) if lost == "caller" else (endpoint, caller)
    if half:
        one.ends()
    one.breaks(ConnectionResetError())
    assert other.aborted
    settled(other)
    assert other.lost
    assert opened(rig) == 0
    assert len(rig.ended) == 1


def test_a_caller_with_tls_ends_both_directions_and_what_it_said_arrives() -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig, tls=True)
    endpoint.clogged = True
    caller.says(b"bye")
    caller.ends()
    settled(caller)
    assert caller.lost
    endpoint.reads()
    assert endpoint.heard() == b"bye"
    assert endpoint.half_closed
    endpoint.says(b"who hears this?")
    settled(endpoint)
    assert endpoint.aborted
    assert opened(rig) == 0
    caller, endpoint = upgraded(rig, tls=True, clogged=True)
    endpoint.says(bytes(2 * READ_BYTES))
    assert endpoint.held()
    caller.ends()
    caller.breaks()
    assert not endpoint.held(), "its end is to be seen"


def test_a_caller_with_tls_ends_with_its_endpoint() -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig, tls=True)
    endpoint.says(b"bye")
    endpoint.ends()
    settled(caller, endpoint)
    assert caller.heard() == b"bye"
    assert (caller.lost, endpoint.lost, caller.aborted, endpoint.aborted) == (True, True, False, False)
    caller, endpoint = upgraded(rig, tls=True)
    caller.ends()
    settled(caller)
    endpoint.ends()
    settled(endpoint)
    assert (caller.lost, endpoint.lost, caller.aborted, endpoint.aborted) == (True, True, False, False)
    assert opened(rig) == 0


@pytest.mark.parametrize("slow", ["caller", "endpoint"])
def test_who_does_not_read_holds_the_other(slow: str) -> None:
    rig = Rig()
    caller, endpoint = upgraded(rig, clogged=True)
    one, other = (caller, endpoint) if slow == "caller" else (endpoint, caller)
    other.says(bytes(4 * READ_BYTES))
    assert other.held()
    assert one.buffered <= HIGH_WATER_BYTES + READ_BYTES
    rig.tick(STALL_S + 1)
    rig.tick(2 * STALL_S + 2)
    assert not one.aborted, "whoever pauses it may"
    one.reads()
    settled(other)
    assert not other.held()
    assert len(one.heard()) == 4 * READ_BYTES


def test_a_caller_without_room_when_the_tunnel_begins_holds_the_endpoint() -> None:
    rig = Rig()
    caller = rig.call(clogged=True)
    caller.says(ASK)
    endpoint = rig.open()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * (HIGH_WATER_BYTES - 100) + b"\r\n\r\n"
    endpoint.says(hints * 2 + SWITCH + b"raw")
    assert endpoint.held()
    endpoint.says(b" more")
    caller.reads()
    assert not endpoint.held()
    settled(endpoint)
    assert caller.heard() == hints * 2 + SWITCH + b"raw more"


def test_an_endpoint_without_room_when_the_tunnel_begins_holds_the_caller() -> None:
    rig = Rig(extra=b"x: " + b"x" * READ_BYTES + b"\r\n")
    caller = rig.call()
    caller.says(ASK)
    endpoint = rig.open(clogged=True)
    assert caller.held()
    endpoint.says(SWITCH)
    assert caller.held()
    caller.says(b"raw")
    endpoint.reads()
    assert not caller.held()
    settled(caller)
    assert endpoint.heard().endswith(b"\r\n\r\nraw")


IDLE = Policy(timeouts=Timeouts(idle="20ms"))


def test_what_was_upgraded_is_no_request_under_way() -> None:
    rig = Rig(policy=Policy(limits=Limits(requests=1)))
    upgraded(rig)
    upgraded(rig)
    caller = rig.call()
    caller.says(ASK)
    rig.call().says(ASK)
    assert rig.counted() == (3, {101: 2, 503: 1}), "until it is answered it is one"


class Clock:
    """What tunnels take for the time, in place of the real one; they look at it every 20 ms, real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("proxy.tunnel.monotonic", lambda: self.now)

    async def passes(self, seconds: float) -> None:
        """It is so much later, and every tunnel has seen it."""
        self.now += seconds
        await asyncio.sleep(0.03)


def test_only_the_time_between_pieces_is_left_of_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        clock = Clock(monkeypatch)
        rig = Rig(policy=Policy(timeouts=Timeouts(request="40ms", response="30ms", idle="20ms")))
        caller, endpoint = upgraded(rig)
        for one, other in ((caller, endpoint), (endpoint, caller)) * 2:
            await clock.passes(0.015)
            one.says(b"still")
            assert other.heard() == b"still"
        clock.now += 0.02
        await eventually(lambda: caller.aborted and endpoint.aborted, "nothing moves, and it is cut")
        settled(caller, endpoint)
        assert opened(rig) == 0
        assert rig.counted() == (1, {101: 1})
        assert rig.stats.errors == {("outbound", "http", "response timeout"): 1}

    run(conversation())


@on_loop
async def test_what_is_over_is_not_looked_at_any_more() -> None:
    rig = Rig(policy=IDLE)
    over, left = upgraded(rig), upgraded(rig)
    for wire in over:
        wire.ends()
    settled(*over)
    await eventually(lambda: left[0].aborted, "the one that is left is cut, which began later")
    assert rig.stats.errors == {("outbound", "http", "response timeout"): 1}


def test_the_time_to_101_is_the_endpoint_s_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(ASK)
    endpoint = rig.open()
    live = rig.destination.endpoints[0]
    later = monotonic() + 5.0
    monkeypatch.setattr("proxy.exchange.monotonic", lambda: later)
    before = live.load(later)
    endpoint.says(SWITCH)
    assert live.load(later) > 4.0 > before


# --- to another proxy


def block(*fields: Field, ended: bool = False, number: int = 1) -> bytes:
    return frames.headers(number, encode(list(fields)), ended)


ACCEPTED = block((b":status", b"200"), (b"x", b"y"), (b"l5d-upgrade", b"bar"))


async def asked_of_proxy(rig: H2Rig, tls: bool = False) -> tuple[Wire, Peer]:
    """A caller whose upgrade has gone to another proxy, on stream 1."""
    caller = rig.call(tls=tls)
    caller.says(ASK)
    endpoint = await rig.open_h2()
    fields, content, ended, _ = await endpoint.hears_on(1)
    assert dict(fields)[b":method"] == b"GET"
    assert dict(fields)[b"l5d-upgrade"] == b"foo/1, bar"
    assert not {b"upgrade", b"connection"} & dict(fields).keys()
    assert (content, ended) == (b"", False)
    return caller, endpoint


@on_loop
async def test_an_upgrade_crosses_as_a_stream() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    caller.says(b"early")
    assert (await endpoint.hears_on(1))[1] == b""
    endpoint.says(ACCEPTED, data(1, b"hello"))
    assert caller.heard() == SWITCH.replace(b"X: y", b"x: y") + b"hello"
    caller.says(b" and more")
    assert (await endpoint.hears_on(1))[1] == b"early and more"
    assert rig.counted() == (1, {101: 1})
    assert (rig.pending, rig.destination.in_flight, opened(rig)) == (0, 0, 1)
    caller.ends()
    assert (await endpoint.hears_on(1))[1:3] == (b"", True)
    endpoint.says(data(1, b"last", True))
    assert caller.heard() == b"last"
    settled(caller)
    assert caller.lost
    assert not caller.aborted
    assert opened(rig) == 0
    caller = rig.call()
    caller.says(GET)
    assert dict((await endpoint.hears_on(3))[0])[b":path"] == b"/x", "on the same connection"


@on_loop
async def test_the_proxy_s_end_of_its_direction_is_a_half_close() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    endpoint.says(ACCEPTED, data(1, b"all", True))
    assert caller.heard().endswith(b"all")
    assert caller.half_closed
    caller.says(b"not me")
    caller.ends()
    assert (await endpoint.hears_on(1))[1:] == (b"not me", True, None)
    settled(caller)
    assert (caller.lost, opened(rig)) == (True, 0)


@on_loop
async def test_the_last_of_a_stream_whose_caller_has_gone_ends_no_other_stream() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig, tls=True)
    endpoint.says(ACCEPTED)
    caller.ends()
    settled(caller)
    assert (caller.lost, opened(rig)) == (True, 1)
    other = rig.call()
    other.says(GET)
    endpoint.says(data(1, b"too late", True), block((b":status", b"204"), ended=True, number=3))
    assert opened(rig) == 0
    assert other.heard().startswith(b"HTTP/1.1 204 ")


@on_loop
async def test_a_refusal_ends_the_stream_without_a_reset() -> None:
    """Resets are counted against a connection that a thousand callers may share."""
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    endpoint.says(block((b":status", b"403"), (b"content-length", b"2")), data(1, b"no", True))
    assert caller.heard() == b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
    sent = await endpoint.hears()
    assert [(each.kind, each.flags) for each in sent] == [(DATA, END_STREAM)]
    caller.says(ASK)
    await endpoint.hears()
    endpoint.says(block((b":status", b"404"), ended=True, number=3))
    assert caller.heard().startswith(b"HTTP/1.1 404 ")
    assert [(each.kind, each.flags) for each in await endpoint.hears()] == [(DATA, END_STREAM)]
    assert not rig.destination.endpoints[0].shared[0].streams  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    [
        block((b":status", b"200"), (b"l5d-upgrade", b"baz")),
        block((b":status", b"200"), (b"l5d-upgrade", b"")),
        block((b":status", b"200"), (b"l5d-upgrade", b"bar"), (b"l5d-upgrade", b"bar")),
        block((b":status", b"200"), (b"l5d-upgrade", b"bar"), (b"content-length", b"3")),
        block((b":status", b"200"), (b"l5d-upgrade", b"bar"), ended=True),
        block((b":status", b"101"), (b"l5d-upgrade", b"bar")),
        block((b":status", b"101"), (b"upgrade", b"bar")),
    ],
)
def test_a_proxy_s_upgrade_that_was_not_asked_for_is_a_bad_gateway(answer: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller, endpoint = await asked_of_proxy(rig)
        endpoint.says(answer)
        assert caller.heard().startswith(b"HTTP/1.1 502 ")
        assert not caller.is_closing()
        assert (rig.pending, opened(rig)) == (0, 0)
        caller.says(GET)
        await endpoint.hears()
        endpoint.says(block((b":status", b"200"), (b"l5d-upgrade", b"bar"), number=3))
        assert caller.heard().startswith(b"HTTP/1.1 502 ")

    run(conversation())


@on_loop
async def test_an_application_of_http_2_is_asked_without() -> None:
    rig = H2Rig(Endpoint("192.0.2.1", 80, protocol="http2"))
    caller = rig.call()
    caller.says(ASK)
    endpoint = await rig.open_h2()
    fields, _, ended, _ = await endpoint.hears_on(1)
    assert not {b"upgrade", b"connection", b"l5d-upgrade"} & dict(fields).keys()
    assert ended
    endpoint.says(
        block((b":status", b"200"), (b"l5d-upgrade", b"bar"), (b"content-length", b"2")), data(1, b"ok", True)
    )
    assert caller.heard() == OK.replace(b"Content-Length", b"content-length"), "an application's word is not believed"


@pytest.mark.parametrize("how", ["caller", "reset", "connection", "trailers"])
def test_a_stream_that_breaks_breaks_the_connection_and_the_other_way_round(how: str) -> None:
    async def conversation() -> None:
        rig = H2Rig(MESHED)
        caller, endpoint = await asked_of_proxy(rig)
        endpoint.says(ACCEPTED)
        if how == "caller":
            caller.breaks(ConnectionResetError())
            assert (await endpoint.hears_on(1))[3] == Code.CANCEL
        elif how == "reset":
            endpoint.says(rst_stream(1, Code.CANCEL))
        elif how == "trailers":
            endpoint.says(block((b"x", b"y"), ended=True))
            assert (await endpoint.hears_on(1))[3] == Code.PROTOCOL_ERROR
        else:
            endpoint.wire.breaks(ConnectionResetError())
        settled(caller)
        assert caller.lost
        assert how == "caller" or caller.aborted
        assert opened(rig) == 0

    run(conversation())


@on_loop
async def test_a_window_that_is_used_up_holds_the_caller_for_as_long_as_it_is() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    endpoint.says(ACCEPTED)
    caller.says(bytes(1 << 20))
    assert caller.held()
    window = frames.DEFAULT_WINDOW
    assert len((await endpoint.hears_on(1))[1]) == window
    rig.tick(STALL_S + 1)
    rig.tick(2 * STALL_S + 2)
    assert (await endpoint.hears_on(1))[3] is None, "whoever pauses it may"
    caller.ends()
    endpoint.says(window_update(0, 1 << 20), window_update(1, 1 << 20))
    got = b""
    ended = False
    while not ended:
        caller.settle()
        _, content, ended, _ = await endpoint.hears_on(1)
        got += content
    assert len(got) == (1 << 20) - window
    endpoint.says(data(1, b"", True))
    settled(caller)
    assert (caller.lost, opened(rig)) == (True, 0)


@on_loop
async def test_the_end_of_a_stream_may_wait_for_its_window() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    caller.says(bytes(frames.DEFAULT_WINDOW) + b"!")
    caller.ends()
    endpoint.says(ACCEPTED, data(1, b"", True))
    assert (await endpoint.hears_on(1))[1:3] == (bytes(frames.DEFAULT_WINDOW), False)
    assert opened(rig) == 1
    endpoint.says(window_update(0, 1), window_update(1, 1))
    assert (await endpoint.hears_on(1))[1:3] == (b"!", True)
    settled(caller)
    assert (caller.lost, opened(rig)) == (True, 0)


@on_loop
async def test_windows_and_tables_go_on_from_the_request_to_the_tunnel() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    endpoint.says(window_update(0, 1 << 20), window_update(1, 1 << 20), ACCEPTED)
    caller.says(bytes(1 << 18))
    assert len((await endpoint.hears_on(1))[1]) == 1 << 18
    other = rig.call()
    other.says(GET)
    await endpoint.hears()
    endpoint.says(frames.headers(1, ADDS, True), frames.headers(3, encode([(b":status", b"200")]) + ADDED, True))
    assert b"\r\nx: y\r\n" in other.heard()


ADDS, ADDED = b"\x40\x01x\x01y", b"\xbe"
"""A block that adds `x: y` to the dynamic table, and one that uses it."""


def test_what_comes_in_a_stream_moves_its_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation() -> None:
        clock = Clock(monkeypatch)
        rig = H2Rig(MESHED, policy=IDLE)
        caller, endpoint = await asked_of_proxy(rig)
        endpoint.says(ACCEPTED)
        for _ in range(2):
            await clock.passes(0.015)
            endpoint.says(data(1, b"still"))
            assert caller.heard().endswith(b"still")
        clock.now += 0.02
        await eventually(lambda: caller.aborted, "nothing moves, and it is cut")
        assert (await endpoint.hears_on(1))[3] == Code.CANCEL

    run(conversation())


@on_loop
async def test_a_caller_that_does_not_read_is_sent_no_more_than_a_window() -> None:
    rig = H2Rig(MESHED)
    caller, endpoint = await asked_of_proxy(rig)
    endpoint.says(ACCEPTED)
    caller.clogged = True
    endpoint.says(data(1, bytes(STREAM_WINDOW)))
    assert caller.buffered <= STREAM_WINDOW + len(SWITCH)
    updates = [each for each in await endpoint.hears() if each.stream == 1]
    assert updates == []
    caller.reads()
    assert [each.kind for each in await endpoint.hears() if each.stream == 1] == [frames.WINDOW_UPDATE]


# --- from another proxy

UPGRADE: list[Field] = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/x"),
    (b"l5d-orig-proto", b"HTTP/1.1"), (b"l5d-upgrade", b"foo/1, bar"),
]  # fmt: skip


async def asked_by_proxy(rig: H2Rig) -> tuple[Peer, Wire]:
    """Another proxy, whose caller's upgrade has gone to the application."""
    caller = await rig.caller(from_proxy=True)
    caller.says(request(1, False, encode(UPGRADE)))
    endpoint = rig.open()
    assert endpoint.heard() == ASK
    return caller, endpoint


@on_loop
async def test_it_comes_out_as_it_went_in() -> None:
    rig = H2Rig()
    caller, endpoint = await asked_by_proxy(rig)
    endpoint.says(SWITCH + b"hello")
    fields, content, ended, _ = await caller.hears_on(1)
    assert sorted(fields) == [(b":status", b"200"), (b"l5d-upgrade", b"bar"), (b"x", b"y")]
    assert (content, ended) == (b"hello", False)
    caller.says(data(1, b"there", True))
    assert endpoint.heard() == b"there"
    assert endpoint.half_closed
    endpoint.says(b"bye")
    endpoint.ends()
    assert (await caller.hears_on(1))[1:] == (b"bye", True, None)
    settled(endpoint)
    assert (endpoint.lost, endpoint.aborted, opened(rig)) == (True, False, 0)
    assert rig.counted() == (1, {101: 1})


@pytest.mark.parametrize(
    "sent", [data(1, b"early"), data(1, b"", True), request(1, True, encode([(b"x", b"y")]))],
    ids=["content", "the end", "trailers"],
)  # fmt: skip
def test_nothing_is_to_come_before_the_answer(sent: bytes) -> None:
    async def conversation() -> None:
        rig = H2Rig()
        caller, endpoint = await asked_by_proxy(rig)
        caller.says(sent)
        assert (await caller.hears_on(1))[3] == Code.PROTOCOL_ERROR
        assert endpoint.aborted
        assert endpoint.heard() == b""
        settled(endpoint)
        assert (rig.pending, opened(rig)) == (0, 0)

    run(conversation())


@on_loop
async def test_what_comes_too_early_is_in_the_table_all_the_same() -> None:
    rig = H2Rig()
    caller, _ = await asked_by_proxy(rig)
    caller.says(frames.headers(1, ADDS, True), request(3, True, encode(UPGRADE[:-1]) + ADDED))
    assert b"\r\nx: y\r\n" in rig.open().heard()


@on_loop
async def test_a_refusal_awaits_the_end_of_the_stream() -> None:
    rig = H2Rig()
    caller, endpoint = await asked_by_proxy(rig)
    endpoint.says(NO)
    fields, content, ended, code = await caller.hears_on(1)
    assert (dict(fields)[b":status"], content, ended, code) == (b"403", b"no", True, None)
    assert rig.idle == 1
    caller.says(data(1, b"", True))
    assert await caller.hears() == []
    caller.says(request(3, False, encode(UPGRADE)))
    rig.open().says(NO)
    assert RST_STREAM not in [each.kind for each in await caller.hears()]
    rig.tick(1.0)
    rig.tick(STALL_S + 2)
    assert (await caller.hears_on(3))[3] == Code.NO_ERROR, "which is not awaited for ever"


@on_loop
async def test_an_application_may_think_about_it() -> None:
    rig = H2Rig()
    caller, endpoint = await asked_by_proxy(rig)
    rig.tick(1.0)
    rig.tick(STALL_S + 2)
    endpoint.says(SWITCH)
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"200"


@on_loop
async def test_who_is_no_proxy_cannot_ask_so() -> None:
    rig = H2Rig()
    caller = await rig.caller()
    caller.says(request(1, False, encode(UPGRADE)), data(1, b"", True))
    endpoint = rig.open()
    assert b"pgrade" not in endpoint.heard()
    endpoint.says(SWITCH)
    assert dict((await caller.hears_on(1))[0])[b":status"] == b"502"


@on_loop
async def test_an_application_cannot_answer_so() -> None:
    rig = H2Rig()
    caller, endpoint = await asked_by_proxy(rig)
    endpoint.says(OK.replace(b"\r\n", b"\r\nl5d-upgrade: bar\r\n", 1))
    fields, content, ended, _ = await caller.hears_on(1)
    assert (b"l5d-upgrade" in dict(fields), content, ended) == (False, b"ok", True)


@pytest.mark.parametrize(
    "fields",
    [
        [*UPGRADE[:-1], (b"l5d-upgrade", b"h2c")],
        [*UPGRADE[:-1], (b"l5d-upgrade", b"a b")],
        [*UPGRADE, (b"l5d-upgrade", b"bar")],
        [*UPGRADE, (b"content-length", b"0")],
    ],
)
def test_what_no_proxy_of_ours_would_say_is_refused(fields: list[Field]) -> None:
    async def conversation() -> None:
        rig = H2Rig()
        caller = await rig.caller(from_proxy=True)
        caller.says(request(1, False, encode(fields)))
        assert dict((await caller.hears_on(1))[0])[b":status"] == b"400"
        assert rig.asked == []

    run(conversation())


@on_loop
async def test_an_endpoint_that_does_not_read_holds_the_stream() -> None:
    rig = H2Rig()
    caller, endpoint = await asked_by_proxy(rig)
    endpoint.says(SWITCH)
    await caller.hears()
    endpoint.clogged = True
    caller.says(data(1, bytes(STREAM_WINDOW)))
    assert [each for each in await caller.hears() if each.stream == 1] == []
    endpoint.reads()
    assert [each.kind for each in await caller.hears() if each.stream == 1] == [frames.WINDOW_UPDATE]
    assert len(endpoint.heard()) == STREAM_WINDOW


@pytest.mark.parametrize(
    "sent",
    [
        ASK,
        ASK.replace(b"foo/1, bar", b"websocket"),
        ASK.replace(b"Upgrade", b"Content-Type: application/grpc\r\nUpgrade", 1),
        ASK.replace(b"GET", b"POST").replace(b"X: y", b"Cookie: a=b"),
        b"GET http://api/x HTTP/1.1\r\nHost: other\r\nTE: trailers\r\nConnection: te, upgrade\r\nUpgrade: a\r\n\r\n",
    ],
)
def test_a_head_is_the_same_on_the_far_side(sent: bytes) -> None:
    head = parse_request(sent[:-4])
    far = crossed(head)
    assert sorted(far.forward.lower().split(b"\r\n")) == sorted(head.forward.lower().split(b"\r\n"))
    assert (far.upgrade, far.length, far.h2, far.grpc, far.plain) == (head.upgrade, 0, False, False, False)
    answer = parse_response(SWITCH[:-4])
    fields = FieldDecoder().decode(heads.response_block(answer))
    again = heads.response(fields, from_proxy=True)
    assert (again.status, again.upgrade, again.length) == (101, b"bar", 0)
    assert heads.response(fields, from_proxy=False).upgrade == b""
    assert heads.response(fields, from_proxy=False).status == 200


def crossed(head: RequestHead) -> RequestHead:
    """The request as the proxy on the far side makes it."""
    fields = FieldDecoder().decode(heads.request_block(head) + heads.upgrade_block(head))
    return heads.request(fields, ended=False, from_proxy=True)
