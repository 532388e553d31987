"""A Consul that starts: until it has read its log it says what was so long ago, or nothing, which is not believed."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import msgspec
import pytest

from discovery.consul.client import Client
from discovery.consul.settings import ConsulDiscovery
from discovery.registry import Away
from meshd.ca.consul.client import Client as CaClient
from meshd.ca.source import Unreachable
from tests.support import consul
from tests.support.aio import run
from tests.support.consul import Consul
from tests.support.stores import consul_settings

pytestmark = pytest.mark.peer("consul")

DEADLINE_S = 110.0
RESTARTS = 4
WELL = 50
"""Answers in a row after which it has read its log."""


@pytest.fixture(scope="module")
def lasting() -> Iterator[Consul]:
    """One with enough on record to read for a while, and what is asked for here: half of it before that, half after."""
    with consul.lasting() as agent:
        agent.elsewhere("vm1", "192.0.2.1", "web", 80)
        agent.elsewhere("vm2", "192.0.2.2", "api", 81)
        agent.call("PUT", "kv/here/first", "x")
        noise = base64.b64encode(bytes(4096)).decode()
        for batch in range(64):
            puts = [{"KV": {"Verb": "set", "Key": f"noise/{batch}/{n}", "Value": noise}} for n in range(48)]
            agent.call("PUT", "txn", puts)
        agent.call("PUT", "txn", [{"KV": {"Verb": "set", "Key": "here/it", "Value": noise}}])
        agent.elsewhere("vm2", "192.0.2.2", "web", 80)
        agent.call("POST", "query", {"Name": "any-web", "Service": {"Service": "web"}})
        yield agent


@contextmanager
def restarted(agent: Consul) -> Iterator[None]:
    """Within, it is on its way."""
    agent.kill()
    with ThreadPoolExecutor(1) as thread:
        started = thread.submit(agent.start)
        yield
        started.result()


async def answers(ask: Callable[[], Awaitable[bool]]) -> list[bool]:
    """What it says from when it says anything."""
    heard: list[bool] = []
    while len(heard) < WELL:
        try:
            heard.append(await ask())
        except (Away, Unreachable):
            await asyncio.sleep(0.001)
    return heard


async def instances(client: Client) -> bool:
    body, _ = await client.instances("web")
    return len(json.loads(body)) == 2


async def documents(client: Client) -> bool:
    return len((await client.values("here/"))[0] or ()) == 2


async def query(client: Client) -> bool:
    found = await client.run_query("any-web")
    return found is not None and bool(found.nodes)


async def node(client: Client) -> bool:
    return bool(await client.nodes_at("192.0.2.1"))


async def at_address(client: Client) -> bool:
    found = await client.services_of("vm2", 80)
    return found is not None and bool(found.services)


def test_what_a_server_has_not_read_yet_is_not_believed(lasting: Consul) -> None:
    """Of seven questions, each restart has some that a server would answer with nothing, or with a part of it."""

    async def all_answers(ca: CaClient) -> Sequence[list[bool]]:
        client = Client(msgspec.convert({"url": lasting.url}, ConsulDiscovery))
        try:
            return await asyncio.gather(
                answers(lambda: instances(client)),
                answers(lambda: documents(client)),
                answers(lambda: query(client)),
                answers(lambda: node(client)),
                answers(lambda: at_address(client)),
                answers(lambda: asyncio.to_thread(lambda: bool(ca.read("it")))),
                answers(lambda: asyncio.to_thread(lambda: ca.get("it") is not None)),
            )
        finally:
            await client.close()

    for _ in range(RESTARTS):
        with closing(CaClient(consul_settings(lasting, "here"))) as ca, restarted(lasting):
            assert list(run(all_answers(ca), DEADLINE_S)) == [[True] * WELL] * 7
