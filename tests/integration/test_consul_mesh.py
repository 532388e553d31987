"""A host of the mesh on a real Consul: CA, agent, proxy and Consul as processes, and requests that find their way."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_agent_process import Host
from tests.integration.test_discovery_load import Application, applications
from tests.integration.test_proxy_process import Load, get, ready
from tests.support import consul
from tests.support.consul import Consul
from tests.support.meshed import status
from tests.support.ports import free_port, free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("consul")

WITHIN_S = 90.0

WEB = "spiffe://prod.example/ns/default/sa/web"


class World:
    """A host that serves `web`, which is the application, and calls it by its name in Consul."""

    def __init__(self, directory: Path, agent: Consul, application: Application) -> None:
        self.agent, self.port = agent, application.port
        self.host = Host(directory)
        self._log = directory / "proxy.log"
        outbound, self.inbound, self._admin, self.upstream = free_ports(4)
        listens = f'outbound: "127.0.0.1:{outbound}", inbound: "127.0.0.1:{self.inbound}"'
        found = {"consul": {"url": agent.url, "publish": True, "tokenFile": str(directory / "token")}}
        (directory / "token").write_text("a-token-that-nobody-asks-for")
        settings = self.host.settings.read_text()
        settings = settings.replace('inbound: "0.0.0.0:4143"', f'{listens}, admin: "127.0.0.1:{self._admin}"')
        settings = settings.replace("discovery: [{", f"discovery: [{json.dumps(found)}, {{")
        self.host.settings.write_text(f"{settings}advertise: 127.0.0.1\n")
        (self.host.documents / "mesh.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\n"
            f"spec: {{ports: [{{port: {self.port}, protocol: http}}]}}\n---\n"
            "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: caller}\nspec:\n"
            f"  upstreams: [{{service: web.service.consul, listen: '127.0.0.1:{self.upstream}'}}]\n"
        )

    def also_calls(self, service: str) -> int:
        """Where its caller reaches another service of Consul."""
        port = free_port()
        text = (self.host.documents / "mesh.yaml").read_text()
        another = f"{{service: {service}.service.consul, listen: '127.0.0.1:{port}'}}"
        (self.host.documents / "mesh.yaml").write_text(text.replace("upstreams: [", f"upstreams: [{another}, "))
        return port

    @property
    def id(self) -> str:
        """Of what the host publishes."""
        return f"meshd-vm1.default.web.{self.port}.{self.inbound}"

    @contextmanager
    def runs(self) -> Iterator[None]:
        argv = [sys.executable, "-m", "proxy.main", "--control", str(self.host.socket)]
        proxy = running(argv, self._log, lambda: ready(self._admin), deadline_s=WITHIN_S)
        with self.host.ca_serves(), self.host.agent(), proxy:
            yield

    def registrations(self) -> dict[str, str]:
        """What Consul has of `web`, and how it is."""
        entries = self.agent.call("GET", "health/service/web")
        return {
            each["Service"]["ID"]: next((check["Status"] for check in each["Checks"] if check["ServiceID"]), "")
            for each in entries
        }

    def is_registered(self, **wanted: str) -> None:
        expected = {self.id if name == "ours" else name: status for name, status in wanted.items()}
        wait_until(lambda: self.registrations() == expected, f"registered: {expected}", WITHIN_S)

    def is_called(self) -> None:
        """Wait until requests of the caller are answered. Whoever answered any of them proved to be `web`."""
        wait_until(lambda: get(self.upstream, "/")[0] == 200, "a request is answered", WITHIN_S)
        assert wait_until(self._identities, "the status has the request", WITHIN_S) == {WEB}

    def _identities(self) -> set[str]:
        edges = status(self.host.socket)["edges"]
        return {each["server_identity"] for each in edges if each["source"] == "default/caller"}

    def is_away(self) -> bool:
        line = self.consul()
        return not line["healthy"] and self.agent.url in line["message"]

    def consul(self) -> dict[str, Any]:
        """The line of the status about Consul."""
        (line,) = [each for each in status(self.host.socket)["discovery"] if each["name"] == "consul"]
        return dict(line)


def test_what_a_host_publishes_is_called_with_mutual_tls_and_withdrawn(tmp_path: Path) -> None:
    with consul.agent() as agent, applications(1) as (application,):
        world = World(tmp_path, agent, application)
        with world.runs():
            world.is_registered(ours="passing")
            world.is_called()
            assert world.consul()["healthy"]
            assert status(world.host.socket)["configuration"] == []
        world.is_registered()
        assert "a-token" not in world.host.logged()


def test_where_the_application_is_registered_too_it_is_never_called_in_plain_text(tmp_path: Path) -> None:
    with consul.agent() as agent, applications(1) as (application,):
        world = World(tmp_path, agent, application)
        agent.register("web", application.port, "127.0.0.1", "plain")
        with world.runs():
            world.is_registered(plain="passing", ours="passing")
            world.is_called()
            agent.check("plain", "critical")
            agent.check("plain", "passing")
            world.is_called()
        world.is_registered(plain="passing", ours="critical")
        with world.runs():
            world.is_registered(plain="passing", ours="passing")
            world.is_called()


def test_a_consul_that_goes_is_in_the_status_and_what_it_said_is_still_called(tmp_path: Path) -> None:
    with consul.agent() as agent, applications(1) as (application,):
        world = World(tmp_path, agent, application)
        with world.runs():
            world.is_called()
            agent.kill()
            wait_until(world.is_away, "the status says that Consul is away", WITHIN_S)
            wait_until(
                lambda: any("cannot be registered" in each for each in status(world.host.socket)["configuration"]),
                "the status says that nothing can be published",
                WITHIN_S,
            )
            world.is_called()
            agent.start()
            agent.wait_until_led()
            world.is_registered(ours="passing")
            wait_until(lambda: world.consul()["healthy"], "it is back", WITHIN_S)
            wait_until(lambda: status(world.host.socket)["configuration"] == [], "nothing is wrong", WITHIN_S)
            world.is_called()


def test_no_request_fails_whatever_becomes_of_the_servers(tmp_path: Path) -> None:
    """Three workloads: `caller` and `web`, which the host publishes and which are meshed, and `db`, which its own unit
    registered. Servers are killed, cut off and started again while endpoints of `db` come and go."""
    with consul.cluster() as servers, applications(3) as (web, one, two):
        asked, *others = servers
        world = World(tmp_path, asked, web)
        db = world.also_calls("db")
        asked.register("db", one.port, "127.0.0.1", "one")
        with ExitStack() as stack:
            stack.enter_context(world.runs())
            for port in (world.upstream, db):
                wait_until(lambda port=port: get(port, "/")[0] == 200, "a request is answered", WITHIN_S)  # type: ignore[misc]
            meshed, plain = (stack.enter_context(Load(port, 2)) for port in (world.upstream, db))
            one.asked_again()

            others[0].kill()
            asked.wait_until_led()
            asked.register("db", two.port, "127.0.0.1", "two")
            two.asked_again()
            others[0].start()

            with others[0].cut_off(), others[1].cut_off():  # what is asked has no leader
                wait_until(world.is_away, "the status says so", WITHIN_S)
                meshed.more(100)
                plain.more(100)
            wait_until(lambda: world.consul()["healthy"], "the status says that it can be read", WITHIN_S)
            asked.wait_until_led()
            asked.deregister("one")
            one.asked_no_more()

            asked.kill()
            wait_until(world.is_away, "the status says so", WITHIN_S)
            meshed.more(100)
            plain.more(100)
            asked.start()
            asked.wait_until_led()
            wait_until(lambda: world.consul()["healthy"], "the status says that it can be read", WITHIN_S)
            asked.register("db", one.port, "127.0.0.1", "one")
            one.asked_again()
            for load in (meshed, plain):
                load.end()
                assert load.errors == []
            assert world._identities() == {WEB, ""}
