"""HTTP/2 and HPACK against h2, hpack and h11: the engine from both ends, field blocks, heads, whole connections."""

import asyncio
import atexit
from functools import cache
from typing import Final

import h2.config
import h2.connection
import h2.exceptions
import hpack

from fuzz.http1 import names_of, pieces
from proxy.http1.heads import BadHead, parse_request, parse_response
from proxy.http2 import frames, heads
from proxy.http2.engine import (
    MAX_BLOCK_BYTES,
    MAX_REMEMBERED,
    MAX_STREAMS,
    OUR_MAX_FRAME_BYTES,
    STREAM_WINDOW,
    ProtocolError,
)
from proxy.http2.fields import (
    MAX_LIST_BYTES,
    TABLE_BYTES,
    CompressionError,
    Field,
    FieldDecoder,
    FieldsTooLarge,
    encode,
)
from proxy.http2.frames import END_HEADERS, END_STREAM, HEADERS, MAX_WINDOW, PADDED, PREFACE, RST_STREAM, WINDOW_UPDATE
from tests.support.h2 import ANSWER, BLOCK, REQUEST, End, Frame, client, data, frames_of, request, server, settings
from tests.support.h2exchanges import H2Rig

_BEGUN: Final = PREFACE + settings()


def _bounded(end: End) -> None:
    """What a peer made grow has its bounds."""
    assert len(end.streams) <= MAX_STREAMS
    assert len(end._forgotten) <= MAX_REMEMBERED
    assert len(end._rest) <= OUR_MAX_FRAME_BYTES + frames.HEADER_BYTES
    assert end._block_bytes <= MAX_BLOCK_BYTES + frames.MAX_FRAME_BYTES * 4
    assert end._send_window <= MAX_WINDOW
    for stream in end.streams.values():
        assert stream.unacknowledged <= STREAM_WINDOW
        assert stream.send_window <= MAX_WINDOW


def _take(end: End, parts: list[bytes]) -> list[Frame] | None:
    """All the frames that it answers; None where it ends the connection."""
    said = b""
    try:
        for part in parts:
            end.receive(part)
            _bounded(end)
            said += end.said()
    except ProtocolError as error:
        end.fail(error)
        frames_of(end.said())
        return None
    return frames_of(said)


def _told(end: End) -> list[tuple[object, ...]]:
    return [(each.number, each.heads, bytes(each.body), each.ended, each.reset_with) for each in end.told.values()]


def _same_in_pieces(first: End, second: End, sent: bytes) -> None:
    at_once, in_pieces = _take(first, [sent[1:]]), _take(second, pieces(sent))
    assert _told(first) == _told(second)
    assert (at_once is None) == (in_pieces is None)


def engine_server(sent: bytes) -> None:
    """A server's end and any bytes behind the beginning: it takes them or ends with a code, in pieces as at once."""
    _same_in_pieces(server(), server(), sent)


def engine_client(sent: bytes) -> None:
    """A client's end with requests under way, and any bytes."""
    ends = (client(), client())
    for end in ends:
        end.ask()
        end.ask(ended=False).send_data(bytes(70_000), False)
        end.ask().reset(frames.Code.CANCEL)
        end.said()
    _same_in_pieces(*ends, sent)


_PAYLOADS: Final = (
    BLOCK,
    ANSWER,
    b"",
    bytes(8),
    bytes(5),
    b"\x00\x00\x00\x01",
    b"\x7f\xff\xff\xff",
    b"\x00\x04\x00\x00\x00\x00",
)


def frames_from(sent: bytes) -> list[Frame]:
    """Frames, four bytes each and what they say of the payload: so that most inputs are frames, if odd ones."""
    found: list[Frame] = []
    at = 0
    while at + 4 <= len(sent) and len(found) < 40:
        kind, flags, number, size = sent[at : at + 4]
        at += 4
        if size >= 0xF0:
            payload = _PAYLOADS[size % len(_PAYLOADS)]
        else:
            payload = sent[at : at + size]
            at += size
        found.append(Frame(kind % 11, flags, number % 8, payload))
    return found


