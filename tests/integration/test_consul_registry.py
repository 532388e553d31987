"""Services of a real Consul, followed: what is registered, well, gone, and in another datacenter."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from discovery.backends import Place
from discovery.consul import index
from discovery.consul import registry as consul_registry
from discovery.consul.names import Key
from discovery.consul.registry import ConsulRegistry
from discovery.consul.settings import ConsulDiscovery
from discovery.registry import Away, Denied, Located
from meshd.api.endpoints import Endpoint
from tests.support import consul
from tests.support.aio import run
from tests.support.certificates import Root, write
from tests.support.consul import Consul
from tests.support.reading import WITHIN_S, reading
from tests.support.waiting import eventually

pytestmark = pytest.mark.peer("consul")

DEADLINE_S = 110.0
"""Of a test; a busy machine takes its time."""

WEB = "spiffe://mesh.example/ns/default/sa/web"


@pytest.fixture(scope="module")
def here() -> Iterator[Consul]:
    with consul.agent() as agent:
        yield agent


@asynccontextmanager
async def registry(agent: Consul, **settings: Any) -> AsyncIterator[ConsulRegistry]:
    given = msgspec.convert({"url": agent.url, **settings}, ConsulDiscovery)
    opened = ConsulRegistry(given, Place("consul", "mesh.example", "vm1", ""))
    try:
        yield opened
    finally:
        await opened.close()


async def probed_away(opened: ConsulRegistry, word: str) -> None:
    """Probe it until it is away, for that reason."""
    async with asyncio.timeout(60.0):
        while True:
            try:
                await opened.probe()
            except Away as error:
                if word in str(error):
                    return
            await asyncio.sleep(0.1)


def mesh(name: str, namespace: str = "default", port: int = 0) -> Key:
    return Key("mesh", name, namespace, port=port)


def test_a_service_is_followed_as_it_comes_changes_and_goes(here: Consul) -> None:
    async def main() -> None:
        async with registry(here) as opened, reading(opened, mesh("follow")) as read:
            assert await read.again() is None
            first = here.register("follow", 8080, "192.0.2.1")
            await read.until(("192.0.2.1", 8080))
            second = here.register("follow", 8081, "192.0.2.2", Meta={"meshd-identity": WEB, "meshd-zone": "b"})
            said = await read.until(("192.0.2.1", 8080), ("192.0.2.2", 8081))
            assert said.endpoints[1] == Endpoint("192.0.2.2", 8081, WEB, 4143, zone="b")
            here.check(first, "critical")
            await read.until(("192.0.2.2", 8081))
            here.check(first, "warning")
            here.check(second, "critical")
            await read.until()
            here.deregister(first)
            here.deregister(second)
            while await read.again() is not None:
                pass
            assert read.aways == []

    run(main(), DEADLINE_S)


def test_what_is_registered_elsewhere_has_its_nodes_address_and_meta(here: Consul) -> None:
    here.elsewhere("vm9", "192.0.2.9", "catalogue", 8080, NodeMeta={"meshd-zone": "c"}, Weights={"Passing": 4})

    async def main() -> None:
        async with registry(here) as opened, reading(opened, mesh("catalogue")) as read:
            said = await read.until(("192.0.2.9", 8080))
            assert said.endpoints == (Endpoint("192.0.2.9", 8080, weight=4, zone="c"),)
            assert str(said.service) == "catalogue.default:8080"

    run(main(), DEADLINE_S)


def test_consuls_own_names_lead_to_the_whole_service_and_to_tags(here: Consul) -> None:
    here.register("tagged", 8080, "192.0.2.1", Tags=["V1"])
    here.register("tagged", 8080, "192.0.2.2", Tags=["v2"], Meta={"meshd-namespace": "shop"})

    async def main() -> None:
        async with registry(here) as opened:
            for key, hosts in (
                (Key("service", "tagged"), "12"), (Key("service", "tagged", tag="v1"), "1"),
                (Key("service", "tagged", tag="v2", datacenter="dc1"), "2"), (mesh("tagged"), "1"),
                (mesh("tagged", "shop"), "2"),
            ):  # fmt: skip
                async with reading(opened, key) as read:
                    await read.until(*((f"192.0.2.{host}", 8080) for host in hosts))

    run(main(), DEADLINE_S)


def test_a_name_may_stand_for_another_service_with_tags_and_meta_and_warnings(here: Consul) -> None:
    here.register("web-prod", 8080, "192.0.2.1", Tags=["v2"], Meta={"env": "prod"})
    here.register("web-prod", 8080, "192.0.2.2", Tags=["v2"], Meta={"env": "prod"}, status="warning")
    here.register("web-prod", 8080, "192.0.2.3", Tags=["v1"], Meta={"env": "prod"})
    here.register("web-prod", 8080, "192.0.2.4", Tags=["v2"], Meta={"env": "test"})
    mapped = {"service": "web-prod", "tags": ["v2"], "meta": {"env": "prod"}, "onlyPassing": False}

    async def main() -> None:
        async with registry(here, services={"web.shop": mapped}) as opened:
            async with reading(opened, mesh("web", "shop")) as read:
                said = await read.until(("192.0.2.1", 8080), ("192.0.2.2", 8080))
                assert str(said.service) == "web.shop:8080"
            async with reading(opened, mesh("web")) as read:
                assert await read.again() is None

    run(main(), DEADLINE_S)


def test_prepared_queries_are_run_again_and_again(here: Consul, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_registry, "POLL_S", 0.5)
    well = here.register("asked", 8080, "192.0.2.1")
    here.register("asked", 8080, "192.0.2.2", Tags=["v2"])
    # Another of the same place, and unwell: the query leaves it out, and with it that the place is meshed.
    here.register("asked", 8080, "192.0.2.3", "asked-plain")
    here.register("asked", 8080, "192.0.2.3", "asked-meshed", "critical", Meta={"meshd-identity": WEB})

    async def main() -> None:
        async with registry(here) as opened, reading(opened, Key("query", "nearest")) as read:
            assert await read.again() is None
            here.call("POST", "query", {"Name": "nearest", "Service": {"Service": "asked"}})
            said = await read.until(("192.0.2.1", 8080), ("192.0.2.2", 8080))
            assert str(said.service) == "nearest.default:8080"
            here.call("POST", "query", {"Name": "newest", "Service": {"Service": "asked", "Tags": ["v2"]}})
            async with reading(opened, Key("query", "newest")) as newest:
                await newest.until(("192.0.2.2", 8080))
            here.check(well, "critical")
            await read.until(("192.0.2.2", 8080))

    run(main(), DEADLINE_S)


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (11, 6)])
def test_identities_of_another_mesh_are_left_out_and_said_once(
    here: Consul, caplog: pytest.LogCaptureFixture, count: int, lines: int
) -> None:
    name = f"foreign-{count}"
    for number in range(count):
        here.register(
            name, 9000 + number, "192.0.2.1", Meta={"meshd-identity": "spiffe://other.example/ns/default/sa/web"}
        )

    async def main() -> None:
        async with registry(here) as opened, reading(opened, mesh(name)) as read:
            await read.until()
            here.register(name, 8080, "192.0.2.2", Meta={"meshd-identity": WEB})
            await read.until(("192.0.2.2", 8080))

    run(main(), DEADLINE_S)
    said = [each.getMessage() for each in caplog.records if each.name == "discovery.consul.registry"]
    assert len(said) == lines
    assert "is not in the trust domain mesh.example: it is left out" in said[0]
    assert said[-1].endswith("left out" if count == 1 else "and 6 more of these")


def test_an_address_leads_to_its_service_by_its_node_or_by_looking_through_all(here: Consul) -> None:
    here.elsewhere("vm5", "192.0.2.5", "on-node", 8080)
    here.elsewhere("vm5", "192.0.2.5", "on-node-in-shop", 8081, Meta={"meshd-namespace": "shop"}, status="critical")
    here.elsewhere("vm5", "192.0.2.5", "in-container", 8080, Address="192.0.2.55")
    here.register("located", 8090, "192.0.2.6")
    here.register("Located_Too", 8091, "192.0.2.6")

    async def main() -> None:
        async with registry(here, services={"mine": {"service": "located"}}) as opened:
            for address, port, key in (
                ("192.0.2.5", 8080, mesh("on-node", port=8080)),
                ("192.0.2.5", 8081, mesh("on-node-in-shop", "shop", 8081)),
                ("192.0.2.5", 8082, None),
                ("192.0.2.55", 8080, mesh("in-container", port=8080)),
                ("192.0.2.6", 8090, mesh("mine", port=8090)),
                ("192.0.2.6", 8091, Key("service", "Located_Too", port=8091)),
                ("192.0.2.77", 8080, None),
            ):
                assert await opened.locate(address, port) == (None if key is None else Located(key))

    run(main(), DEADLINE_S)


def test_an_agent_that_is_killed_is_away_until_it_is_back_with_what_it_knows_then() -> None:
    async def main() -> None:
        with consul.agent() as agent:
            for number in range(20):  # so that indexes are high, and go backwards when it begins anew
                agent.call("PUT", f"kv/{number}", "x")
            agent.register("web", 8080, "192.0.2.1")
            async with registry(agent) as opened, reading(opened, mesh("web")) as read:
                await read.until(("192.0.2.1", 8080))
                agent.kill()
                await read.until_away(agent.url)
                with pytest.raises(Away, match="Connect"):
                    await opened.probe()
                agent.start()
                agent.wait_until_led()
                await read.again()
                assert read.latest is None
                agent.register("web", 8081, "192.0.2.2")
                await read.until(("192.0.2.2", 8081))
                await opened.probe()

    run(main(), DEADLINE_S)


def test_an_index_that_goes_backwards_while_it_is_waited_for_loses_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a snapshot is restored: the connection stays, and what was to be passed will not be for long. A query
    that is made only then is held for all of its time."""
    monkeypatch.setattr(index, "MOST_WAIT_S", 3.0)

    async def main() -> None:
        with consul.agent() as agent:
            agent.register("web", 8080, "192.0.2.1")
            snapshot = agent.snapshot()
            for number in range(50):
                agent.call("PUT", f"kv/{number}", "x")
            agent.elsewhere("vm2", "192.0.2.2", "web", 8081)
            async with registry(agent) as opened, reading(opened, mesh("web")) as read:
                await read.until(("192.0.2.1", 8080), ("192.0.2.2", 8081))
                agent.restore(snapshot)
                await read.until(("192.0.2.1", 8080))
                agent.elsewhere("vm3", "192.0.2.3", "web", 8082)
                await read.until(("192.0.2.1", 8080), ("192.0.2.3", 8082))

    run(main(), DEADLINE_S)


