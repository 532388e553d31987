"""A client of the control API that says anything and keeps all it hears: for tests of the agent."""

import asyncio
from pathlib import Path

import msgspec

from meshd.api.control import Answer, Call, Request, Response
from meshd.api.frames import frame
from tests.support.waiting import eventually


class ControlClient:
    """One connection. `heard` is every answer, by the call's id, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._last_id = 0
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="control client")
        self.heard: dict[int, list[Response]] = {}
        self.ended = False

    @classmethod
    async def connect(cls, socket: Path) -> "ControlClient":
        return cls(*await asyncio.open_unix_connection(socket, limit=32 << 20))

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                answer = msgspec.json.decode(line, type=Answer)
                self.heard.setdefault(answer.id, []).append(answer.body)
        except ConnectionError:
            pass
        self.ended = True

    def say(self, body: Request, call_id: int = 0) -> int:
        """Send a call; its id."""
        self._last_id += 1
        self.write(frame(Call(call_id or self._last_id, body)))
        return call_id or self._last_id

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def call(self, body: Request) -> Response:
        """The first answer to a call."""
        return await self.answer(self.say(body))

    async def answer(self, call_id: int, number: int = 1) -> Response:
        """The number-th answer to the call of that id."""
        heard = await eventually(
            lambda: self.heard.get(call_id, []) if len(self.heard.get(call_id, [])) >= number else None,
            f"answer {number} to call {call_id}",
        )
        assert heard is not None
        return heard[number - 1]

    async def closed(self) -> None:
        """Returns when the agent has closed the connection."""
        await eventually(lambda: self.ended, "the agent closes the connection")

    async def close(self) -> None:
        self._listening.cancel()
        self._writer.transport.abort()
        await asyncio.gather(self._listening, return_exceptions=True)