def engine_frames(sent: bytes) -> None:
    """Frames, most of them wrong: what `h2` refuses is refused, but for what `_differs`."""
    oracle = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
    )
    oracle.initiate_connection()
    oracle.receive_data(_BEGUN)
    oracle.data_to_send()
    end = server()
    for each in frames_from(sent):
        raw = frames.frame(*each)
        why = ""
        try:
            oracle.receive_data(raw)
        except (h2.exceptions.ProtocolError, h2.exceptions.H2Error) as error:
            why = f"{type(error).__name__}: {error}"
        by_h2 = set() if why else {one.stream for one in frames_of(oracle.data_to_send()) if one.kind == RST_STREAM}
        try:
            end.receive(raw)
        except ProtocolError:
            return
        _bounded(end)
        by_us = {one.stream for one in end.heard() if one.kind == RST_STREAM}
        if _differs(each, why):
            return
        assert not why, f"{each}: {why}"
        assert by_h2 <= by_us, each
        if by_us:
            return


def _differs(sent: Frame, why: str) -> bool:
    """As in tests/unit/test_proxy_h2_invalid.py, where the reasons are; and h2 knows ALTSVC (type 10) and a setting of
    RFC 8441, unknown to us and ignored. Padding may fill a frame (RFC 9113, section 6.2), to h2 it may not."""
    if sent.kind == 10 or "Setting 8 has invalid value" in why:
        return True
    if sent.flags & PADDED and sent.payload[:1] == bytes([len(sent.payload) - 1 & 0xFF]):
        return True
    if "Trailers must have END_STREAM set" in why or "ConnectionState.CLOSED" in why:
        return True
    if "content-length" in why or "InvalidBodyLength" in why:
        return True  # to see to that is the stream's owner's too
    if "may not depend on itself" in why:
        return True  # RFC 9113, section 5.3.2: priorities are ignored, nonsense too
    reserved = sent.stream != 0 or sent.payload[:1] >= b"\x80"
    return sent.kind == WINDOW_UPDATE and reserved and "non-compliant data" in why


def block(sent: bytes) -> None:
    """Field blocks of one connection: what hpack refuses is refused, and what both decode is the same. Ours refuses
    more: integers beyond 32 bits."""
    ours, oracle = FieldDecoder(), hpack.Decoder(max_header_list_size=MAX_LIST_BYTES)
    oracle.max_allowed_table_size = TABLE_BYTES
    for part in sent.split(b"\xfe\xfe\xfe"):
        try:
            expected: list[Field] | None = [
                (bytes(name), bytes(value)) for name, value in oracle.decode(part, raw=True)
            ]
        except hpack.HPACKError:
            expected = None
        try:
            found = ours.decode(part)
        except (CompressionError, FieldsTooLarge):
            return
        assert found == expected
        assert ours._size <= ours._limit <= TABLE_BYTES
        assert FieldDecoder().decode(encode(found)) == found


def fields_from(sent: bytes) -> list[Field]:
    """Fields: lines, each a name and a value with a 0x01 between; a line may also be one of a request's own."""
    known = {b"m": REQUEST[0], b"s": REQUEST[1], b"a": REQUEST[2], b"p": REQUEST[3], b"S": (b":status", b"200")}
    lines = sent.split(b"\x02")
    return [known.get(line) or (line.partition(b"\x01")[0], line.partition(b"\x01")[2]) for line in lines]


def head(sent: bytes) -> None:
    """Fields as a request, an answer and trailers: what is let through means the same in HTTP/1.1."""
    fields = fields_from(sent[1:])
    ended = sent[:1] < b"\x80"
    try:
        found = heads.request(fields, ended=ended)
    except BadHead:
        pass
    else:
        again = parse_request(found.forward[:-2])
        assert (again.method, again.length, again.authority) == (found.method, found.length, found.authority)
        assert b"l5d-client-id" not in names_of(found.forward)
        crossed = heads.request(FieldDecoder().decode(heads.request_block(found)), ended=ended)
        assert crossed.forward == found.forward
    try:
        answer = heads.response(fields, from_proxy=False)
    except BadHead:
        pass
    else:
        # An answer that expects something makes no sense; in HTTP/1.1 it is refused.
        if not answer.upgrade and b"expect" not in names_of(answer.forward):
            assert parse_response(answer.forward[:-2]).status == answer.status
    try:
        lines = heads.trailers(fields)
    except BadHead:
        return
    assert b"\r\n\r\n" not in lines
    assert not lines or lines.endswith(b"\r\n")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs: to make one takes longer than to run most of them."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def connection(sent: bytes) -> None:
    """A caller's connection of HTTP/2 and an endpoint's behind it, on real exchanges: half of the frames come from the
    one, half from the other. Nothing escapes, and when both are gone nothing is left behind."""
    _loop().run_until_complete(_converse(frames_from(sent)))


