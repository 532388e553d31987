"""One connection to the control API: bytes to calls, answers to bytes, and the bounds on both.

A peer that sends faster than it is served is not read from. A peer that does not read what it watches gets only the
newest answer of each watch when it reads again, and is cut off when it has not read for `STALL_S`. What the calls mean
is the session's affair (`meshd.agent.session`), which knows neither bytes nor sockets.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from meshd.agent.complaints import complaints
from meshd.api.control import Answer, Call, Refused, Response
from meshd.api.frames import FramingError, LineReader, frame

MAX_CALL_BYTES = 2 << 20
"""What one call may measure; the largest is a report of all the rows that are kept for a proxy, some 1 kB each."""

MAX_WAITING_ANSWERS = 256
"""Answers to plain calls that may wait for a peer to read; beyond it no more calls are read from it."""

STALL_S = 30.0
"""How long a peer may leave answers unread."""


P = TypeVar("P")
"""Who is at the other end, as the server knows peers."""

Said = Response | msgspec.Raw
"""An answer, or one that is encoded already: what many are told is encoded once."""


class Outbox(Protocol):
    """Where a session's answers go; `Connection` says what each promises."""

    def answer(self, call_id: int, body: Response) -> None: ...

    def update(self, call_id: int, body: Callable[[], Said]) -> None: ...

    def forget(self, call_id: int) -> None: ...


class Session(Protocol):
    """What a connection's calls act on. `handle` may send any number of answers, then or later."""

    def handle(self, call: Call) -> None: ...

    def closed(self) -> None: ...


class Connection(asyncio.Protocol, Generic[P]):
    """The server's end of one connection. `peer_of` says who connected, and `accept` makes the session, or refuses the
    connection."""

    def __init__(
        self,
        peer_of: Callable[[asyncio.Transport], P],
        accept: Callable[["Connection[P]", P], Session | Refused],
        closed: Callable[["Connection[P]"], None],
        stall_s: float = STALL_S,
    ) -> None:
        self._peer_of, self._accept, self._closed, self._stall_s = peer_of, accept, closed, stall_s
        self._reader = LineReader(Call, MAX_CALL_BYTES)
        self._calls: deque[Call] = deque()
        self._answers: deque[Answer] = deque()
        self._newest: dict[int, Callable[[], Said]] = {}  # of watches, by id
        self._full = False
        self._stalled: asyncio.TimerHandle | None = None
        self._session: Session | None = None

    # --- what the session says ----------------------------------------------------------------------------------

    def answer(self, call_id: int, body: Response) -> None:
        """Send an answer that must arrive."""
        self._answers.append(Answer(call_id, body))
        self._flush()

    def update(self, call_id: int, body: Callable[[], Said]) -> None:
        """Send an answer that the next one with this id replaces. `body` makes it when it is sent."""
        self._newest[call_id] = body
        self._flush()

    def forget(self, call_id: int) -> None:
        """What was not yet sent of a watch is no longer wanted."""
        self._newest.pop(call_id, None)

    def limit(self, max_call_bytes: int) -> None:
        """Take no longer calls than that; to be said before the first."""
        self._reader = LineReader(Call, max_call_bytes)

    def close(self) -> None:
        """End the connection once what was said is sent, or the peer's time for reading is over."""
        if not self._transport.is_closing():
            self._transport.close()

    # --- what the transport says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = self._peer_of(self._transport)
        found = self._accept(self, self.peer)
        if isinstance(found, Refused):
            self.answer(0, found)
            self.close()
        else:
            self._session = found

    def data_received(self, data: bytes) -> None:
        if self._session is None or self._transport.is_closing():
            return
        try:
            self._calls += self._reader.feed(data)
            self._serve(self._session)
        except FramingError as error:
            complaints.warning("control API: %s: %s", self.peer, error)
            self.answer(0, Refused(str(error)))
            self.close()

    def pause_writing(self) -> None:
        self._full = True
        self._stalled = asyncio.get_running_loop().call_later(self._stall_s, self._cut_off)

    def resume_writing(self) -> None:
        self._full = False
        self._not_stalled()
        self._flush()
        if self._session is not None and not self._transport.is_closing():
            self._serve(self._session)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._not_stalled()
        if self._session is not None:
            self._session.closed()
        self._closed(self)

    # --- between them -------------------------------------------------------------------------------------------

    def _serve(self, session: Session) -> None:
        """Handle what was read, and read on only when all of it is handled."""
        while self._calls and len(self._answers) < MAX_WAITING_ANSWERS:
            session.handle(self._calls.popleft())
        if self._calls:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _flush(self) -> None:
        """Write until the transport has enough; plain answers first, for a caller waits for each."""
        while not self._full and not self._transport.is_closing():
            if self._answers:
                message = self._answers.popleft()
            elif self._newest:
                call_id = next(iter(self._newest))
                message = Answer(call_id, cast("Any", self._newest.pop(call_id)()))
            else:
                return
            self._transport.write(frame(message))

    def _cut_off(self) -> None:
        complaints.warning("control API: %s has not read its answers for %.0f s: cut off", self.peer, self._stall_s)
        self._transport.abort()

    def _not_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
