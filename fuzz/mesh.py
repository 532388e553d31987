"""What is not HTTP: the transport header, records, the first bytes of a connection, a ClientHello that passes by."""

from typing import Final

from fuzz.http1 import pieces
from proxy.detect import detect
from proxy.hello import HelloReader
from proxy.mesh.header import MAX_HEADER_BYTES, BadTransportHeader, TransportHeader, decode, encode
from proxy.mesh.records import END, LAST, MAX_RECORD_BYTES, BadRecord, RecordReader, as_record
from tests.support.hellos import client_hello, extension, hello, names

HEADERS: Final = [
    encode(TransportHeader(8080, "h2", "api.default:80")) + b"PRI *",
    encode(TransportHeader(1, "tcp")),
    b"\x00\x00\x00\x02{}",
]
RECORDS: Final = [
    b"".join((b"\x02", *as_record(b"hello"), END)),
    b"".join((b"\x09", *as_record(b"x"), END, b"more")),
    b"".join((b"\x05", LAST, END, LAST)),
]
FIRST_BYTES: Final = [
    b"\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x03PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x03\r\nEHLO x\r\n",
    b"\x03" + client_hello("api.example"),
]
HELLOS: Final = [
    b"\x06" + client_hello("api.example"),
    b"\x06" + client_hello(None),
    b"\x06" + hello(extension(0, names((0, b"a.b"))) + extension(16, b"\x00\x03\x02h2"), session=bytes(32)),
]


def header(data: bytes) -> None:
    """A transport header: whole, not yet, or none; and what is one comes back as it was."""
    try:
        found = decode(data)
    except BadTransportHeader:
        return
    if found is None:
        assert len(data) < 4 + MAX_HEADER_BYTES
        return
    said, rest = found
    assert data.endswith(rest)
    assert decode(encode(said) + rest) == (said, rest)
    assert all(decode(data[:at]) is None for at in range(len(data) - len(rest)))


def records(data: bytes) -> None:
    """Records: in pieces they read as at once, and as their lengths say."""
    found, expected = _payload(pieces(data)), _by_hand(data[1:])
    assert found == expected


_Read = tuple[bytes, bool, bool, bytes]
"""The payload, whether it has ended, whether no relay follows, and what came behind."""


def _payload(parts: list[bytes]) -> _Read | None:
    reader, payload = RecordReader(), b""
    try:
        for part in parts:
            payload += b"".join(reader.feed(part))
    except BadRecord:
        return None
    return payload, reader.ended, reader.last, reader.rest


def _by_hand(data: bytes) -> _Read | None:
    payload, ended, last = b"", False, False
    while len(data) >= 4:
        length = int.from_bytes(data[:4], "big")
        if data[:4] == LAST:
            last, data = True, data[4:]
        elif ended:
            break
        elif length > MAX_RECORD_BYTES:
            return None
        else:
            ended = length == 0
            payload, data = payload + data[4 : 4 + length], data[4 + length :]
    return payload, ended, last, data


def first_bytes(data: bytes) -> None:
    """What a connection speaks: more bytes never change what was found."""
    found, seen = None, b""
    for piece in pieces(data):
        seen += piece
        now = detect(seen)
        assert now in (None, "http1", "http2", "tcp")
        assert found is None or now == found
        found = now


def client_hellos(data: bytes) -> None:
    """A ClientHello: in pieces it reads as at once, and what is found is a name that could be one."""
    found = []
    for parts in (pieces(data), [data[1:]]):
        reader = HelloReader()
        for part in parts:
            if reader.feed(part):
                break
        found.append((reader.done, reader.name))
        assert len(reader._message) <= 2 * MAX_RECORD_BYTES
    assert found[0] == found[1]
    name = found[0][1]
    assert not name or (len(name) <= 253 and name.isascii() and name == name.lower() and not set(name) & set(" \r\n\0"))
