"""Random frames, most of them wrong: what the `h2` library refuses, the engine refuses too.

Where h2 is stricter than RFC 9113, or another answer is as good, `differs` says so and why.
"""

import h2.config
import h2.connection
import h2.exceptions
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2 import frames
from proxy.http2.engine import ProtocolError
from proxy.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Setting,
)
from tests.support.h2 import BLOCK, End, Frame, frames_of
from tests.support.h2 import settings as settings_frame

NUMBERS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5])
FLAGS = st.sampled_from([0, 0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, PADDED, HAS_PRIORITY, 0xFF])
WORDS = st.sampled_from([b"\x00\x00\x00\x00", b"\x00\x00\x00\x01", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
BLOCKS = st.sampled_from([BLOCK, BLOCK, b"", b"\x82", b"\x80", b"\x03" + BLOCK + b"abc", b"\x00" * 5 + BLOCK])
VALUES = st.tuples(st.sampled_from(list(Setting)), st.sampled_from([0, 1, 2, 16_384, 65_535, 1 << 24, 2**31]))


def of(
    kind: int, payloads: st.SearchStrategy[bytes], flags: st.SearchStrategy[int] = FLAGS
) -> st.SearchStrategy[Frame]:
    return st.builds(Frame, st.just(kind), flags, NUMBERS, payloads)


REQUESTS = st.builds(
    Frame,
    st.just(HEADERS),
    st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM]),
    st.sampled_from([1, 3, 5]),
    st.just(BLOCK),
)
FRAMES = st.one_of(
    REQUESTS,
    REQUESTS,
    of(DATA, st.sampled_from([b"", b"x", b"\x00abc", b"\x04abc", b"\x01ab"])),
    of(HEADERS, BLOCKS),
    of(CONTINUATION, BLOCKS),
    of(PRIORITY, st.sampled_from([bytes(5), b"\x00\x00\x00\x09\x10", b"abc"])),
    of(RST_STREAM, WORDS),
    of(SETTINGS, st.lists(VALUES, max_size=2).map(lambda values: frames.settings(dict(values))[9:]), st.just(0)),
    of(SETTINGS, st.sampled_from([b"", b"abc"]), st.sampled_from([0, ACK])),
    of(PING, st.sampled_from([bytes(8), b"abc"])),
    of(GOAWAY, st.sampled_from([bytes(8), b"abc"])),
    of(WINDOW_UPDATE, st.one_of(WORDS, st.just(b"abc"))),
    of(77, st.binary(max_size=5)),
)


def refusal(connection: h2.connection.H2Connection, sent: bytes) -> str:
    """Why h2 refuses what was sent: "" where it does not."""
    try:
        connection.receive_data(sent)
    except (h2.exceptions.ProtocolError, h2.exceptions.H2Error) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def resets(data: bytes) -> set[int]:
    return {each.stream for each in frames_of(data) if each.kind == RST_STREAM}


def differs(sent: Frame, why: str) -> bool:
    """Whether h2 and the engine may answer differently."""
    if "Trailers must have END_STREAM set" in why:
        return True  # the stream's owner sees to that (`ServerStream.on_headers`)
    if "ConnectionState.CLOSED" in why:
        return True  # after a GOAWAY, with which only new streams end (RFC 9113, section 6.8)
    # Section 6.9: an increment of 0 is an error of the stream, to h2 of the connection; the reserved bit is ignored,
    # and h2 minds it. On a stream that is closed WINDOW_UPDATE may be ignored (5.1).
    return sent.kind == WINDOW_UPDATE and sent.stream != 0 and "non-compliant data" in why


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=12))
def test_what_h2_refuses_is_refused(sent: list[Frame]) -> None:
    oracle = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
    )
    oracle.initiate_connection()
    end = End()
    begun = PREFACE + settings_frame()
    oracle.receive_data(begun)
    oracle.data_to_send()
    end.receive(begun)
    end.said()
    for each in sent:
        raw = frames.frame(*each)
        why = refusal(oracle, raw)
        reset_by_h2 = resets(oracle.data_to_send()) if not why else set()
        try:
            end.receive(raw)
        except ProtocolError:
            return
        reset_by_us = resets(end.said())
        if differs(each, why):
            return
        assert not why, f"{each}: {why}"
        assert reset_by_h2 <= reset_by_us, each
        if reset_by_us:
            return
