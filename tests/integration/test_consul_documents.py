"""The mesh's documents in the KV store of a real Consul: what an agent makes of keys that come, change, turn bad and
go, and of a Consul that does."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from discovery.chain import Chain
from discovery.names import Authority
from discovery.remote import RemoteDocuments
from meshd.agent.documents import Documents
from meshd.agent.host import sources
from meshd.agent.settings import Settings
from meshd.api.endpoints import EndpointSet
from tests.integration.test_agent_process import Host
from tests.support import aio, consul
from tests.support.consul import Consul
from tests.support.meshed import MESHD, status
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.peer("consul")

LONG_S = 60.0
"""An agent may take some seconds until it is back, and longer until it is asked again."""

WORKLOAD = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\nspec: {ports: [{port: 8080}]}\n"


def service(name: str = "api", port: int = 8080, workload: str = "api") -> str:
    return (
        f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{port: 80, endpoints: [{{address: 192.0.2.5, port: {port}, workload: '{workload}'}}]}}\n"
    )


class Store:
    """The KV store of a Consul, for those who write into it."""

    def __init__(self, agent: Consul) -> None:
        self.agent = agent

    def put(self, key: str, text: str) -> None:
        connection = HTTPConnection(self.agent.address, self.agent.port, timeout=30.0)
        headers = {"X-Consul-Token": self.agent.token} if self.agent.token else {}
        connection.request("PUT", f"/v1/kv/{quote(key)}", text.encode(), headers)
        response = connection.getresponse()
        assert (response.status, response.read().strip()) == (200, b"true")
        connection.close()

    def delete(self, prefix: str) -> None:
        self.agent.call("DELETE", f"kv/{prefix}", recurse="1")


@pytest.fixture(scope="module")
def agent() -> Iterator[Consul]:
    with consul.agent() as running:
        yield running


@pytest.fixture
def store(agent: Consul) -> Iterator[Store]:
    found = Store(agent)
    yield found
    found.delete("")


class Declared:
    """The documents of an agent that reads `directory/meshd.yaml` and a Consul."""

    def __init__(self, directory: Path, agent: Consul, config: dict[str, Any], **more: Any) -> None:
        self.file = directory / "meshd.yaml"
        if not self.file.exists():
            self.file.write_text("trustDomain: mesh.example\n")
        settings = {
            "trustDomain": "mesh.example",
            "stateDir": str(directory),
            "discovery": [{"consul": {"url": agent.url, "config": config, **more}}],
        }
        self.named = sources(self.file, msgspec.convert(settings, Settings))
        self.documents = Documents(self.named)
        (self.remote,) = (each for each in self.documents.sources if isinstance(each, RemoteDocuments))

    @property
    def names(self) -> list[str]:
        """What is in force of Consul's."""
        return sorted(each.metadata.name for each in self.remote.documents)

    @property
    def findings(self) -> list[str]:
        return [str(each) for each in self.documents.findings]

    async def has(self, *names: str) -> None:
        await eventually(lambda: self.names == sorted(names), f"{names}, now {self.names}", LONG_S)

    async def finds(self, said: str) -> None:
        await eventually(lambda: any(said in each for each in self.findings), f"{said}, now {self.findings}", LONG_S)


@asynccontextmanager
async def declared(
    directory: Path, agent: Consul, config: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Declared]:
    found = Declared(directory, agent, config or {}, **more)
    found.documents.start(found.documents.settle)
    found.documents.settle()
    try:
        yield found
    finally:
        await found.documents.close()


