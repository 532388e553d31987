r"""What a connection speaks, from its first bytes.

    GET / HTTP/1.1\r\n    → http
    \x16\x03\x01…         → tcp (TLS of the application's own passes through)
    PRI * HTTP/2.0\r\n    → http2 (by prior knowledge, RFC 9113, section 3.3)
    (nothing)             → tcp, when the caller says nothing for `TIMEOUT_S`: in such protocols the server speaks first
    (nothing, and FIN)    → tcp likewise, at once

A line that looks like a request of HTTP/1.x but is malformed is taken for HTTP, and refused as such.

`detect` tells what to do for a caller whom nobody has reason to doubt. What may not get past as opaque bytes is another
question, and has another answer: `RequestLine`.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, Literal, cast

from proxy.http2.frames import PREFACE
from proxy.sweep import Sweep

TIMEOUT_S: Final = 10.0
"""How long the first bytes are waited for, unless configuration says otherwise; Linkerd's."""
DRAIN_S: Final = 1.0
MAX_LINE_BYTES: Final = 16 << 10
"""A first line that is longer is no HTTP/1.x request line."""

_BEGINS = re.compile(rb"(?:\r\n)?[A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z]{0,31}(?: |$)")
_REQUEST_LINE = re.compile(rb"(?:\r\n)?[^\r\n]* HTTP/1\.[0-9]\r?")

Detected = Literal["http1", "http2", "tcp"]


def detect(data: bytes) -> Detected | None:
    """What a connection that began with data speaks; None: more is needed to tell."""
    if PREFACE.startswith(data[:24]) and data:
        return "http2" if len(data) >= 24 else None
    if _BEGINS.match(data) is None:
        return None if data in (b"", b"\r", b"\r\n") else "tcp"
    end = data.find(b"\n", 2)
    if end < 0:
        return "tcp" if len(data) > MAX_LINE_BYTES else None
    return "http1" if _REQUEST_LINE.fullmatch(data, 0, end) else "tcp"


class Detecting(asyncio.Protocol):
    """A connection whose protocol is not known yet. `decided` is told, with the bytes read so far, and takes over;
    `gone` when it is over, either way. Not `opaque`: it is HTTP, and the question is which version."""

    def __init__(
        self,
        sweep: Sweep,
        decided: Callable[[asyncio.Transport, Detected, bytes], None],
        gone: Callable[["Detecting"], None],
        *,
        opaque: bool,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._sweep = sweep
        self._decided = decided
        self._gone = gone
        self._opaque = opaque
        self._timeout_s = timeout_s
        self._draining = False
        self._data = b""
        self._deadline = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._sweep.add(self)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data
        if self._opaque:
            found = detect(data)
        elif PREFACE.startswith(data[:24]):
            found = "http2" if len(data) >= 24 else None
        else:
            found = "http1"
        if found is not None:
            self._decide(found)

    def drain(self) -> None:
        """The proxy ends: what is said within `DRAIN_S` is heard, and a connection that says nothing is closed."""
        self._draining = True
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + DRAIN_S)

    def _decide(self, found: Detected) -> None:
        self._sweep.discard(self)
        self._gone(self)
        self._decided(self._transport, found, self._data)

    def sweep(self, now: float) -> None:
        if now < self._deadline:
            return
        if self._draining and not self._data:
            self._transport.close()
        else:
            self._decide("tcp" if self._opaque else "http1")

    def eof_received(self) -> bool:
        if not self._data and (self._draining or not self._opaque):
            return False
        self._decide("tcp" if self._opaque else "http1")
        protocol = cast(asyncio.Protocol, self._transport.get_protocol())
        return bool(protocol.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._sweep.discard(self)
        self._gone(self)


_BLANK: Final = b"\t\x0b\x0c\x1c\x1d\x1e\x1f \x85\xa0"
"""What some server or other takes for a space."""
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ENDS: Final = re.compile(rb"[\r\n]")
_VERSION: Final = re.compile(rb"(?i)http/[0-9.]*[\t ]*[^\t -~]")
_VERSION_SO_FAR: Final = re.compile(rb"(?i)http/[0-9.]*([\t ]*)\Z")


class RequestLine:
    """Whether opaque bytes that are passed on as they come are a request of HTTP, in the eyes of any server.

        GET / HTTP/1.1\\r\\n    \\n get / http/1.10 \\r    PRI * HTTP/2.0\\r\\n      are
        SELECT 1\\r\\n    {"said": "GET / HTTP/1.1\\r\\n"}    \\x16\\x03\\x01…         are not

    A request is a line that begins with a word and ends with a version; the strict reading of it (RFC 9112, section 3)
    is what an attacker would avoid, so this one is lax in all that a server could be lax in. It is told before the end
    of the line is passed on, and without the field lines that come after it a request is none: nothing is held back.
    """

    __slots__ = ("_begun", "_in_line", "_kept")

    def __init__(self) -> None:
        self._begun = False  # the first word has
        self._in_line = False  # it has ended, and the line has not
        self._kept = b""  # what may be the beginning of a version

    def feed(self, data: bytes) -> bool | None:
        """Look at what comes next: is it a request, or none, or (None) can that not be told yet?"""
        if not self._in_line:
            if not self._begun:
                data = data.lstrip(_BLANK + b"\r\n")
            rest = data.lstrip(_TOKEN)
            self._begun = self._begun or len(rest) < len(data)
            if not rest:
                return None
            if not self._begun or rest[0] not in _BLANK:
                return False
            self._in_line, data = True, rest
        data = self._kept + data
        end = _ENDS.search(data)
        if _VERSION.search(data, 0, end.end() if end else len(data)):
            return True
        if end:
            return False
        found = _VERSION_SO_FAR.search(data)
        self._kept = data[-4:] if found is None else b"http/ " if found[1] else b"http/"
        return None
