"""What a control connection does with a peer that reads slowly, or not at all."""

import asyncio
import socket
from functools import partial

import msgspec

from meshd.agent.connection import MAX_WAITING_ANSWERS, Connection, Session
from meshd.agent.peer import Peer
from meshd.api.control import Answer, Call, Certificate, GetStatus, Refused
from meshd.api.frames import frame
from tests.support import aio
from tests.support.waiting import eventually

LONG = "x" * 20_000


def numbered(number: int) -> Certificate:
    """An answer that fills buffers, and can be told from others."""
    return Certificate(LONG, 0.0, float(number))


class Echo:
    """A session that answers every call with a long answer."""

    def __init__(self, connection: Connection[Peer]) -> None:
        self.connection = connection
        self.handled = 0
        self.is_closed = False

    def handle(self, call: Call) -> None:
        self.handled += 1
        self.connection.answer(call.id, numbered(call.id))

    def closed(self) -> None:
        self.is_closed = True


class Peered:
    """A connection whose other end is held by the test, which reads when it likes."""

    def __init__(self) -> None:
        self.sessions: list[Echo] = []
        self.ended: list[Connection[Peer]] = []

    async def start(self, *, full: bool = False, stall_s: float = 30.0) -> Connection[Peer]:
        def accept(connection: Connection[Peer], peer: Peer) -> Session | Refused:
            self.sessions.append(Echo(connection))
            return Refused("too many", retry=True) if full else self.sessions[0]

        ours, theirs = socket.socketpair()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=theirs)
        _, connection = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(Peer.at, accept, self.ended.append, stall_s), ours
        )
        return connection

    def calls(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self._writer.write(frame(Call(number, GetStatus())))

    async def reads(self, count: int) -> list[Answer]:
        """The next `count` answers."""
        return [msgspec.json.decode(await self._reader.readline(), type=Answer) for _ in range(count)]

    async def close(self) -> None:
        self._writer.transport.abort()
        await eventually(lambda: self.ended, "the connection ends")


def test_answers_arrive_in_order_however_slowly_they_are_read() -> None:
    async def main() -> None:
        peer = Peered()
        await peer.start()
        peer.calls(1, 1000)
        (session,) = peer.sessions
        await eventually(lambda: session.handled >= MAX_WAITING_ANSWERS, "the bound is reached")
        assert session.handled < 2 * MAX_WAITING_ANSWERS
        assert [answer.id for answer in await peer.reads(1000)] == list(range(1, 1001))
        assert session.handled == 1000
        await peer.close()

    aio.run(main())


def test_of_a_watch_that_is_not_read_only_the_newest_answer_is_kept() -> None:
    async def main() -> None:
        peer = Peered()
        connection = await peer.start()
        for number in range(100):
            connection.update(1, partial(numbered, number))
            connection.update(2, partial(numbered, number))
        connection.answer(3, numbered(3))
        connection.forget(2)
        heard: list[Answer] = []
        while not heard or heard[-1] != Answer(1, numbered(99)):
            heard += await peer.reads(1)
        assert len(heard) < 50
        assert heard[-2].id == 3
        connection.update(1, lambda: numbered(100))
        assert await peer.reads(1) == [Answer(1, numbered(100))]
        await peer.close()

    aio.run(main())


def test_a_peer_that_never_reads_is_cut_off() -> None:
    async def main() -> None:
        peer = Peered()
        connection = await peer.start(stall_s=0.05)
        for number in range(100):
            connection.answer(number, numbered(number))
        await eventually(lambda: peer.ended == [connection], "the connection is cut off")
        assert peer.sessions[0].is_closed
        connection.answer(1, numbered(1))  # comes to nothing
        await peer.close()

    aio.run(main())


def test_one_connection_too_many_is_told_so() -> None:
    async def main() -> None:
        peer = Peered()
        connection = await peer.start(full=True)
        (answer,) = await peer.reads(1)
        assert isinstance(answer.body, Refused)
        assert answer.body.retry
        await eventually(lambda: peer.ended == [connection], "the connection ends")
        await peer.close()

    aio.run(main())