def test_keys_come_change_and_go(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/a.yaml", service())
        store.put("meshd/other/x.yaml", service("other"))
        async with declared(tmp_path, store.agent) as found:
            await found.has("api")
            assert [each.origin for each in found.remote.declared] == ["consul:meshd/config/a.yaml:1"]
            told: list[EndpointSet | None] = []
            chain = Chain([each for each in found.named if each.source is found.remote])
            chain.watch(Authority.parse("api", "default"), told.append)
            store.put("meshd/config/a.yaml", "# changed\n" + service(port=8081))
            await eventually(lambda: told[-1] is not None and told[-1].endpoints[0].port == 8081, "the change", LONG_S)
            (endpoint,) = told[-1].endpoints if told[-1] is not None else ()
            assert endpoint.identity == "spiffe://mesh.example/ns/default/sa/api"
            store.put("meshd/config/team/b", service("db") + "---\n" + service("cache"))
            await found.has("api", "cache", "db")
            store.delete("meshd/config/a.yaml")
            await found.has("cache", "db")
            assert told[-1] is None
            assert found.remote.health().healthy

    aio.run(main())


def test_a_key_that_turns_bad_keeps_what_was_last_good_of_it(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/a", service())
        async with declared(tmp_path, store.agent) as found:
            await found.has("api")
            store.put("meshd/config/a", service().replace("port: 80,", "port: eighty,"))
            store.put("meshd/config/b é", service("db") + service("db"))
            await found.finds("consul:meshd/config/a: document 1 (Service api): spec.port: expected `int`, got `str`")
            await found.finds("consul:meshd/config/b%20%C3%A9: line 5")
            assert found.names == ["api"]
            store.put("meshd/config/a", service(port=1))
            store.put("meshd/config/b é", "")
            await eventually(lambda: found.findings == [], "nothing is wrong", LONG_S)

    aio.run(main())


def test_workloads_of_other_hosts_are_passed_over_unless_they_are_asked_for(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/hosts/vm1/web", WORKLOAD)
        store.put("meshd/config/api", service())
        async with declared(tmp_path / "a", store.agent) as found:
            await found.has("api")
            assert found.documents.workloads() == ()
            assert found.remote.health().message.endswith("of kinds that `config.kinds` does not name: 1")
        config = {"prefix": "meshd/config/hosts/vm1/", "kinds": ["Service", "Workload"]}
        async with declared(tmp_path / "b", store.agent, config) as found:
            await found.has("web")
            assert [each.name for each in found.documents.workloads()] == ["web"]

    for each in ("a", "b"):
        (tmp_path / each).mkdir()
    aio.run(main())


def test_what_the_settings_file_declares_goes_first(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "meshd.yaml").write_text("trustDomain: mesh.example\n---\n" + service(port=1))
        store.put("meshd/config/api", service(port=2))
        async with declared(tmp_path, store.agent) as found:
            await found.finds(f"consul:meshd/config/api:1: Service default/api is also in {found.file}:3, which goes")
            assert found.names == []
            found.file.write_text("trustDomain: mesh.example\n")
            await found.has("api")

    aio.run(main())


def test_endpoints_in_plain_text_are_refused_where_only_meshed_ones_are_wanted(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/plain", service("plain", workload=""))
        store.put("meshd/config/api", service())
        async with declared(tmp_path, store.agent, meshedOnly=True) as found:
            await found.finds("consul:meshd/config/plain: Service plain: spec.endpoints[0]: it has no `workload`")
            await found.has("api")

    aio.run(main())


def test_an_empty_folder_is_believed_and_a_place_that_is_gone_is_not(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/api", service())
        async with declared(tmp_path, store.agent) as found:
            await found.has("api")
            store.delete("meshd/config/")
            await found.finds("consul:meshd/config/: is gone, after there was something")
            assert found.names == ["api"]
            store.put("meshd/config/", "")  # a folder
            await found.has()
            assert found.remote.health().healthy

    aio.run(main())


def test_what_was_last_good_stays_while_consul_is_away_and_over_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        with consul.agent() as agent:
            store = Store(agent)
            store.put("meshd/config/api", service())
            async with declared(tmp_path, agent) as found:
                await found.has("api")
                agent.kill()
                await found.finds("consul:meshd/config/: cannot be read: ")
                assert found.names == ["api"]
                assert found.remote.known().stale
            async with declared(tmp_path, agent) as found:
                await found.has("api")
                assert found.remote.known().stale
                agent.start()  # with nothing in it, and an index that began anew
                agent.wait_until_led()
                await found.finds("is gone, after there was something")
                assert found.names == ["api"]
                store.put("meshd/config/db", service("db"))
                await found.has("db")
                assert not found.remote.known().stale

    aio.run(main())


def test_a_token_that_may_not_read_is_told_from_a_place_with_nothing_in_it(tmp_path: Path) -> None:
    def token(agent: Consul, rules: str) -> str:
        file = tmp_path / "token"
        file.write_text(consul.token_for(agent, rules))
        return str(file)

    async def main() -> None:
        with consul.with_acl() as agent:
            Store(agent).put("meshd/config/api", service())
            blind = token(agent, 'service_prefix "" { policy = "read" }')
            async with declared(tmp_path, agent, tokenFile=blind) as found:
                await found.finds("consul:meshd/config/: cannot be read: ")
                assert any("is not good for that" in each for each in found.findings), found.findings
                token(agent, 'key_prefix "meshd/config/" { policy = "read" }')
                await found.has("api")

    aio.run(main())


def test_more_keys_than_are_configuration_are_not_read(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        store.put("meshd/config/api", service())
        for number in range(9):
            store.put(f"meshd/config/large{number}", "#" * 500_000)
        async with declared(tmp_path, store.agent) as found:
            await found.finds("which is no configuration")
            assert found.names == []
            for number in range(9):
                store.delete(f"meshd/config/large{number}")
            await found.has("api")
            assert found.findings == []

    aio.run(main())


def test_an_agent_goes_by_them_and_says_where_they_came_from(store: Store, tmp_path: Path) -> None:
    host = Host(tmp_path)
    config = {"kinds": ["Service", "Workload"]}
    found = json.dumps({"name": "east", "consul": {"url": store.agent.url, "config": config}})
    host.settings.write_text(host.settings.read_text().replace("discovery: [{", f"discovery: [{found}, {{"))
    (host.documents / "api.yaml").write_text(service(port=1))
    (host.documents / "db.yaml").write_text(service("db"))
    store.put("meshd/config/mesh", WORKLOAD + "---\n" + service(port=2))

    def shown() -> dict[str, tuple[str, str, str]]:
        argv = [*MESHD, "diagnostics", "config", "--socket", str(host.socket), "-o", "json"]
        said = json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout)
        return {each["origin"]: (each["name"], each["source"], each["shadowed_by"]) for each in said["documents"]}

    with host.agent():
        wait_until(lambda: len(shown()) == 4, "all of them", LONG_S)
        assert shown() == {
            f"{host.documents}/api.yaml:1": ("api", "file", "east:meshd/config/mesh:6"),
            f"{host.documents}/db.yaml:1": ("db", "file", ""),
            "east:meshd/config/mesh:1": ("web", "east", ""),
            "east:meshd/config/mesh:6": ("api", "east", ""),
        }
        said = status(host.socket)
        assert [each["name"] for each in said["workloads"]] == ["web"]
        assert "config east:meshd/config/" in [each["name"] for each in said["discovery"] if each["healthy"]]
        assert [each.partition(": ")[0] for each in said["configuration"] if "goes first" in each] == [
            f"{host.documents}/api.yaml:1"
        ]


def test_an_agent_that_starts_again_tells_no_proxy_of_less_than_was_known_before(store: Store, tmp_path: Path) -> None:
    """It takes a while to read so many again; a proxy that came meanwhile would give up the workload."""
    host = Host(tmp_path)
    found = json.dumps({"consul": {"url": store.agent.url, "config": {"kinds": ["Service", "Workload"]}}})
    host.settings.write_text(host.settings.read_text().replace("discovery: [{", f"discovery: [{found}, {{"))
    store.put("meshd/config/mesh", "---\n".join([WORKLOAD, *(service(f"s{number}") for number in range(300))]))

    def served() -> list[str]:
        return [each["name"] for each in status(host.socket)["workloads"]]

    with host.agent():
        wait_until(lambda: served() == ["web"], "it is declared", LONG_S)
    with host.agent():
        assert served() == ["web"]
