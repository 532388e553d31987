"""The frames of HTTP/2 as bytes (RFC 9113, sections 4 and 6), and its numbers."""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
"""The largest payload either side sends unless the other allows more (section 4.2)."""
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1

read_header = Struct(">HBBBL").unpack_from
"""(length / 256, length % 256, type, flags, stream) of a frame header."""


class Setting(IntEnum):
    """RFC 9113, section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Error codes: RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


_pack_header = Struct(">HBBBL").pack
_pack_long = Struct(">L").pack
_pack_setting = Struct(">HL").pack


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return _pack_header(length >> 8, length & 0xFF, kind, flags, stream) + payload


def header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """What a frame of so many bytes begins with, for a payload that is not to be copied."""
    return _pack_header(length >> 8, length & 0xFF, kind, flags, stream)


def headers(stream: int, block: bytes, ended: bool, max_frame: int = MAX_FRAME_BYTES) -> bytes:
    """A field block: HEADERS, and CONTINUATION where it is longer than a frame may be."""
    flags = END_STREAM if ended else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    out = [frame(HEADERS, flags, stream, pieces[0])]
    out += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    out.append(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
    return b"".join(out)


def settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_pack_setting(name, value) for name, value in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def rst_stream(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, _pack_long(code))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _pack_long(increment))


def goaway(last_stream: int, code: Code, why: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _pack_long(last_stream) + _pack_long(code) + why)