def test_servers_that_follow_answer_while_leaders_change_and_say_when_there_is_none() -> None:
    async def main() -> None:
        with consul.cluster() as servers:
            leader = next(each for each in servers if each.call("GET", "status/leader").startswith(f"{each.address}:"))
            asked, other = [each for each in servers if each is not leader]
            asked.register("web", 8080, "192.0.2.1")
            async with registry(asked) as opened, reading(opened, mesh("web")) as read:
                await read.until(("192.0.2.1", 8080))
                leader.kill()
                asked.wait_until_led()
                asked.register("web", 8081, "192.0.2.2")
                await read.until(("192.0.2.1", 8080), ("192.0.2.2", 8081))
                other.kill()
                await probed_away(opened, "leader")
                async with reading(opened, mesh("web")) as begun_now:
                    await begun_now.until_away("leader")
                assert read.places == [("192.0.2.1", 8080), ("192.0.2.2", 8081)]

    run(main(), DEADLINE_S)


def test_a_token_is_needed_where_consul_asks_for_one_and_read_anew_each_time(tmp_path: Any) -> None:
    async def main() -> None:
        with consul.with_acl() as agent:
            agent.register("web", 8080, "192.0.2.1", Token=agent.token)
            async with registry(agent) as opened, reading(opened, mesh("web")) as read:
                await read.until_away("shows nothing at all", "service:read", "tokenFile")
                with pytest.raises(Denied, match="shows nothing at all"):
                    await opened.probe()
            file = tmp_path / "token"
            async with registry(agent, tokenFile=str(file)) as opened, reading(opened, mesh("web")) as read:
                await read.until_away("tokenFile", str(file), "No such file")
                file.write_text("two words\n")
                await read.until_away("not a token")
                file.write_text("9c8e2f6a-0000-4000-8000-000000000000\n")
                await read.until_away("status 403", "ACL not found", "not good for that")
                with pytest.raises(Denied, match="status 403"):
                    await opened.probe()
                assert not any("9c8e2f6a" in away or "two words" in away for away in read.aways)
                rules = 'service_prefix "web" { policy = "read" } node_prefix "" { policy = "read" }'
                file.write_text(consul.token_for(agent, rules) + "\n")
                await read.until(("192.0.2.1", 8080))
                await opened.probe()
                async with reading(opened, mesh("webs")) as none:
                    assert await none.again() is None

    run(main(), DEADLINE_S)


