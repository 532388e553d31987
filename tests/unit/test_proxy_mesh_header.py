"""The transport header and the records behind it, however their bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mesh.header import MAX_HEADER_BYTES, BadTransportHeader, TransportHeader, decode, encode
from proxy.mesh.records import END, LAST, MAX_RECORD_BYTES, BadRecord, RecordReader, as_record

HEADERS = st.builds(
    TransportHeader,
    st.integers(1, 65535),
    st.sampled_from(["h2", "tcp"]),
    st.text(st.characters(codec="utf-8"), max_size=40),
)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(HEADERS, st.binary(max_size=20))
def test_a_header_comes_back_with_the_bytes_after_it_and_not_before_it_is_whole(
    header: TransportHeader, after: bytes
) -> None:
    data = encode(header)
    assert decode(data + after) == (header, after)
    assert all(decode(data[:end]) is None for end in range(len(data)))


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert decode(framed(b'{"port": 1, "protocol": "tcp", "priority": 3}')) == (TransportHeader(1, "tcp"), b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        framed(b""),
        framed(b"{}"),
        framed(b"[]"),
        framed(b"\xff\xfe"),
        framed(b'{"port": 0, "protocol": "tcp"}'),
        framed(b'{"port": 65536, "protocol": "tcp"}'),
        framed(b'{"port": "80", "protocol": "tcp"}'),
        framed(b'{"port": 80, "protocol": "h9"}'),
        framed(b'{"port": 80, "protocol": "tcp", "service": "%b"}' % (b"x" * 513)),
        (MAX_HEADER_BYTES + 1).to_bytes(4, "big"),
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(BadTransportHeader):
        decode(data)


# --- records -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.lists(st.integers(0, 1000), max_size=10))
def test_records_however_they_are_cut(pieces: list[bytes], places: list[int]) -> None:
    encoded = b"".join(b"".join(as_record(piece)) for piece in pieces) + END
    ends = sorted({place % (len(encoded) + 1) for place in places} | {0, len(encoded)})
    reader = RecordReader()
    payload = b""
    for start, end in pairwise(ends):
        assert not reader.ended
        payload += b"".join(reader.feed(encoded[start:end]))
    assert payload == b"".join(pieces)
    assert reader.ended


def test_what_comes_after_the_end_is_no_bytes_of_this_direction() -> None:
    reader = RecordReader()
    assert reader.feed(END + b"x") == []
    assert reader.feed(b"".join(as_record(b"y"))) == []
    assert (reader.ended, reader.rest) == (True, b"x" + b"".join(as_record(b"y")))


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=3), st.integers(0, 3), st.lists(st.integers(0, 60)))
def test_the_word_that_there_is_no_relay_after_this_may_stand_anywhere_between_records(
    pieces: list[bytes], place: int, places: list[int]
) -> None:
    records = [*(b"".join(as_record(piece)) for piece in pieces), END]
    records.insert(place, LAST)
    encoded = b"".join(records)
    ends = sorted({min(place, len(encoded)) for place in places} | {0, len(encoded)})
    reader = RecordReader()
    payload = b"".join(b"".join(reader.feed(encoded[start:end])) for start, end in pairwise(ends))
    assert payload == b"".join(pieces)
    assert (reader.ended, reader.last, reader.rest) == (True, True, b"")


def test_a_length_beyond_any_read_is_refused() -> None:
    with pytest.raises(BadRecord):
        RecordReader().feed((MAX_RECORD_BYTES + 1).to_bytes(4, "big"))
