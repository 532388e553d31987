"""Handing a connection from one protocol to the next.

Over TLS there is a reader in between. Where a protocol is given bytes, uvloop has OpenSSL decrypt each record (16 KiB)
into a new object of 256 KiB, cuts it to size, and joins what came; where it fills a buffer, one record after the other
is decrypted into place. The buffer is one for all connections: what is in it is taken out before anything else runs.
"""

import asyncio
import socket
import struct
from typing import Final

READ_BYTES: Final = 256 << 10
"""As much as uvloop reads from a socket at a time."""

_room: Final = memoryview(bytearray(READ_BYTES))


_NOBODY: Final = asyncio.Protocol()
"""Who hears what is said on a connection that has ended."""


class _Deciphered(asyncio.BufferedProtocol):
    """What stands for `protocol` at a TLS transport, until the connection is lost: uvloop keeps hold of it longer, and
    what has the transport would be in a ring with it."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return _room

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(_room[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _NOBODY
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


def hand_on(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
    """Let protocol hear of a connection from now on; it has been told of it, or need not be."""
    secure = transport.get_extra_info("ssl_object") is not None
    transport.set_protocol(_Deciphered(protocol) if secure else protocol)


def take_over(transport: asyncio.Transport, protocol: asyncio.Protocol, data: bytes = b"") -> None:
    """Let protocol have the connection, and the bytes that were read from it."""
    hand_on(transport, protocol)
    protocol.connection_made(transport)
    if data:
        protocol.data_received(data)


_RESET: Final = struct.pack("ii", 1, 0)


def break_off(transport: asyncio.Transport) -> None:
    """Close a connection so that its peer sees that it was broken: `abort` alone has the kernel send what it holds and
    a FIN, as after the last byte of what is whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():  # else its descriptor may be another's
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
