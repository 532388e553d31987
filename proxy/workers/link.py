"""What a master and its worker say to each other: JSON lines over one socket pair, sockets over another.

    worker   Told  whenever it changes; the first when its configuration is in      Page  when asked, and at times
             Endpoints  when asked
    master   Ask · AskEndpoints · Reload · Drain · End

Over the other pair (SOCK_SEQPACKET), a datagram each: `listen HOST:PORT` is answered with the address on a line of its
own, and a socket (SCM_RIGHTS, unix(7)) or a second line that says what is wrong; `release HOST:PORT` is not answered.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar, cast

import msgspec

from meshd.api.frames import FramingError, LineReader, frame

log = logging.getLogger(__name__)

VARIABLE: Final = "MESHD_WORKER"
MAX_PAGE_BYTES: Final = 64 << 20
"""A page of metrics of some 7,000 series with their buckets. A larger one is not sent."""
MAX_LINE_BYTES: Final = 2 * MAX_PAGE_BYTES
"""The same as JSON, where quotes and ends of lines take two bytes."""

LISTEN: Final = b"listen "
RELEASE: Final = b"release "
MAX_DATAGRAM_BYTES: Final = 1024


class Told(msgspec.Struct, frozen=True, tag="condition"):
    """The worker's `proxy.orders.Condition`; the master answers at the admin addresses."""

    waiting_for: tuple[str, ...]
    admin: tuple[str, ...]


class Page(msgspec.Struct, frozen=True, tag="page"):
    """The worker's metrics, in Prometheus' text format; empty: there are too many."""

    text: str


class Endpoints(msgspec.Struct, frozen=True, tag="endpoints"):
    """What the worker measured (`proxy.measured`), as the answer to the question of that number."""

    number: int
    text: str


class FromWorker(msgspec.Struct, frozen=True):
    body: Told | Page | Endpoints


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Send a page."""


class AskEndpoints(msgspec.Struct, frozen=True, tag="ask-endpoints"):
    """Send what was measured of a service; empty: of all of them."""

    number: int
    service: str


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read the file again."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Accept nothing more, finish, end."""


class End(msgspec.Struct, frozen=True, tag="end"):
    """End now."""


class FromMaster(msgspec.Struct, frozen=True):
    body: Ask | AskEndpoints | Reload | Drain | End


class Ends(NamedTuple):
    """A worker's number, from 1, of how many, and its ends of the two pairs, descriptors."""

    number: int
    workers: int
    link: int
    sockets: int


def received() -> Ends:
    """What this process was started with as a worker; the environment forgets it."""
    ends = Ends(*map(int, os.environ.pop(VARIABLE).split(",")))
    for descriptor in (ends.link, ends.sockets):
        os.set_inheritable(descriptor, False)
    return ends


M = TypeVar("M")


class Link(asyncio.Protocol, Generic[M]):
    """One end of the line. `said` gets what the other end says, `lost` is called when it is gone."""

    def __init__(self, kind: type[M], said: Callable[[M], None], lost: Callable[[], None]) -> None:
        self._lines = LineReader(kind, MAX_LINE_BYTES)
        self._said = said
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._lines.feed(data)
        except FramingError as error:
            log.error("the link between master and worker: %s", error)
            self.close()
            return
        for message in messages:
            self._said(message)

    def send(self, message: FromWorker | FromMaster) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._lost()
