"""One connection to the agent's control API: calls out, answers in.

The counterpart is the agent's server; the messages are in `meshd.api.control`. What a connection registered lives as
long as it does, so whoever needs the registration watches `lost`. It does not come back by itself: reconnecting is
its owner's decision. Watching (`Attach`, `WatchDestination`) is the proxy's business, with a client of its own.
"""

import asyncio
from pathlib import Path
from typing import TypeVar, cast

from meshd.api.control import Answer, Call, Refused, Request, Response
from meshd.api.frames import FramingError, LineReader, frame
from meshd.api.problems import Problem

T = TypeVar("T", bound=Response)

CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 10.0


class AgentAway(Problem):
    """There is no agent at the socket, or no longer, or it does not speak as it should."""


class AgentRefused(Problem):
    """The agent does not do it; the message is its reason. `retry`: whether asking again later may succeed."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


async def ask(socket: Path, body: Request, expected: type[T], within_s: float = ANSWER_WITHIN_S) -> T:
    """The agent's answer to one call, over a connection for it alone; errors as of `connect` and `call`."""
    connection = await ControlConnection.connect(socket)
    try:
        return await connection.call(body, expected, within_s)
    finally:
        await connection.close()


class ControlConnection(asyncio.Protocol):
    """Made by `connect`, ended by `close` or by the agent; `lost` is done when it has ended, whoever ended it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines = LineReader(Answer)
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._last_id = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, socket: Path) -> "ControlConnection":
        """A connection to the agent at `socket`. AgentAway when there is none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                _, connection = await loop.create_unix_connection(lambda: cls(socket), str(socket))
        except (OSError, TimeoutError) as error:
            reason = "it accepts no connection" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise AgentAway(f"no agent answers at {socket}: {reason}") from error
        return connection

    async def call(self, body: Request, expected: type[T], within_s: float = ANSWER_WITHIN_S) -> T:
        """The answer to `body`. AgentRefused with the agent's reason; AgentAway when no answer comes."""
        if self._transport is None or self.lost.done():
            raise self._gone()
        self._last_id += 1
        call = Call(self._last_id, body)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[call.id] = answer
        self._transport.write(frame(call))
        try:
            async with asyncio.timeout(within_s):
                response = await answer
        except TimeoutError as error:
            raise AgentAway(f"the agent at {self.socket} did not answer within {within_s:g} s") from error
        finally:
            del self._waiting[call.id]
        if isinstance(response, Refused):
            raise AgentRefused(response.reason, retry=response.retry)
        if not isinstance(response, expected):
            raise AgentAway(f"the agent at {self.socket} answered {type(body).__name__} with another call's answer")
        return response

    async def close(self) -> None:
        """End it, and with it what it registered. Calls that were not answered yet end with AgentAway."""
        if self._transport is not None:
            self._transport.abort()
            await asyncio.shield(self.lost)

    # --- the loop's side --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._lines.feed(data)
        except FramingError:
            # An agent of another version, or not an agent: no answer to what is asked can be understood any more.
            assert self._transport is not None
            self._transport.abort()
            return
        for answer in answers:
            waiting = self._waiting.get(answer.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer.body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.lost.set_result(None)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._gone())

    def _gone(self) -> AgentAway:
        return AgentAway(f"the agent at {self.socket} closed the connection")
