"""Who calls, as the agent said: what is remembered, for how long, and what it is when nobody says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from meshd.api.control import Caller
from meshd.api.names import Address, WorkloadName
from meshd.api.tasks import Tasks
from proxy.capture import callers as module
from proxy.capture.callers import AWAY_S, FRESH_S, MAX_ASKED, UNKNOWN_S, Callers, Unanswered
from proxy.capture.diag import Process
from tests.support import aio

WEB = WorkloadName("default", "web")
SOMEBODY = Process(4711, 1000)


class Agent:
    """Says `answer`, or raises it; `asked` is of whom, in order. Waits where `held`."""

    def __init__(self, answer: Caller | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int]] = []
        self.now = 0.0
        self.held: asyncio.Event | None = None
        self.back_at = 0.0

    async def identify(self, cgroup: int, uid: int) -> Caller:
        self.asked.append((cgroup, uid))
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def source(self, here: Address, peer: Address) -> int:
        if self.now < self.back_at:
            self.now += 1
            raise Unanswered("no agent answers")
        return {4711: 4712, 1: 1}.get(peer.port, 0)


def talk(agent: Agent, conversation: Callable[[Callers], Awaitable[None]]) -> None:
    async def main() -> None:
        tasks = Tasks("test")
        await conversation(Callers(agent, tasks, lambda: agent.now))
        await tasks.cancel()

    aio.run(main())


def test_the_agent_is_asked_once_for_a_group_and_user() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        for _ in range(3):
            assert await callers.workload(SOMEBODY) == WEB
        assert await callers.workload(Process(4711, 0)) == WEB

    talk(agent, conversation)
    assert agent.asked == [(4711, 1000), (4711, 0)]


def test_many_that_ask_at_once_are_one_question() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        found = await asyncio.gather(*(callers.workload(SOMEBODY) for _ in range(50)))
        assert found == [WEB] * 50

    talk(agent, conversation)
    assert agent.asked == [(4711, 1000)]


def test_what_is_known_is_asked_again_while_it_serves() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        assert await callers.workload(SOMEBODY) == WEB
        agent.now += FRESH_S
        agent.answer = Caller("default/api")
        agent.held = asyncio.Event()
        assert await callers.workload(SOMEBODY) == WEB  # and waits for nobody
        await asyncio.sleep(0)
        assert len(agent.asked) == 2
        agent.held.set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert await callers.workload(SOMEBODY) == WorkloadName("default", "api")

    talk(agent, conversation)


def test_nobody_is_nobody_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(Caller("", "no document selects it"))

    async def conversation(callers: Callers) -> None:
        assert await callers.workload(SOMEBODY) is None
        assert await callers.workload(SOMEBODY) is None
        assert len(agent.asked) == 1
        agent.now += UNKNOWN_S
        agent.answer = Caller("default/web")
        assert await callers.workload(SOMEBODY) == WEB
        assert len(agent.asked) == 2

    with caplog.at_level(logging.WARNING):
        talk(agent, conversation)
    assert [record.message for record in caplog.records] == [
        "a caller is no workload of this host: no document selects it"
    ]


def test_a_workload_that_is_none_any_more_is_nobody() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        assert await callers.workload(SOMEBODY) == WEB
        agent.now += FRESH_S
        agent.answer = Caller("", "no document selects it")
        await callers.workload(SOMEBODY)
        for _ in range(3):
            await asyncio.sleep(0)
        assert await callers.workload(SOMEBODY) is None

    talk(agent, conversation)


def test_while_the_agent_is_away_what_is_known_stays_so() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        assert await callers.workload(SOMEBODY) == WEB
        agent.answer = Unanswered("no agent answers")
        for _ in range(5):
            agent.now += FRESH_S
            assert await callers.workload(SOMEBODY) == WEB
            await asyncio.sleep(0)
        assert await callers.workload(Process(1, 0)) is None

    talk(agent, conversation)


def test_a_name_that_is_none_is_nobody() -> None:
    async def conversation(callers: Callers) -> None:
        assert await callers.workload(SOMEBODY) is None

    talk(Agent(Caller("not a name")), conversation)


def test_what_is_remembered_and_asked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 2)
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        for cgroup in (1, 2, 1, 3):
            await callers.workload(Process(cgroup, 0))
        assert len(agent.asked) == 3
        await callers.workload(Process(1, 0))  # which called later than 2
        assert len(agent.asked) == 3
        await callers.workload(Process(2, 0))
        assert len(agent.asked) == 4
        agent.held = asyncio.Event()
        tasks = Tasks("waiting")
        waiting = [tasks.start(callers.workload(Process(100 + each, 0)), str(each)) for each in range(MAX_ASKED)]
        await asyncio.sleep(0)
        assert await callers.workload(Process(99, 0)) is None
        agent.held.set()
        await asyncio.gather(*waiting)

    talk(agent, conversation)


def test_one_who_leaves_ends_the_question_for_nobody_else() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        agent.held = asyncio.Event()
        tasks = Tasks("waiting")
        leaves = tasks.start(callers.workload(SOMEBODY), "leaves")
        stays = tasks.start(callers.workload(SOMEBODY), "stays")
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.sleep(0)
        agent.held.set()
        assert await stays == WEB

    talk(agent, conversation)


def test_a_port_that_is_another_is_asked_for() -> None:
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        here = Address("127.0.0.1", 4140)
        assert await callers.source(here, Address("192.0.2.1", 4711)) == Address("192.0.2.1", 4712)
        assert await callers.source(here, Address("192.0.2.1", 1)) is None  # it was that one
        assert await callers.source(here, Address("192.0.2.1", 2)) is None  # nobody knows

    talk(agent, conversation)


def test_a_port_that_is_another_is_asked_for_again_while_the_agent_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    agent = Agent(Caller("default/web"))

    async def conversation(callers: Callers) -> None:
        here, peer = Address("127.0.0.1", 4140), Address("192.0.2.1", 4711)
        agent.back_at = AWAY_S - 1
        assert await callers.source(here, peer) == Address("192.0.2.1", 4712)
        agent.back_at = agent.now + 2 * AWAY_S
        assert await callers.source(here, peer) is None

    talk(agent, conversation)
    assert agent.now < 3 * AWAY_S
