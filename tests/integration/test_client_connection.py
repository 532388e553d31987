"""A connection to the agent, against a peer on a real socket that says what an agent may, and what it may not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshd.api.control import Answer, Call, Done, GetStatus, Refused, Registered, Response, WithdrawWorkload
from meshd.api.frames import LineReader, frame
from meshd.client.connection import AgentAway, AgentRefused, ControlConnection
from tests.support import aio

Answers = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def agent(path: Path, answers: Answers) -> AsyncIterator[ControlConnection]:
    """A peer at `path` that hands each call to `answers`, and a connection to it."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = LineReader(Call)
        while data := await reader.read(65536):
            for call in lines.feed(data):
                await answers(call, writer)
        writer.close()

    server = await asyncio.start_unix_server(converse, str(path))
    async with server:
        connection = await ControlConnection.connect(path)
        try:
            yield connection
        finally:
            await connection.close()


def answering(body: Response) -> Answers:
    async def answer(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(Answer(call.id, body)))

    return answer


async def silent(call: Call, writer: asyncio.StreamWriter) -> None:
    """An agent that hangs."""


async def closing(call: Call, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def babbling(call: Call, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_call_is_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with agent(tmp_path / "s", answering(Done())) as connection:
            assert await connection.call(WithdrawWorkload(), Done) == Done()

    aio.run(work())


def test_answers_find_their_calls_in_any_order(tmp_path: Path) -> None:
    kept: list[Call] = []

    async def backwards(call: Call, writer: asyncio.StreamWriter) -> None:
        kept.append(call)
        if len(kept) == 3:
            for each in reversed(kept):
                writer.write(frame(Answer(each.id, Registered(f"spiffe://a/ns/default/sa/w{each.id}"))))

    async def work() -> None:
        async with agent(tmp_path / "s", backwards) as connection:
            calls = [connection.call(WithdrawWorkload(), Registered) for _ in range(3)]
            found = await asyncio.gather(*calls)
            assert [each.identity[-1] for each in found] == ["1", "2", "3"]

    aio.run(work())


def test_a_refusal_is_the_agents_reason(tmp_path: Path) -> None:
    async def work() -> None:
        async with agent(tmp_path / "s", answering(Refused("not for you", retry=True))) as connection:
            with pytest.raises(AgentRefused, match=r"^not for you$") as raised:
                await connection.call(GetStatus(), Done)
            assert raised.value.retry

    aio.run(work())


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (silent, r"did not answer within 0\.05 s"),
        (closing, "closed the connection"),
        (babbling, "closed the connection"),
        (answering(Registered("spiffe://a/ns/b/sa/c")), "answered WithdrawWorkload with another call's answer"),
    ],
)
def test_an_agent_that_does_not_answer_as_it_should_is_away(tmp_path: Path, answers: Answers, message: str) -> None:
    async def work() -> None:
        async with agent(tmp_path / "s", answers) as connection:
            with pytest.raises(AgentAway, match=message):
                await connection.call(WithdrawWorkload(), Done, within_s=0.05 if answers is silent else 60.0)

    aio.run(work())


def test_a_lost_connection_is_noticed_and_good_for_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with agent(tmp_path / "s", closing) as connection:
            assert not connection.lost.done()
            with pytest.raises(AgentAway):
                await connection.call(WithdrawWorkload(), Done)
            await connection.lost
            with pytest.raises(AgentAway, match="closed the connection"):
                await connection.call(WithdrawWorkload(), Done)

    aio.run(work())


def test_no_agent_is_away_and_named(tmp_path: Path) -> None:
    with pytest.raises(AgentAway, match=rf"no agent answers at {tmp_path}/none: No such file"):
        aio.run(ControlConnection.connect(tmp_path / "none"))
