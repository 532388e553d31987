"""This host's workloads in a real Consul: registered, kept up, lost and found, beside what others registered."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from discovery.backends import Place
from discovery.consul.client import Client
from discovery.consul.names import Key
from discovery.consul.publisher import Publisher
from discovery.consul.registry import ConsulRegistry, PublishingConsulRegistry
from discovery.consul.settings import ConsulDiscovery, ConsulService
from discovery.publish import Announcement
from discovery.publish import Publisher as Takes
from meshd.api.endpoints import Endpoint, ServiceName
from tests.support import consul
from tests.support.aio import run
from tests.support.consul import Consul
from tests.support.reading import reading
from tests.support.waiting import eventually

pytestmark = pytest.mark.peer("consul")

WITHIN_S = 45.0

DEADLINE_S = 110.0
"""Of a test; a busy machine takes its time."""


@pytest.fixture(scope="module")
def here() -> Iterator[Consul]:
    with consul.agent() as agent:
        yield agent


def identity(name: str, namespace: str = "default") -> str:
    return f"spiffe://mesh.example/ns/{namespace}/sa/{name}"


def announced(
    name: str, port: int = 8080, namespace: str = "default", *, healthy: bool = True, **endpoint: Any
) -> Announcement:
    return Announcement(
        ServiceName(name, namespace, port),
        Endpoint("192.0.2.7", port, identity(name, namespace), **{"inbound_port": 4143, **endpoint}),
        healthy,
        "" if healthy else "waits for certificate",
    )


@asynccontextmanager
async def publisher(agent: Consul, node: str = "vm1", ttl_s: float = 30.0) -> AsyncIterator[Publisher]:
    """One that looks after what it published all the time."""
    client = Client(ConsulDiscovery(url=agent.url))
    opened = Publisher(client, node, {}, every_s=0.1, ttl_s=ttl_s)
    try:
        yield opened
    finally:
        await opened.end()
        await client.close()


def ids(agent: Consul, name: str) -> dict[str, str]:
    """The registrations of a service that the agent has, and how they are."""
    checks = agent.call("GET", "agent/checks").values()
    status = {check["ServiceID"]: check["Status"] for check in checks}
    services = agent.call("GET", "agent/services").values()
    return {each["ID"]: status.get(each["ID"], "") for each in services if each["Service"] == name}


async def until(agent: Consul, name: str, **wanted: str) -> None:
    """Until those are the registrations; their ids are given without what all have."""
    expected = {f"meshd-vm1.{key.replace('_', '.')}": status for key, status in wanted.items()}
    await eventually(lambda: ids(agent, name) == expected, f"{name}: {expected}", WITHIN_S)


def test_what_is_published_is_found_by_other_hosts_as_it_is(here: Consul) -> None:
    labels = {"version": "2", "not a key": "x", "meshd-identity": identity("other")}

    async def main() -> None:
        registry = ConsulRegistry(ConsulDiscovery(url=here.url), Place("consul", "mesh.example", "vm2", ""))
        async with publisher(here) as opened, reading(registry, Key("mesh", "found", "shop")) as read:
            opened.publish(
                [
                    announced("found", 8080, "shop", protocol="http1", weight=3, zone="a", labels=labels),
                    announced("found", 9090, "shop"),
                ]
            )
            said = await read.until(("192.0.2.7", 8080))
            web = identity("found", "shop")
            assert said.endpoints == (Endpoint("192.0.2.7", 8080, web, 4143, "http1", 3, "a", {"version": "2"}),)
            async with reading(registry, Key("mesh", "found", "shop", port=9090)) as other:
                assert (await other.until(("192.0.2.7", 9090))).endpoints[0].identity == web
            opened.publish([announced("found", 8080, "shop", healthy=False)])
            await read.until()
            assert ids(here, "found") == {"meshd-vm1.shop.found.8080.4143": "critical"}
            output = here.call("GET", "health/checks/found")[0]["Output"]
            assert output == "waits for certificate"
            await opened.withdraw()
            assert ids(here, "found") == {}
            while await read.again() is not None:
                pass
        await registry.close()

    run(main(), DEADLINE_S)


def test_no_two_workloads_have_the_same_id(here: Consul) -> None:
    async def main() -> None:
        async with publisher(here) as opened:
            opened.publish([announced("c", 8080, "a-b"), announced("c", 8080, "a"), announced("b-c", 8080, "a")])
            await until(here, "c", **{"a-b_c_8080_4143": "passing", "a_c_8080_4143": "passing"})
            await until(here, "b-c", **{"a_b-c_8080_4143": "passing"})
            opened.publish([announced("c", 8080, "a", inbound_port=4143), announced("c", 8080, "a", inbound_port=4150)])
            await until(here, "c", a_c_8080_4143="passing", a_c_8080_4150="passing")
            await until(here, "b-c")
            await opened.withdraw()
            await until(here, "c")

    run(main(), DEADLINE_S)


def test_what_consul_lost_is_registered_again() -> None:
    async def main() -> None:
        with consul.agent() as agent:
            async with publisher(agent) as opened:
                opened.publish([announced("web"), announced("api", 8081, healthy=False)])
                await until(agent, "web", default_web_8080_4143="passing")
                agent.kill()
                await eventually(lambda: opened.trouble, "it is seen that Consul is away", WITHIN_S)
                assert agent.url in opened.trouble
                agent.start()
                agent.wait_until_led()
                await until(agent, "web", default_web_8080_4143="passing")
                await until(agent, "api", default_api_8081_4143="critical")
                await eventually(lambda: not opened.trouble, "it is seen that Consul is back", WITHIN_S)
                # Somebody takes away the whole of one, or its check, or changes it.
                agent.deregister("meshd-vm1.default.api.8081.4143")
                agent.call("PUT", "agent/check/deregister/service:meshd-vm1.default.web.8080.4143")
                await until(agent, "web", default_web_8080_4143="passing")
                await until(agent, "api", default_api_8081_4143="critical")
                mine = {"meshd-node": "vm1"}
                agent.register("web", 9999, "192.0.2.66", "meshd-vm1.default.web.8080.4143", Meta=mine)
                await eventually(
                    lambda: agent.call("GET", "agent/services")["meshd-vm1.default.web.8080.4143"]["Port"] == 8080,
                    "what was changed is as it was",
                    WITHIN_S,
                )

    run(main(), DEADLINE_S)


def test_what_an_agent_that_was_killed_left_is_found_by_its_next_life(here: Consul) -> None:
    async def main() -> None:
        async with publisher(here) as killed:
            killed.publish([announced("left", 8080), announced("left", 8081)])
            await until(here, "left", default_left_8080_4143="passing", default_left_8081_4143="passing")
        async with publisher(here) as next_life:
            next_life.publish([announced("left", 8081)])
            await until(here, "left", default_left_8081_4143="passing")
            await next_life.withdraw()

    run(main(), DEADLINE_S)


def test_what_is_not_kept_up_is_critical_before_long(here: Consul) -> None:
    async def main() -> None:
        async with publisher(here, ttl_s=3.0) as opened:
            opened.publish([announced("silent")])
            await until(here, "silent", default_silent_8080_4143="passing")
        await until(here, "silent", default_silent_8080_4143="critical")

    run(main(), DEADLINE_S)


def test_others_registrations_are_left_alone(here: Consul, caplog: pytest.LogCaptureFixture) -> None:
    alike = "meshd-vm1.default.taken.8080.4143"

    async def main() -> None:
        here.register("taken", 8080, "192.0.2.66", alike)
        here.register("taken", 8080, "192.0.2.66", "meshd-vm1.default.taken.9.9", Meta={"meshd-node": "vm10"})
        async with publisher(here, "vm10") as other:
            other.publish([announced("taken", 8082)])
            async with publisher(here) as opened:
                opened.publish([announced("taken"), announced("taken", 8081)])
                await eventually(lambda: "meshd-vm1.default.taken.8081.4143" in ids(here, "taken"), "it", WITHIN_S)
                await eventually(lambda: "is registered by somebody else" in caplog.text, "a complaint", WITHIN_S)
                await opened.withdraw()
            assert ids(here, "taken") == {
                alike: "passing",
                "meshd-vm1.default.taken.9.9": "passing",
                "meshd-vm10.default.taken.8082.4143": "passing",
            }
            assert here.call("GET", "agent/services")[alike]["Address"] == "192.0.2.66"

    run(main(), DEADLINE_S)


def test_beside_the_applications_own_registration_the_place_is_meshed_and_stays_so(here: Consul) -> None:
    """Also when the agent stops: callers would be sent there in plain text until it is back."""
    here.register("both-prod", 8080, "192.0.2.7", "app")
    meshed = Endpoint("192.0.2.7", 8080, identity("both"), 4143)
    mapped = {"both": ConsulService(service="both-prod")}
    settings = ConsulDiscovery(url=here.url, services=mapped)

    async def main() -> None:
        registry = PublishingConsulRegistry(settings, Place("consul", "mesh.example", "vm1", ""))
        assert isinstance(registry, Takes)
        async with reading(registry, Key("mesh", "both", "default")) as read:
            assert (await read.until(("192.0.2.7", 8080))).endpoints[0].identity == ""
            registry.publish((announced("both"),))
            await eventually(lambda: read.latest and read.latest.endpoints == (meshed,), "it is meshed", WITHIN_S)
            assert registry.trouble == ""
            here.check("app", "critical")
            await read.until()
            here.check("app", "passing")
            await read.until(("192.0.2.7", 8080))
            count = len(read.said)
            await registry.withdraw()
            await read.until()
            assert ids(here, "both-prod") == {"app": "passing", "meshd-vm1.default.both.8080.4143": "critical"}
            assert all(each.identity for said in read.said[count:] if said for each in said.endpoints)
        await registry.close()

    run(main(), DEADLINE_S)


def test_without_the_right_to_write_it_is_said_what_is_missing() -> None:
    async def main() -> None:
        with consul.with_acl() as agent:
            token = consul.token_for(agent, 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
            file = agent.home / "token"
            file.write_text(token)
            settings = ConsulDiscovery(url=agent.url, token_file=str(file))
            registry = PublishingConsulRegistry(settings, Place("east", "mesh.example", "vm1", ""))
            registry.publish((announced("web"),))
            await eventually(lambda: registry.trouble, "the trouble", WITHIN_S)
            assert "east: this host's workloads cannot be registered" in registry.trouble
            assert "Permission denied" in registry.trouble
            assert token not in registry.trouble
            await registry.withdraw()
            await registry.close()

    run(main(), DEADLINE_S)


def test_what_is_refused_of_one_workload_keeps_no_other_from_being_kept_up() -> None:
    async def main() -> None:
        with consul.with_acl() as agent:
            token = consul.token_for(
                agent,
                'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } '
                'service "web" { policy = "write" }',
            )
            file = agent.home / "token"
            file.write_text(token)
            client = Client(ConsulDiscovery(url=agent.url, token_file=str(file)))
            taking = Publisher(client, "vm1", {}, every_s=0.1)
            try:
                taking.publish((announced("api"), announced("web", healthy=False)))
                await until(agent, "web", default_web_8080_4143="critical")
                taking.publish((announced("api"), announced("web")))
                await until(agent, "web", default_web_8080_4143="passing")
                await eventually(lambda: "Permission denied" in taking.trouble, "the trouble with api", WITHIN_S)
                assert ids(agent, "api") == {}
            finally:
                await taking.withdraw()
                await client.close()
            assert ids(agent, "web") == {}

    run(main(), DEADLINE_S)
