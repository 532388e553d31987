"""The server name in a ClientHello that passes by: what a TLS connection of the application's own asks for.

    record      type 22 · version 3.x · length · a piece of the handshake          RFC 8446, section 5.1
    handshake   type 1 · length (24 bits) · ClientHello                            RFC 8446, section 4.1.2
    extension   type 0: one name of type 0, a host name in ASCII                   RFC 6066, section 3

    server_name "api.example"   → "api.example"
    no server_name              → ""
    anything else               → None: HTTP, a ClientHello of more than 16 KiB, two names, a name that is an address, …

Sans-I/O. It only looks: the bytes go on untouched and unhindered, whatever is found in them, and a ClientHello that is
odd is the server's to refuse. What encrypts its ClientHello (ECH) shows the outer name.
"""

import re
from typing import Final

MAX_HELLO_BYTES: Final = 16 << 10
"""Of the ClientHello, its records' heads left out. With post-quantum key shares it has 2 KiB."""
MAX_RECORD_BYTES: Final = 16 << 10

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0

_NAME: Final = re.compile(rb"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[a-z0-9_-]{1,63}")
"""Labels joined by dots, the last of them no number: RFC 6066 has no addresses here, and no dot at the end."""


class _Odd(Exception):
    """It is no ClientHello, or none that we read."""


class HelloReader:
    """One direction of a connection, from its first byte. Once `done`, `name` is what is said above."""

    __slots__ = ("_head", "_left", "_message", "done", "name")

    def __init__(self) -> None:
        self.done = False
        self.name: str | None = None
        self._head = b""  # of a record, where it has not come whole
        self._left = 0  # bytes of the record that are still to come
        self._message = b""

    def feed(self, data: bytes) -> bool:
        """Look at what comes next. Whether it is done; then no more is wanted."""
        try:
            if not self.done and self._unwrap(data):
                self.name = _server_name(self._message)
                self.done = True
        except _Odd:
            self.done = True
        if self.done:
            self._head = self._message = b""
        return self.done

    def _unwrap(self, data: bytes) -> bool:
        """Add the records' pieces in data to the message; whether that is whole."""
        at = 0
        while at < len(data):
            if not self._left:
                head = self._head + data[at : at + 5 - len(self._head)]
                at += len(head) - len(self._head)
                self._head = head
                self._begin_record(head)
            else:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._message += piece  # 16 KiB at most, so that this costs little however small the pieces are
                if self._whole():
                    return True
        return False

    def _begin_record(self, head: bytes) -> None:
        if not (b"\x16\x03".startswith(head[:2]) and head[2:3] <= b"\x03"):
            raise _Odd
        if len(head) == 5:
            self._head, self._left = b"", int.from_bytes(head[3:])
            if not 0 < self._left <= MAX_RECORD_BYTES:  # no empty pieces of a handshake: RFC 8446, section 5.1
                raise _Odd

    def _whole(self) -> bool:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _Odd
        if len(message) < 4:
            return False
        length = 4 + int.from_bytes(message[1:4])
        if length > MAX_HELLO_BYTES:
            raise _Odd
        return len(message) >= length


class _Fields:
    """Bytes read from front to back, as the presentation language of RFC 8446, section 3, writes them."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fixed(self, length: int) -> bytes:
        found = self._data[self._at : self._at + length]
        if len(found) < length:
            raise _Odd
        self._at += length
        return found

    def number(self, length: int) -> int:
        return int.from_bytes(self.fixed(length))

    def vector(self, of_length: int, at_least: int, at_most: int) -> bytes:
        """A vector whose length is written in of_length bytes."""
        length = self.number(of_length)
        if not at_least <= length <= at_most:
            raise _Odd
        return self.fixed(length)

    def over(self) -> bool:
        return self._at == len(self._data)


def _server_name(message: bytes) -> str:
    """The server name in a handshake message that is a ClientHello, "" for none. What follows the message is not
    looked at."""
    hello = _Fields(_Fields(message[1:]).vector(3, 0, MAX_HELLO_BYTES))
    if not 0x0300 <= hello.number(2) <= 0x0304:
        raise _Odd
    hello.fixed(32)  # random
    hello.vector(1, 0, 32)  # session id
    if len(hello.vector(2, 2, 0xFFFE)) % 2:  # cipher suites
        raise _Odd
    hello.vector(1, 1, 0xFF)  # compression methods
    if hello.over():  # before TLS 1.3 there may be no extensions
        return ""
    extensions = _Fields(hello.vector(2, 0, 0xFFFF))
    if not hello.over():
        raise _Odd
    found: dict[int, bytes] = {}
    while not extensions.over():
        kind = extensions.number(2)
        if kind in found:  # RFC 8446, section 4.2
            raise _Odd
        found[kind] = extensions.vector(2, 0, 0xFFFF)
    return _host_name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""


def _host_name(extension: bytes) -> str:
    outer = _Fields(extension)
    names = _Fields(outer.vector(2, 1, 0xFFFF))
    if names.number(1) != _HOST_NAME:
        raise _Odd
    name = names.vector(2, 1, 0xFFFF).lower()
    if not (names.over() and outer.over()) or _NAME.fullmatch(name) is None:
        raise _Odd
    return name.decode("ascii")
