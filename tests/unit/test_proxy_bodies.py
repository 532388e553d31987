"""Bodies of HTTP/1.x: framing off and on, however the bytes are cut, and nothing accepted that h11 refuses."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.bodies import (
    MAX_SIZE_LINE_BYTES,
    MAX_TRAILER_BYTES,
    BadBody,
    BodyReader,
    ChunkedReader,
    LengthReader,
    UntilCloseReader,
    chunk,
    last_chunk,
)

Whole = tuple[bytes, bytes, bytes, bool]


def read(reader: BodyReader, pieces: list[bytes]) -> Whole:
    """(payload, rest, trailers, done): bytes that come after the end are rest too, as a connection keeps them."""
    payload, rest = b"", b""
    for piece in pieces:
        if reader.done:
            rest += piece
        else:
            payload += reader.feed(piece)
    return payload, reader.rest + rest, reader.trailers, reader.done


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """data in pieces, cut at these places (taken modulo its length)."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
EXTENSION = st.sampled_from([b"", b";a=b", b" ; a", b';a="b c"', b";\xff"])
TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"X: 1\r\nContent-Length: 9\r\nY: 2\r\n"])


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """(encoded, payload, trailer section)."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    size = draw(st.sampled_from([b"%x", b"%X", b"0%x"]))
    encoded = b"".join(size % len(piece) + draw(EXTENSION) + b"\r\n" + piece + b"\r\n" for piece in pieces)
    trailers = draw(TRAILERS)
    return encoded + b"0" + draw(EXTENSION) + b"\r\n" + trailers + b"\r\n", b"".join(pieces), trailers


@given(chunked(), st.binary(max_size=20), CUTS)
def test_chunks_however_they_are_cut(body: tuple[bytes, bytes, bytes], after: bytes, places: list[int]) -> None:
    encoded, payload, trailers = body
    kept = trailers.replace(b"Content-Length: 9\r\n", b"")
    assert read(ChunkedReader(), cut(encoded + after, places)) == (payload, after, kept, True)


@given(chunked())
def test_one_byte_at_a_time(body: tuple[bytes, bytes, bytes]) -> None:
    encoded, payload, _ = body
    assert read(ChunkedReader(), [bytes([byte]) for byte in encoded])[0] == payload


@given(chunked(), CUTS)
def test_a_body_cut_short_is_never_done(body: tuple[bytes, bytes, bytes], places: list[int]) -> None:
    encoded, payload, _ = body
    found, rest, _, done = read(ChunkedReader(), cut(encoded[:-1], places))
    assert not done
    assert payload.startswith(found)
    assert rest == b""


@given(st.binary(max_size=60), st.binary(max_size=20), CUTS)
def test_a_length_however_it_is_cut(payload: bytes, after: bytes, places: list[int]) -> None:
    assert read(LengthReader(len(payload)), cut(payload + after, places)) == (payload, after, b"", True)


def test_until_close_is_never_done_by_its_bytes() -> None:
    assert read(UntilCloseReader(), [b"a", b"b"]) == (b"ab", b"", b"", False)


@given(st.lists(st.binary(max_size=40), max_size=6), TRAILERS)
def test_what_we_frame_h11_reads(pieces: list[bytes], trailers: bytes) -> None:
    encoded = b"".join(chunk(piece) for piece in pieces) + last_chunk(trailers)
    assert h11_reads(encoded) == (b"".join(pieces), True)


def h11_reads(encoded: bytes) -> tuple[bytes, bool] | None:
    """(payload, done), or None where h11 refuses it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded)
    payload = b""
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Data):
            payload += event.data
        elif isinstance(event, h11.EndOfMessage):
            return payload, True
        elif not isinstance(event, h11.Request):
            return payload, False


@given(chunked(), st.integers(0, 10_000), st.sampled_from(list(b"\x00\t\n\r ;0aG-+x\x7f\xff")), CUTS)
def test_nothing_is_accepted_that_h11_refuses(
    body: tuple[bytes, bytes, bytes], at: int, byte: int, places: list[int]
) -> None:
    encoded = body[0].replace(b"Content-Length: 9\r\n", b"")  # h11 reads it even here, where it is dropped
    at %= len(encoded)
    mutated = encoded[:at] + bytes([byte]) + encoded[at + 1 :]
    try:
        payload, _, _, done = read(ChunkedReader(), cut(mutated, places))
    except BadBody:
        return
    if done and b" ;" not in mutated and b"\t;" not in mutated:  # h11 knows no BWS before an extension; RFC 9112 does
        assert h11_reads(mutated) == (payload, True)


@pytest.mark.parametrize(
    "data",
    [
        b"g\r\n",
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5_0\r\n",
        b"5\nhello\r\n",
        b"5\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello\n0\n\n",
        b"5;a\x00\r\nhello\r\n",
        b"5,5\r\nhello\r\n",
        b"1" + b"0" * 15 + b"\r\n",
        b"5;" + b"a" * MAX_SIZE_LINE_BYTES,
        b"0" * (MAX_SIZE_LINE_BYTES + 1),
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\n\n",
        b"0\r\n X: 1\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: " + b"a" * (MAX_TRAILER_BYTES + 4),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_bad_chunks_are_refused_as_soon_as_they_are_here(data: bytes, step: int) -> None:
    """Its sender may wait for an answer and send no more."""
    with pytest.raises(BadBody):
        read(ChunkedReader(), [data[at : at + step] for at in range(0, len(data), step)])
