"""The DNS back end against a real name server, and against one that answers what it should not."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from discovery.dns.names import Names
from discovery.dns.registry import MAX_TARGETS, DnsRegistry
from discovery.dns.resolver import MAX_TTL_S, UNKNOWN_TTL_S, Resolver
from discovery.following import Following
from discovery.keeping import Keeper
from discovery.names import Authority
from discovery.registry import Away, Located
from discovery.source import Answer
from meshd.api.control import Attach, Destination, GetStatus, ProxyConfiguration, Status, WatchDestination
from meshd.api.endpoints import EndpointSet
from meshd.api.names import Address
from meshd.ca.authority import Authority as Ca
from meshd.client.sockets import answers as is_answered
from tests.support.aio import run
from tests.support.control import ControlClient
from tests.support.nameservers import NameServer, name_server
from tests.support.processes import running
from tests.support.resolvers import DB, WEB, Known
from tests.support.waiting import eventually

pytestmark = pytest.mark.peer("nsd")

NOBODY = Address("127.0.0.1", 9)


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[NameServer]:
    with name_server(tmp_path) as server:
        yield server


def test_addresses_of_either_kind_with_the_port_that_was_named(server: NameServer) -> None:
    server.serve("web 60 IN A 192.0.2.7\nweb 60 IN A 192.0.2.5\nweb 60 IN AAAA 2001:DB8::5\nalias 60 IN CNAME web")

    async def main() -> None:
        known = Known(server.address)
        assert await known.places("web.example:8080") == ["192.0.2.5:8080", "192.0.2.7:8080", "[2001:db8::5]:8080"]
        assert await known.places("alias.example") == ["192.0.2.5:80", "192.0.2.7:80", "[2001:db8::5]:80"]
        found = await known.read("web.example:8080")
        assert found is not None
        assert str(found.service) == "web.example:8080"
        assert {(each.identity, each.inbound_port, each.weight) for each in found.endpoints} == {("", 0, 1)}
        assert await Known(server.address, ipv6=False).places("web.example") == ["192.0.2.5:80", "192.0.2.7:80"]

    run(main())


def test_a_service_of_the_settings_is_meshed_where_they_name_its_workload(server: NameServer) -> None:
    server.serve("db 60 IN A 192.0.2.5")

    async def main() -> None:
        found = await Known(server.address).read("db")
        assert found is not None
        assert (str(found.service), found.protocol) == ("db.default:5432", "tcp")
        (endpoint,) = found.endpoints
        assert (endpoint.address, endpoint.port, endpoint.inbound_port) == ("192.0.2.5", 5432, 4143)
        assert endpoint.identity == "spiffe://prod.example/ns/default/sa/db"

    run(main())


SRV = """\
_web._tcp 60 IN SRV 10 1 8081 one
_web._tcp 60 IN SRV 10 3 8082 two
_web._tcp 60 IN SRV 20 1 8083 spare
one 60 IN A 192.0.2.1
spare 60 IN A 192.0.2.9
"""


def test_srv_records_have_ports_weights_and_priorities(server: NameServer) -> None:
    async def main() -> None:
        known = Known(server.address)
        server.serve(SRV + "two 60 IN A 192.0.2.2")
        assert await known.weights(WEB) == {"192.0.2.1:8081": 1, "192.0.2.2:8082": 3}
        assert await known.weights("_web._tcp.example") == {"192.0.2.1:8081": 1, "192.0.2.2:8082": 3}
        server.serve(SRV)
        known.clock.now += 61
        assert await known.places(WEB) == ["192.0.2.1:8081"], "a target that there is not is left out"
        server.serve(SRV.replace("one 60 IN A", "other 60 IN A"))
        known.clock.now += 61
        assert await known.places(WEB) == ["192.0.2.9:8083"], "the next priority, when nothing is left of the first"
        server.serve("_web._tcp 60 IN SRV 10 1 8081 .")
        known.clock.now += 61
        assert await known.places(WEB) == [], "RFC 2782: decidedly not available"
        server.serve("")
        known.clock.now += 61
        assert await known.places(WEB) is None

    run(main())


def test_the_addresses_of_an_srv_target_share_its_weight(server: NameServer) -> None:
    two = "two 60 IN A 192.0.2.2\ntwo 60 IN AAAA 2001:db8::2\ntwo 60 IN A 192.0.2.3\n"
    server.serve(SRV + two + "_web._tcp 60 IN SRV 10 1 8081 twin\ntwin 60 IN A 192.0.2.1")

    async def main() -> None:
        assert await Known(server.address).weights(WEB) == {
            "192.0.2.1:8081": 200,  # of two records that name the same place
            "192.0.2.2:8082": 100, "192.0.2.3:8082": 100, "[2001:db8::2]:8082": 100,
        }  # fmt: skip

    run(main())


def test_more_srv_records_than_can_be_are_not_believed(server: NameServer) -> None:
    records = [f"_web._tcp 60 IN SRV 1 1 {port} one" for port in range(1, MAX_TARGETS + 2)]
    server.serve("\n".join([*records, "one 60 IN A 192.0.2.1"]))

    async def main() -> None:
        known = Known(server.address)
        with pytest.raises(Away, match=f"{MAX_TARGETS + 1} SRV records, and at most {MAX_TARGETS}"):
            await known.read(WEB)
        server.serve("\n".join([*records[1:], "one 60 IN A 192.0.2.1"]))
        known.clock.now += 61
        assert len(await known.places(WEB) or ()) == MAX_TARGETS

    run(main())


def test_what_no_datagram_holds_comes_by_tcp(server: NameServer) -> None:
    server.serve("\n".join(f"web 60 IN A 10.0.{number // 250}.{number % 250}" for number in range(2000)))

    async def main() -> None:
        assert len(await Known(server.address).places("web.example") or ()) == 2000

    run(main())


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, 1.0), (30, 30.0), (86400, MAX_TTL_S)])
def test_what_was_learned_is_kept_for_its_ttl_within_bounds(server: NameServer, ttl_s: int, kept_s: float) -> None:
    server.serve(f"web {ttl_s} IN A 192.0.2.1\nalias 86400 IN CNAME web")

    async def main() -> None:
        known = Known(server.address)
        for name in ("web.example", "alias.example"):
            assert await known.places(name) == ["192.0.2.1:80"]
        server.serve("web 60 IN A 192.0.2.2\nalias 60 IN CNAME web")
        for elapsed_s, found in ((kept_s - 0.5, "192.0.2.1:80"), (1.0, "192.0.2.2:80")):
            known.clock.now += elapsed_s
            for name in ("web.example", "alias.example"):
                assert await known.places(name) == [found]

    run(main())


def test_what_is_not_there_is_believed_for_as_long_as_its_zone_says(server: NameServer) -> None:
    server.serve("other 60 IN A 192.0.2.1", negative_s=20)

    async def main() -> None:
        known = Known(server.address)
        assert await known.read("web.example") is None
        server.serve("web 60 IN A 192.0.2.1")
        known.clock.now += 19.5
        assert await known.read("web.example") is None
        known.clock.now += 1
        assert await known.places("web.example") == ["192.0.2.1:80"]

    run(main())


def test_a_name_that_has_other_records_alone_has_no_endpoints(server: NameServer) -> None:
    server.serve("web 60 IN TXT hello")

    async def main() -> None:
        assert await Known(server.address).places("web.example") == []

    run(main())


def test_an_address_that_is_nobody_s_is_no_endpoint(server: NameServer) -> None:
    server.serve("web 60 IN A 0.0.0.0\nweb 60 IN A 192.0.2.1\nweb 60 IN AAAA ff02::1\nblocked 60 IN A 0.0.0.0")

    async def main() -> None:
        known = Known(server.address)
        assert await known.places("web.example") == ["192.0.2.1:80"]
        assert await known.places("blocked.example") == []

    run(main())


def test_changes_are_followed_when_the_ttl_is_over(server: NameServer) -> None:
    """With time as it is: the one test that waits for a TTL."""
    server.serve("web 1 IN A 192.0.2.1\nweb 1 IN AAAA 2001:db8::1")

    async def main() -> None:
        registry = DnsRegistry("dns", Names({}, ["example"]), Resolver([server.address]))
        key = registry.claim(Authority.parse("web.example", "default"))
        assert key is not None
        async with aclosing(registry.follow(key)) as following:
            found = await anext(following)
            assert found is not None
            assert len(found.endpoints) == 2
            server.serve("web 1 IN A 192.0.2.2")
            while [each.address for each in found.endpoints] != ["192.0.2.2"]:
                found = await anext(following)
                assert found is not None

    run(main())


def test_it_is_away_while_its_servers_are(tmp_path: Path) -> None:
    async def main() -> None:
        server = NameServer(tmp_path)
        server.serve("web 60 IN A 192.0.2.1")
        known = Known(server.address)
        with server.running():
            assert await known.places("web.example") == ["192.0.2.1:80"]
            await known.registry.probe()
        known.clock.now += 61
        refused = r"web\.example\. A: 127\.0\.0\.1:\d+: Connection refused"
        with pytest.raises(Away, match=refused):
            await known.read("web.example")
        with pytest.raises(Away, match=refused):
            await known.read("web.example")
        with pytest.raises(Away, match=r"example\. SOA: .*Connection refused"):
            await known.registry.probe()
        with server.running():
            with pytest.raises(Away, match=refused):
                await known.read("web.example")  # the servers are left in peace for a while
            known.clock.now += UNKNOWN_TTL_S
            assert await known.places("web.example") == ["192.0.2.1:80"]
        known.clock.now += 61
        with pytest.raises(Away, match=refused):
            await known.read("web.example")
        with server.running():
            await known.registry.probe()
            assert await known.places("web.example") == ["192.0.2.1:80"], "at once, when they are known to be there"

    run(main())


def test_the_next_server_is_asked_when_one_is_away(server: NameServer) -> None:
    server.serve("web 60 IN A 192.0.2.1")

    async def main() -> None:
        assert await Known(NOBODY, server.address).places("web.example") == ["192.0.2.1:80"]

    run(main())


def test_part_of_a_service_is_better_than_nothing(server: NameServer, caplog: pytest.LogCaptureFixture) -> None:
    """Targets in a zone that nobody answers for: what was known of them stays, what was not is left out."""
    elsewhere = "_web._tcp 60 IN SRV 10 1 8084 www.elsewhere.\n"
    server.serve(SRV + elsewhere)

    async def main() -> None:
        known = Known(server.address)
        assert await known.places(WEB) == ["192.0.2.1:8081"]
        assert "web.shop:80: part of it cannot be looked up, and is as it was: www.elsewhere. A:" in caplog.text
        server.serve("_web._tcp 60 IN SRV 10 1 8084 www.elsewhere.")
        known.clock.now += 61
        with pytest.raises(Away, match="REFUSED"):
            await known.read(WEB)

    with caplog.at_level(logging.WARNING):
        run(main())


def test_which_service_an_address_is_of(server: NameServer) -> None:
    server.serve(SRV + "db 60 IN A 192.0.2.5\nweb 60 IN A 192.0.2.6")

    async def main() -> None:
        known = Known(server.address)
        assert await known.registry.locate("192.0.2.5", 5432) == Located(DB)
        assert await known.registry.locate("192.0.2.1", 8081) == Located(WEB)
        for address, port in (("192.0.2.5", 80), ("192.0.2.6", 80), ("192.0.2.9", 8083), ("203.0.113.1", 5432)):
            assert await known.registry.locate(address, port) is None
        server.serve(SRV + "db 60 IN A 203.0.113.1")
        known.clock.now += 61
        assert await known.registry.locate("192.0.2.5", 5432) is None
        assert await known.registry.locate("203.0.113.1", 5432) == Located(DB)
        server.serve(SRV + "db 60 IN CNAME db.elsewhere.")
        known.clock.now += 61
        assert await known.registry.locate("203.0.113.1", 5432) == Located(DB), "it cannot be looked up"
        server.serve(SRV)
        known.clock.now += 61
        assert await known.registry.locate("203.0.113.1", 5432) is None
        with pytest.raises(Away, match="Connection refused"):
            await Known(NOBODY).registry.locate("192.0.2.5", 5432)

    run(main())


def test_what_was_last_good_is_served_while_the_server_is_away(tmp_path: Path) -> None:
    """Through all that an agent has between a registry and those who ask."""

    async def main() -> None:
        server = NameServer(tmp_path)
        server.serve("web 1 IN A 192.0.2.1")
        registry = DnsRegistry("dns", Names({}, ["example"]), Resolver([server.address]))
        following = Following(registry, Keeper(None, ""), keep_s=math.inf)
        following.start()
        answers: list[Answer] = []

        def at() -> tuple[list[str], bool] | None:
            found = answers[-1]
            return ([each.address for each in found.endpoints], found.stale) if isinstance(found, EndpointSet) else None

        try:
            with server.running():
                following.watch(Authority.parse("web.example", "default"), answers.append)
                await eventually(lambda: answers and at() == (["192.0.2.1"], False), "the address")
                following.watch(Authority.parse("web.shop", "default"), answers.append)
                assert answers.pop() is None, "not one of its names"
            await eventually(lambda: at() == (["192.0.2.1"], True), "it is stale")
            await eventually(lambda: "Connection refused" in following.health().message, "it is said why")
            server.serve("web 1 IN A 192.0.2.2")
            with server.running():
                await eventually(lambda: at() == (["192.0.2.2"], False), "the new address")
                server.serve("")
                await eventually(lambda: at() == (["192.0.2.2"], True), "kept, since nothing is left")
        finally:
            await following.close()

    run(main(), 120.0)


def test_an_agent_looks_services_up(server: NameServer, tmp_path: Path) -> None:
    server.serve(SRV)
    socket = tmp_path / "meshd.sock"
    Ca.create(tmp_path / "ca", "prod.example", time.time(), "a token of the test").close()
    (tmp_path / "meshd.yaml").write_text(
        f"trustDomain: prod.example\nstateDir: {tmp_path}/state\nsocket: {socket}\nadmin: ''\nnames: {{listen: ''}}\n"
        f"ca: {{bundle: {tmp_path}/ca/bundle.pem, tokenFile: {tmp_path}/ca/agent.token}}\n"
        f"discovery:\n- dns:\n    services: {{web.shop: {{srv: _web._tcp.example, workload: web}}}}\n"
        f"    resolvers: ['{server.address}']\n"
    )
    argv = [sys.executable, "-m", "meshd.cli", "agent", "--config", str(tmp_path / "meshd.yaml")]

    async def main() -> None:
        client = await ControlClient.connect(socket)
        assert isinstance(await client.call(Attach("")), ProxyConfiguration)
        watch = client.say(WatchDestination("web", "shop"))
        heard = await eventually(lambda: client.heard.get(watch), "where web is")
        assert heard is not None
        (answer,) = heard
        assert isinstance(answer, Destination)
        assert answer.found is not None
        assert (answer.found.source, answer.found.stale) == ("dns", False)
        (endpoint,) = answer.found.endpoints
        assert (endpoint.address, endpoint.port) == ("192.0.2.1", 8081)
        assert endpoint.identity == "spiffe://prod.example/ns/shop/sa/web"
        status = await client.call(GetStatus())
        assert isinstance(status, Status)
        assert [(each.healthy, each.message) for each in status.discovery if each.name == "dns"] == [(True, "")]
        await client.close()

    with running(argv, tmp_path / "agent.log", lambda: is_answered(socket)):
        run(main())
