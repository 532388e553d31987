"""The origin of gRPC: every call is answered with so many messages, each in a DATA frame of its own, as gRPC's own
servers send them, but all written beforehand, since origin and load generator must cost less than what is measured.

    python -m bench.origins.grpc FILE    # {"ports": […], "messages": 100} in the file

It speaks HTTP/2 by prior knowledge, knows no paths, and keeps to the peer's windows: an answer goes out whole when the
connection's window has room for it, and no answer is longer than a stream's least usual window. What is no HTTP/2 ends
the connection. `check` asks it with gRPC's own client.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import cast

import grpc
import uvloop

from bench import contenders
from bench.scenario import Origin

MESSAGE = b"the quick brown fox jumps over the lazy dog, and the mesh saw every hop of it, one by one"
"""What each message says."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = Struct(">HBBBI")  # a frame's: 24 bits of length, the type, the flags, the stream
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_WINDOW = 65_535
_WIDE = (1 << 30) - 1
"""The connection's receive window. It is widened anew when half of it is used."""

# HPACK (RFC 7541): `:status: 200` of the static table, then fields that are added to the dynamic table at first, as
# gRPC's servers do, and are entries 63 and 62 in every answer after that
_FIRST = (b"\x88\x5f\x10application/grpc", b"\x40\x0bgrpc-status\x010")
_AGAIN = (b"\x88\xbf", b"\xbe")
_ANY_STREAM = b"\x7f\xfe\xfd\xfc"
"""Stands for the stream in an answer that was written beforehand; nothing else there looks like it."""


def frame(kind: int, flags: int, stream: int | bytes, payload: bytes) -> bytes:
    """A frame (RFC 9113, section 4.1); the stream as a number, or as its four bytes."""
    length = len(payload)
    head = _HEAD.pack(length >> 8, length & 0xFF, kind, flags, 0 if isinstance(stream, bytes) else stream)
    return (head[:5] + stream if isinstance(stream, bytes) else head) + payload


def answer(messages: int, blocks: tuple[bytes, bytes]) -> bytes:
    """An answer to `_ANY_STREAM`."""
    message = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
    data = frame(_DATA, 0, _ANY_STREAM, message) * messages
    head, trailers = blocks
    last = frame(_HEADERS, _END_HEADERS | _END_STREAM, _ANY_STREAM, trailers)
    return frame(_HEADERS, _END_HEADERS, _ANY_STREAM, head) + data + last


class Connection(asyncio.Protocol):
    """One connection. `messages`: how many an answer has."""

    def __init__(self, messages: int) -> None:
        self._first, self._again = answer(messages, _FIRST), answer(messages, _AGAIN)
        self._cost_bytes = messages * (5 + len(MESSAGE))
        assert self._cost_bytes <= _WINDOW, "an answer goes out whole"
        self._window_bytes = _WINDOW
        self._read_bytes = 0
        self._waiting: deque[bytes] = deque()
        self._buffer = b""
        self._greeted = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        wide = frame(_WINDOW_UPDATE, 0, 0, (_WIDE - _WINDOW).to_bytes(4, "big"))
        self._transport.write(frame(_SETTINGS, 0, 0, b"") + wide)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        if not self._greeted:
            if len(data) < len(_PREFACE):
                self._buffer = data
                return
            if not data.startswith(_PREFACE):
                self._transport.abort()
                return
            self._greeted, at = True, len(_PREFACE)
        out: list[bytes] = []
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + (high << 8 | low)
            if end > len(data):
                break
            if kind in (_DATA, _HEADERS):
                self._read_bytes += (end - at - _HEAD.size) if kind == _DATA else 0
                if flags & _END_STREAM:
                    self._waiting.append(stream.to_bytes(4, "big"))
            elif kind == _WINDOW_UPDATE and stream == 0:
                self._window_bytes += int.from_bytes(data[end - 4 : end], "big") & 0x7FFFFFFF
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                out.append(frame(kind, _ACK, 0, data[at + _HEAD.size : end] if kind == _PING else b""))
            at = end
        self._buffer = data[at:]
        self._answer(out)
        if self._read_bytes > _WIDE // 2:
            out.append(frame(_WINDOW_UPDATE, 0, 0, self._read_bytes.to_bytes(4, "big")))
            self._read_bytes = 0
        if out:
            self._transport.write(b"".join(out))

    def _answer(self, out: list[bytes]) -> None:
        while self._waiting and self._window_bytes >= self._cost_bytes:
            self._window_bytes -= self._cost_bytes
            out.append(self._first.replace(_ANY_STREAM, self._waiting.popleft()))
            self._first = self._again


async def serve(ports: list[int], messages: int) -> None:
    """Answer at the ports, for ever."""
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Connection(messages), "127.0.0.1", port)
    await asyncio.Event().wait()


def origin(messages: int) -> Origin:
    """This one, as a scenario has it."""

    def configuration(listen: int, direct: int, _: Path) -> str:
        return json.dumps({"ports": [listen, direct], "messages": messages})

    expected = b"\n".join([MESSAGE] * messages + [b"OK"])
    return Origin(contenders.python(__name__), configuration, _call, expected)


def _call(port: int) -> bytes:
    """All messages of one call, and its status, as gRPC's own client reads them."""
    as_it_is: Callable[[bytes], bytes] = bytes
    with grpc.insecure_channel(f"127.0.0.1:{port}", (("grpc.enable_http_proxy", 0),)) as channel:
        call = channel.unary_stream("/bench.Origin/Call", as_it_is, as_it_is)(MESSAGE, timeout=10)
        try:
            messages = list(call)
        except grpc.RpcError as error:
            return str(error).encode()
        status: str = call.code().name
        return b"\n".join([*messages, status.encode()])


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    uvloop.run(serve(told["ports"], told["messages"]))
