"""A host of the mesh on a real Consul: CA, agent, proxy and Consul as processes, and requests that find their way."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_agent_process import Host
from tests.integration.test_discovery_load import Application, applications
from tests.integration.test_proxy_process import get, ready
from tests.support import consul
from tests.support.consul import Consul
from tests.support.meshed import status
from tests.support.ports import free_ports
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
