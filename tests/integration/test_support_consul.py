"""The Consul agents that other tests talk to: that they are what those tests take them for."""

import pytest

from tests.support import consul
from tests.support.certificates import Root

pytestmark = pytest.mark.peer("consul")


def test_an_agent_tells_what_is_registered_with_it_and_elsewhere() -> None:
    with consul.agent() as here:
        registered = here.register("web", 8080, "192.0.2.1", Tags=["v1"])
        here.elsewhere("there", "192.0.2.2", "web", 8081, "critical", NodeMeta={"zone": "b"})
        entries = here.call("GET", "health/service/web")
        assert {(each["Node"]["Node"], each["Service"]["Port"]) for each in entries} == {
            ("here", 8080),
            ("there", 8081),
        }
        assert [each["Service"]["Port"] for each in here.call("GET", "health/service/web", passing="1")] == [8080]
        here.check(registered, "critical")
        here.deregister(registered)
        assert [each["Node"]["Node"] for each in here.call("GET", "health/service/web")] == ["there"]


def test_an_agent_that_was_killed_comes_back_at_its_port_and_knows_nothing() -> None:
    with consul.agent() as here:
        here.register("web", 8080)
        here.kill()
        with pytest.raises(ConnectionRefusedError):
            here.call("GET", "status/leader")
        here.start()
        here.wait_until_led()
        assert here.call("GET", "health/service/web") == []


def test_three_servers_elect_a_leader_and_another_after_it() -> None:
    with consul.cluster() as servers:
        led = next(each for each in servers if each.call("GET", "status/leader").startswith(f"{each.address}:"))
        led.kill()
        rest = [each for each in servers if each is not led]
        for each in rest:
            each.wait_until_led()


def test_without_a_token_an_agent_with_acls_says_nothing() -> None:
    with consul.with_acl() as here:
        reader = consul.token_for(here, 'service_prefix "web" { policy = "read" }')
        here.register("web", 8080, Token=here.token)
        here.register("db", 5432, Token=here.token)
        here.token = ""
        with pytest.raises(consul.Refused) as refused:
            here.call("GET", "agent/self")
        assert refused.value.status == 403
        here.token = reader
        with pytest.raises(consul.Refused):
            here.register("web", 8081)


def test_an_agent_with_tls_knows_its_clients_by_certificate() -> None:
    with consul.agent(tls=Root()) as here:
        assert here.url.startswith("https://")
        assert here.call("GET", "status/leader")


def test_two_datacenters_ask_each_other() -> None:
    with consul.joined("dc1", "dc2") as (here, there):
        there.register("web", 8080, "192.0.2.1")
        assert here.call("GET", "health/service/web") == []
        assert [each["Service"]["Port"] for each in here.call("GET", "health/service/web", dc="dc2")] == [8080]