def test_a_token_in_the_environment_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """py-consul would take it, and an address."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")

    async def main() -> None:
        with consul.with_acl() as agent:
            monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.token)
            async with registry(agent) as opened:
                with pytest.raises(Denied, match="shows nothing at all"):
                    await opened.probe()

    run(main(), DEADLINE_S)


def test_https_with_a_clients_certificate(tmp_path: Any) -> None:
    root, other = Root(), Root()
    write(root.held(), tmp_path, "meshd")
    (tmp_path / "root.pem").write_text(other.bundle_pem)
    tls = {
        "ca": str(tmp_path / "root.pem"), "certificate": str(tmp_path / "meshd.pem"), "key": str(tmp_path / "meshd.key")
    }  # fmt: skip

    async def main() -> None:
        with consul.agent(tls=root) as agent:
            agent.register("web", 8080, "192.0.2.1")
            async with registry(agent, tls=tls) as opened, reading(opened, mesh("web")) as read:
                await read.until_away("certificate is not good", "consul.tls")
                (tmp_path / "root.pem").write_text(root.bundle_pem)
                await read.until(("192.0.2.1", 8080))
            async with registry(agent, tls={"ca": tls["ca"]}) as opened:
                with pytest.raises(Away):
                    await opened.probe()
            async with registry(agent, tls={**tls, "serverName": "server.dc1.consul"}) as opened:
                with pytest.raises(Away, match="certificate is not good"):
                    await opened.probe()
            async with registry(agent, tls={**tls, "key": str(tmp_path / "none.key")}) as opened:
                with pytest.raises(Away, match=r"consul\.tls: .*none\.key.*No such file"):
                    await opened.probe()

    run(main(), DEADLINE_S)


def test_other_datacenters_stand_in_while_there_is_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_registry, "POLL_S", 0.5)

    async def main() -> None:
        with consul.joined("dc1", "dc2") as (here, there):
            web = there.register("web", 8080, "192.0.2.2", Meta={"meshd-identity": WEB})
            mapped = {"web": {"failover": ["dc9", "dc2"]}}
            async with registry(here, services=mapped) as opened, reading(opened, mesh("web")) as read:
                said = await read.until(("192.0.2.2", 8080))
                assert said.endpoints[0].identity == WEB
                mine = here.register("web", 8080, "192.0.2.1")
                await read.until(("192.0.2.1", 8080))
                here.check(mine, "critical")
                await read.until(("192.0.2.2", 8080))
                there.check(web, "critical")
                await read.until_away("dc9")  # which might have some
                here.check(mine, "passing")
                await read.until(("192.0.2.1", 8080))
            async with registry(here) as opened, reading(opened, Key("service", "web", datacenter="dc2")) as read:
                await read.until()
                there.check(web, "passing")
                await read.until(("192.0.2.2", 8080))

    run(main(), DEADLINE_S)


def test_services_beyond_the_connections_take_turns() -> None:
    """And keep to what Consul allows one address."""

    async def main() -> None:
        names = [f"turn-{number}" for number in range(40)]
        with consul.agent(limits={"http_max_conns_per_client": 20}) as agent:
            async with registry(agent, maxConnections=16) as opened, AsyncExitStack() as stack:
                reads = [await stack.enter_async_context(reading(opened, mesh(name))) for name in names]
                for read in reads:
                    await eventually(lambda read=read: read.said, "every one is read", WITHIN_S)  # type: ignore[misc]
                for place in (0, 39):
                    agent.elsewhere("vm1", "192.0.2.1", names[place], 8080)
                    await reads[place].until(("192.0.2.1", 8080))
                assert [read.aways for read in reads] == [[]] * len(reads)

    run(main(), DEADLINE_S)
