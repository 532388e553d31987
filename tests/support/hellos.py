"""What clients of TLS say first: from OpenSSL, and written by hand."""

import ssl
from contextlib import suppress


def client_hello(name: str | None, at_most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> bytes:
    """What a client of OpenSSL's says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which trusts nobody, and so has nothing to load
    context.check_hostname = False
    context.maximum_version = at_most
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def number(value: int, length: int = 2) -> bytes:
    return value.to_bytes(length)


def record(piece: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes([kind]) + version + number(len(piece)) + piece


def hello(
    extensions: bytes | None, *, version: int = 0x0303, suites: bytes = b"\x13\x01", session: bytes = b""
) -> bytes:
    """A ClientHello written by hand."""
    body = number(version) + bytes(32) + number(len(session), 1) + session + number(len(suites)) + suites + b"\x01\0"
    body += b"" if extensions is None else number(len(extensions)) + extensions
    return record(b"\x01" + number(len(body), 3) + body)


def extension(kind: int, content: bytes) -> bytes:
    return number(kind) + number(len(content)) + content


def names(*each: tuple[int, bytes]) -> bytes:
    """The extension server_name."""
    entries = b"".join(number(kind, 1) + number(len(name)) + name for kind, name in each)
    return extension(0, number(len(entries)) + entries)