async def _converse(said: list[Frame]) -> None:
    rig = H2Rig(patience_s=0.0)
    caller = await rig.caller()
    caller.says(request(1), request(3, ended=False))
    endpoint = await rig.open_h2() if rig.asked else None
    for number, each in enumerate(said):
        peer = endpoint if endpoint is not None and each.flags & 0x40 else caller
        if not peer.wire.is_closing():
            peer.says(frames.frame(each.kind, each.flags & 0x2D, each.stream, each.payload))
        if number % 4 == 3:
            await asyncio.sleep(0)
        while rig.asked and endpoint is None:
            endpoint = await rig.open_h2()
    await asyncio.sleep(0)
    for each_peer in (caller, endpoint):
        if each_peer is not None and not each_peer.wire.lost:
            each_peer.wire.breaks()
    while rig.asked:  # again, or still: nobody is there
        rig.refuse()
    await asyncio.sleep(0)
    assert rig.pending == 0, rig.pending
    assert rig.destination.in_flight == 0


SEEDS_BYTES: Final = [
    b"\x05" + request(1) + request(3, False) + data(3, b"hello", True),
    b"\x20" + settings(initial_window_size=0, header_table_size=0) + frames.window_update(0, 1000) + request(1),
    b"\x09" + frames.frame(HEADERS, 0, 1, BLOCK[:3]) + frames.frame(9, END_HEADERS, 1, BLOCK[3:]),
    b"\x09" + frames.headers(1, ANSWER, False) + data(1, b"x" * 100) + frames.headers(1, encode([(b"a", b"b")]), True),
    b"\x09" + frames.rst_stream(3, frames.Code.REFUSED_STREAM) + frames.goaway(1, frames.Code.NO_ERROR, b"bye"),
    b"\xff" + frames.frame(6, 0, 0, bytes(8)) + frames.frame(0, 8, 1, b"\x02ab\0\0") + frames.frame(2, 0, 5, bytes(5)),
]
_OPEN: Final = bytes([HEADERS, END_HEADERS, 1, 0xF0]) + bytes([HEADERS, END_HEADERS | END_STREAM, 3, 0xF0])
SEEDS_FRAMES: Final = [
    _OPEN + bytes([0, 0, 1, 5]) + b"hello" + bytes([0, 1, 1, 0]),
    _OPEN + bytes([3, 0, 1, 0xF5]) + bytes([8, 0, 0, 0xF5]) + bytes([6, 0, 0, 0xF3]) + bytes([4, 0, 0, 0xF7]),
    bytes([HEADERS, 0, 1, 4]) + BLOCK[:4] + bytes([9, 4, 1, len(BLOCK) - 4]) + BLOCK[4:] + bytes([7, 0, 0, 0xF3]),
    _OPEN + bytes([HEADERS, 0x44, 1, 0xF1]) + bytes([0, 0x41, 1, 2]) + b"ok" + bytes([HEADERS, 0x45, 3, 0xF1]),
]
SEEDS_BLOCKS: Final = [
    BLOCK,
    hpack.Encoder().encode([*REQUEST, (b"x-trace", b"0123456789"), (b"cookie", b"a=b")]),
    b"\x3f\x01" + b"\x40\x01a\x01b" + b"\xfe\xfe\xfe" + b"\xbe\x82" + b"\xfe\xfe\xfe" + b"\x20\x82",
    b"\x40\x8aabc\x81\xff",
]
SEEDS_FIELDS: Final = [
    b"\x00m\x02s\x02a\x02p\x02x-a\x01b\x02cookie\x01c=d\x02te\x01trailers",
    b"\xffm\x02s\x02a\x02:path\x01/x?y\x02content-length\x015\x02host\x01api\x02expect\x01100-continue",
    b"\x00S\x02content-length\x010\x02grpc-status\x010",
    b"\x00m\x02s\x02p\x02host\x01[::1]:80\x02content-type\x01application/grpc\x02grpc-timeout\x015S",
]
