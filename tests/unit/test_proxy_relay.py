"""Opaque bytes both ways: order, half-close, back-pressure and breaks, in plain text and in records."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mesh.records import END, RecordReader, as_record
from proxy.stats import Labels, TcpTraffic
from proxy.tcp import MAX_EARLY_BYTES, RelayEnd
from tests.support.wire import HIGH_WATER_BYTES, READ_BYTES, Wire

LABELS = Labels("outbound")
TRAFFIC = TcpTraffic(LABELS, "dst", True)


class End:
    """An end of a relay and its wire; `records`: towards another proxy, over TLS."""

    def __init__(self, records: bool = False, clogged: bool = False, opening: bytes = b"") -> None:
        self.traffic = TcpTraffic(LABELS, "src", True)
        self.relay = RelayEnd(self.traffic, records=records, opening=opening)
        self.wire = Wire(self.relay, clogged, tls=records)


def joined(*, records: bool = False, clogged: bool = False) -> tuple[End, End]:
    caller, endpoint = End(), End(records, clogged)
    caller.relay.join(endpoint.relay)
    return caller, endpoint


def record(data: bytes) -> bytes:
    return b"".join(as_record(data))


def settled(*ends: End) -> None:
    for end in (*ends, *ends):
        end.wire.settle()


def test_bytes_go_both_ways() -> None:
    caller, endpoint = joined()
    caller.wire.says(b"hello")
    endpoint.wire.says(b"welcome")
    assert (endpoint.wire.heard(), caller.wire.heard()) == (b"hello", b"welcome")
    assert (caller.traffic.read_bytes, caller.traffic.written_bytes) == (5, 7)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.lists(st.integers(0, 300), max_size=8))
def test_records_become_bytes_and_bytes_records(pieces: list[bytes], places: list[int]) -> None:
    caller, endpoint = joined(records=True)
    encoded = b"".join(record(piece) for piece in pieces) + END
    ends = sorted({min(place, len(encoded)) for place in places} | {0, len(encoded)})
    for start, end in pairwise(ends):
        endpoint.wire.says(encoded[start:end])
    assert caller.wire.heard() == b"".join(pieces)
    assert caller.wire.half_closed
    for piece in pieces:
        caller.wire.says(piece)
    assert endpoint.wire.heard() == b"".join(record(piece) for piece in pieces)


@pytest.mark.parametrize("records", [False, True])
def test_the_end_of_one_direction_leaves_the_other_open(records: bool) -> None:
    caller, endpoint = joined(records=records)
    caller.wire.says(b"request")
    caller.wire.ends()
    assert not caller.wire.is_closing()
    assert endpoint.wire.heard() == (record(b"request") + END if records else b"request")
    assert endpoint.wire.half_closed is not records
    endpoint.wire.says(record(b"answer") + END if records else b"answer")
    if not records:
        endpoint.wire.ends()
    assert caller.wire.heard() == b"answer"
    settled(caller, endpoint)
    for end in (caller, endpoint):
        assert end.wire.lost
        assert not end.wire.aborted
        assert end.traffic.closed == {"": 1}


@pytest.mark.parametrize("records", [False, True])
def test_the_endpoint_may_end_first(records: bool) -> None:
    caller, endpoint = joined(records=records)
    endpoint.wire.says(END) if records else endpoint.wire.ends()
    assert caller.wire.half_closed
    caller.wire.says(b"still here")
    assert b"still here" in endpoint.wire.heard()
    caller.wire.ends()
    settled(caller, endpoint)
    assert caller.wire.lost
    assert endpoint.wire.lost


@pytest.mark.parametrize("records", [False, True])
def test_a_break_breaks_the_other_side(records: bool) -> None:
    for broken, other in ((0, 1), (1, 0)):
        ends = joined(records=records)
        ends[broken].wire.breaks(ConnectionResetError(104, "reset"))
        settled(*ends)
        assert ends[other].wire.aborted
        assert ends[broken].traffic.closed == {"ECONNRESET": 1}


def test_a_connection_cut_short_of_its_end_is_not_passed_off_as_whole() -> None:
    caller, endpoint = joined(records=True)
    endpoint.wire.says(record(b"half of what there w"))
    endpoint.wire.ends()
    settled(caller, endpoint)
    assert caller.wire.aborted
    assert not caller.wire.half_closed
    assert endpoint.traffic.closed == {"ConnectionError": 1}


def test_what_is_no_record_breaks_both_sides() -> None:
    caller, endpoint = joined(records=True)
    endpoint.wire.says(b"\xfe" * 8)
    settled(caller, endpoint)
    assert caller.wire.aborted
    assert endpoint.wire.aborted


# --- back-pressure


@pytest.mark.parametrize("records", [False, True])
def test_who_does_not_read_holds_the_other_side(records: bool) -> None:
    caller, endpoint = joined(records=records, clogged=True)
    caller.wire.says(b"x" * 64 * READ_BYTES)
    assert caller.wire.held()
    assert endpoint.wire.buffered <= HIGH_WATER_BYTES + 2 * READ_BYTES
    endpoint.wire.reads()
    caller.wire.settle()
    assert not caller.wire.held()
    assert len(endpoint.wire.heard()) >= 64 * READ_BYTES


# --- a connection that is of use to others when the relay is over


class GivenBack(RelayEnd):
    def give_back(self, reader: RecordReader) -> bool:
        return True


def over_but_for_what_the_caller_has_not_read() -> tuple[Wire, Wire]:
    caller, endpoint = RelayEnd(TcpTraffic(LABELS, "src", True), records=False), GivenBack(TRAFFIC, records=True)
    wires = Wire(caller, clogged=True), Wire(endpoint, tls=True)
    caller.join(endpoint)
    wires[0].ends()
    wires[1].says(record(b"x" * (2 * HIGH_WATER_BYTES)) + END)
    assert endpoint.lost
    assert not caller.lost
    return wires


def test_a_caller_that_breaks_after_its_relay_breaks_no_later_one() -> None:
    caller, endpoint = over_but_for_what_the_caller_has_not_read()
    caller.breaks(ConnectionResetError(104, "reset"))
    caller.settle()
    assert caller.lost
    assert not endpoint.aborted


def test_a_caller_that_reads_after_its_relay_lets_nothing_flow_in_a_later_one() -> None:
    caller, endpoint = over_but_for_what_the_caller_has_not_read()
    endpoint.pause_reading()  # as the later one may
    caller.reads()
    assert endpoint.held()


# --- before the endpoint is there


def test_what_comes_early_goes_first() -> None:
    caller = End()
    caller.wire.says(b"one ")
    caller.wire.says(b"two ")
    endpoint = End(opening=b"header ")
    endpoint.wire.says(b"banner")
    caller.relay.join(endpoint.relay)
    caller.wire.says(b"three")
    assert endpoint.wire.heard() == b"header one two three"
    assert caller.wire.heard() == b"banner"


def test_a_caller_who_has_said_all_early_is_heard() -> None:
    caller = End()
    caller.wire.says(b"hello")
    caller.wire.ends()
    endpoint = End()
    caller.relay.join(endpoint.relay)
    assert endpoint.wire.heard() == b"hello"
    assert endpoint.wire.half_closed


def test_a_caller_with_much_to_say_is_held_until_there_is_room() -> None:
    caller = End()
    caller.wire.says(b"x" * 64 * READ_BYTES)
    assert caller.wire.held()
    endpoint = End(clogged=True)
    caller.relay.join(endpoint.relay)
    caller.wire.settle()
    assert caller.wire.held()
    assert endpoint.wire.buffered <= MAX_EARLY_BYTES + 2 * READ_BYTES
    endpoint.wire.reads()
    caller.wire.settle()
    assert len(endpoint.wire.heard()) == 64 * READ_BYTES


def test_an_endpoint_that_pours_from_the_start_is_held() -> None:
    caller, endpoint = End(clogged=True), End()
    endpoint.wire.says(b"x" * READ_BYTES)
    caller.relay.join(endpoint.relay)
    endpoint.wire.says(b"x" * 64 * READ_BYTES)
    assert endpoint.wire.held()
    assert caller.wire.buffered <= 3 * READ_BYTES
    caller.wire.reads()
    endpoint.wire.settle()
    assert len(caller.wire.heard()) == 65 * READ_BYTES


@pytest.mark.parametrize("gone", ["caller", "endpoint"])
def test_one_that_is_lost_before_they_meet_breaks_the_other(gone: str) -> None:
    caller, endpoint = End(), End()
    for end in (caller, endpoint):
        end.wire.says(b"early")
    lost, left = (caller, endpoint) if gone == "caller" else (endpoint, caller)
    lost.wire.breaks(ConnectionResetError(104, "reset"))
    caller.relay.join(endpoint.relay)
    settled(left)
    assert left.wire.aborted
