"""The workload's entry in a real agent, which comes and goes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshd.agent.agent import Agent
from meshd.api.control import GetStatus, RegisterWorkload, Status, WorkloadStatus
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.problems import Problem
from meshd.client.connection import ControlConnection
from meshd.run.agents import HostAgent
from meshd.run.registration import Registration
from tests.support import aio
from tests.support.agents import local_agent
from tests.support.waiting import eventually

WEB = RegisterWorkload(
    "0" * 32, "default", "web", (WorkloadPort(8080),), (), "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", 7, ("command",)
)


async def known(socket: Path) -> tuple[WorkloadStatus, ...]:
    connection = await ControlConnection.connect(socket)
    try:
        return (await connection.call(GetStatus(), Status)).workloads
    finally:
        await connection.close()


def test_an_entry_is_made_changed_withdrawn_and_ended(tmp_path: Path) -> None:
    async def work() -> None:
        socket = tmp_path / "meshd.sock"
        async with local_agent(tmp_path):
            registration = Registration(HostAgent(socket), WEB)
            assert await registration.start() == "spiffe://mesh.local/ns/default/sa/web"
            (made,) = await known(socket)
            assert (made.pid, made.ports, made.waiting_for[0]) == (7, (8080,), "command")
            await registration.change(pid=8, waiting_for=())
            (changed,) = await known(socket)
            assert changed.pid == 8
            assert "command" not in changed.waiting_for
            await registration.withdraw()
            assert (await known(socket))[0].waiting_for == ("withdrawn",)
            await registration.close()
            assert await known(socket) == ()

    aio.run(work())


def test_it_comes_back_with_its_agent_as_it_was_changed_meanwhile(tmp_path: Path) -> None:
    async def work() -> None:
        first, second = tmp_path / "1", tmp_path / "2"
        link = tmp_path / "now"
        first.mkdir()
        second.mkdir()
        link.symlink_to(first)
        socket = link / "meshd.sock"
        registration = Registration(HostAgent(socket), WEB)
        async with local_agent(first):
            await registration.start()
        await registration.change(pid=9)
        link.unlink()
        link.symlink_to(second)
        async with local_agent(second) as agent:
            await eventually(registered(agent), "it is registered again")
            assert [each.pid for each in await known(socket)] == [9]
            await registration.close()

    aio.run(work())


def registered(agent: Agent) -> Callable[[], bool]:
    return lambda: agent.registry.registered > 0


def test_what_the_agent_does_not_take_is_its_reason(tmp_path: Path) -> None:
    async def work() -> None:
        async with local_agent(tmp_path):
            upstream = Upstream("not a name", "127.0.0.1:9")
            odd = RegisterWorkload("0" * 32, "default", "web", (), (upstream,), "", "127.0.0.1:2", "", 7)
            registration = Registration(HostAgent(tmp_path / "meshd.sock"), odd)
            with pytest.raises(Problem, match=r"meshd.sock does not take default/web: .*not a name"):
                await registration.start()
            await registration.close()

    aio.run(work())
