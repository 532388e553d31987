"""The admin port: `/metrics`, `/ready`, `/live` and `/shutdown`, as on Linkerd's, and `/endpoints`.

One request a connection, and nothing but GET and HEAD: it is for scrapers and supervisors, not for traffic. It accepts
when nothing else does any more (`proxy.listeners`), so it has a bound of its own.

POST to `/shutdown` has the proxy drain and end, as SIGTERM does: for a Job in a pod whose proxy would else outlive it.
It is there only where the proxy was started so (`--shutdown-endpoint`), and for callers on loopback alone.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Final, cast

from proxy import measured
from proxy.exposition import CONTENT_TYPE
from proxy.http1.heads import BadHead, RequestHead, parse_request
from proxy.sweep import Sweep

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
MAX_HEAD_BYTES: Final = 8 << 10
MAX_OPEN: Final = 100
"""Connections; beyond it the oldest is cut. Who asks at once, as every scraper does, is answered long before it is."""

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


class Page:
    """What a path answers: a status line's rest, a type and a body."""

    __slots__ = ("body", "kind", "status")

    def __init__(self, status: str, body: bytes, kind: str = TEXT) -> None:
        self.status = status
        self.body = body
        self.kind = kind


class Admin:
    """The pages. `waiting_for` names what keeps the proxy from being ready; `metrics` hands the metrics, rendered, to
    what it is called with, at once or soon; so does `endpoints` what was measured of a service (empty: of all).
    `end` has the proxy drain and end; None where nobody may ask for that."""

    def __init__(
        self,
        waiting_for: Callable[[], tuple[str, ...]],
        metrics: Callable[[Callable[[bytes], None]], None],
        endpoints: Callable[[str, Callable[[bytes], None]], None],
        sweep: Sweep,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._waiting_for = waiting_for
        self._metrics = metrics
        self._endpoints = endpoints
        self._sweep = sweep
        self._end = end
        self._open: dict[_Request, None] = {}  # the oldest first

    def accept(self) -> asyncio.Protocol:
        """The protocol for a connection that was accepted."""
        if len(self._open) >= MAX_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cut()
        request = _Request(self.page, self.told, self._sweep, lambda: self._open.pop(request, None))
        self._open[request] = None
        return request

    def page(self, target: str, answer: Callable[[Page], None]) -> None:
        """Answer with what is at target, a path and maybe a query."""
        path, _, query = target.partition("?")
        if path == "/metrics":
            self._metrics(lambda metrics: answer(Page("200 OK", metrics, CONTENT_TYPE)))
        elif path == "/endpoints":
            try:
                service = measured.asked_for(query)
            except ValueError as error:
                answer(Page("400 Bad Request", f"{error}\n".encode()))
            else:
                self._endpoints(service, lambda endpoints: answer(Page("200 OK", endpoints, JSON)))
        else:
            answer(self._text(path))

    def told(self, target: str, host: str) -> Page:
        """The answer to a POST from an address."""
        if target != "/shutdown":
            return Page("405 Method Not Allowed", b"GET or HEAD\n")
        if self._end is None:
            return Page("404 Not Found", b"this proxy was not started with --shutdown-endpoint\n")
        if not _is_loopback(host):
            return Page("403 Forbidden", b"ask at 127.0.0.1\n")
        log.info("asked to shut down, at the admin port")
        asyncio.get_running_loop().call_soon(self._end)  # when this is answered
        return Page("200 OK", b"shutting down\n")

    def _text(self, path: str) -> Page:
        if path == "/live":
            return Page("200 OK", b"live\n")
        if path == "/ready":
            waiting_for = self._waiting_for()
            if waiting_for:
                return Page("503 Service Unavailable", f"waiting for {', '.join(waiting_for)}\n".encode())
            return Page("200 OK", b"ready\n")
        return Page("404 Not Found", b"there is /metrics, /ready, /live and /endpoints\n")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Request(asyncio.Protocol):
    """One connection: one request, one page."""

    def __init__(
        self,
        page: Callable[[str, Callable[[Page], None]], None],
        told: Callable[[str, str], Page],
        sweep: Sweep,
        closed: Callable[[], object],
    ) -> None:
        self._page = page
        self._told = told
        self._sweep = sweep
        self._closed: Callable[[], object] | None = closed
        self._data = b""
        self._deadline = 0.0
        self._cut = False
        self._transport: asyncio.Transport

    def cut(self) -> None:
        """Make room for another."""
        self._cut = True
        if self._deadline:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        self._sweep.add(self)
        if self._cut:  # so many came at once
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                self._transport.abort()
            return
        try:
            head = parse_request(self._data[:end])
        except BadHead as error:
            self._answer(Page(f"{error.status} Bad Request", error.reason.encode() + b"\n"), head_only=False)
        else:
            self._get(head, self._data.split(b" ", 2)[1].decode("latin-1"))

    def _get(self, head: RequestHead, target: str) -> None:
        if head.method in (b"GET", b"HEAD"):
            self._page(target, lambda page: self._answer(page, head_only=head.method == b"HEAD"))
        elif head.method == b"POST":
            peer = self._transport.get_extra_info("peername")
            self._answer(self._told(target, peer[0] if peer else ""), head_only=False)
        else:
            self._answer(Page("405 Method Not Allowed", b"GET or HEAD\n"), head_only=False)

    def _answer(self, page: Page, *, head_only: bool) -> None:
        if self._transport.is_closing():
            return
        head = f"HTTP/1.1 {page.status}\r\ncontent-type: {page.kind}\r\ncontent-length: {len(page.body)}\r\n"
        self._transport.write(head.encode() + b"connection: close\r\n\r\n" + (b"" if head_only else page.body))
        self._transport.close()

    def sweep(self, now: float) -> None:
        if now >= self._deadline:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._sweep.discard(self)
        closed, self._closed = self._closed, None  # which refers to this
        if closed is not None:
            closed()
