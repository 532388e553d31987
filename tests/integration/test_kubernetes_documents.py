"""The mesh's documents as custom resources: what the API server takes by their definitions, and what an agent makes of
them."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from kubernetes import aio as library

from discovery.kubernetes.access import Access
from discovery.kubernetes.customs import Customs
from discovery.kubernetes.documents import resource_of
from discovery.kubernetes.lists import Query
from discovery.remote import RemoteDocuments
from k8s import crds
from meshd.agent.documents import Documents
from meshd.agent.host import sources
from meshd.agent.settings import Settings
from meshd.api.tasks import Tasks
from tests.support import aio
from tests.support.kubernetes import ADMIN, Cluster, Rule, User
from tests.support.waiting import eventually

client: Any = library.client
config: Any = library.config
Body = dict[str, Any]

API = ("meshd.io", "v1")
ENDPOINTS = [{"address": "192.0.2.5", "port": 8080, "workload": "api"}]


def document(kind: str, name: str, spec: Body, **metadata: Any) -> Body:
    return {"apiVersion": "meshd.io/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def service(name: str, port: int = 80, **metadata: Any) -> Body:
    return document("Service", name, {"port": port, "endpoints": ENDPOINTS}, **metadata)


class Stage:
    """A double of a cluster, and the documents of an agent that reads it."""

    def __init__(self, cluster: Cluster, api: Any, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self.file = directory / "meshd.yaml"
        self.file.write_text("trustDomain: mesh.example\n")
        self._extensions, self._core = client.ApiextensionsV1Api(api), client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)

    async def define(self, plural: str = "") -> None:
        """All of the mesh's kinds, or one."""
        for definition in map(yaml.safe_load, crds.manifests().values()):
            if plural in ("", definition["spec"]["names"]["plural"]):
                await self._extensions.create_custom_resource_definition(definition)

    async def undefine(self, plural: str) -> None:
        """And with it all objects of that kind; watches of them end, as a real server ends them."""
        await self._extensions.delete_custom_resource_definition(f"{plural}.meshd.io")
        self.cluster.break_watches()

    async def namespace(self, name: str) -> None:
        await self._core.create_namespace({"metadata": {"name": name}})

    async def create(self, body: Body, namespace: str = "default") -> Body:
        plural = f"{body['kind'].lower()}s"
        made: Body = await self._custom.create_namespaced_custom_object(*API, namespace, plural, body)
        return made

    async def replace(self, made: Body) -> None:
        metadata, plural = made["metadata"], f"{made['kind'].lower()}s"
        await self._custom.replace_namespaced_custom_object(*API, metadata["namespace"], plural, metadata["name"], made)

    async def delete(self, kind: str, name: str) -> None:
        await self._custom.delete_namespaced_custom_object(*API, "default", f"{kind.lower()}s", name)

    @asynccontextmanager
    async def documents(self, token: str = ADMIN, **config: Any) -> AsyncIterator[Documents]:
        settings = {
            "trustDomain": "mesh.example",
            "stateDir": str(self.directory),
            "discovery": [
                {"kubernetes": {"kubeconfig": str(self.cluster.kubeconfig(token, "agent")), "config": config}}
            ],
        }
        found = Documents(sources(self.file, msgspec.convert(settings, Settings)))
        found.start(found.settle)
        found.settle()
        try:
            yield found
        finally:
            await found.close()


Scene = Callable[[Stage], Coroutine[Any, Any, None]]


def play(directory: Path, scene: Scene, *, defined: bool = True) -> None:
    async def main() -> None:
        cluster = Cluster(directory)
        async with cluster.serves():
            api = await config.new_client_from_config(str(cluster.kubeconfig()), persist_config=False)
            async with api:
                stage = Stage(cluster, api, directory)
                if defined:
                    await stage.define()
                await scene(stage)

    aio.run(main(), 120.0)


def remote(documents: Documents) -> RemoteDocuments:
    (found,) = (source for source in documents.sources if isinstance(source, RemoteDocuments))
    return found


def names(documents: Documents) -> list[str]:
    """What is in force."""
    return sorted(f"{each.metadata.namespace}/{each.metadata.name}" for each in remote(documents).documents)


async def finds(documents: Documents, said: str) -> None:
    await eventually(lambda: any(said in str(each) for each in documents.findings), f"a finding: {said}")


# --- the definitions ------------------------------------------------------------------------------------------------


def test_the_api_server_takes_what_an_agent_takes(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        await stage.create(document("Service", "least", {"port": 80}))
        await stage.create(
            document("Service", "most", {
                "port": 80, "protocol": "grpc", "opaquePorts": None, "discovery": ["consul"], "merge": True,
                "timeouts": {"request": "5s"}, "failureAccrual": {"maxEjected": 0.25},
                "retries": {"on": ["5xx"], "budget": {"ratio": 0.1}}, "limits": {"requests": 10},
            })
        )  # fmt: skip
        await stage.create(
            document("Workload", "web", {
                "ports": [{"port": 80}], "selectors": [{"unit": "web.service", "user": None}],
                "upstreams": [
                    {"service": "api", "listen": "127.0.0.1:9001", "tls": {"certificate": "/c", "key": "/k"}}
                ],
            })
        )  # fmt: skip
        async with stage.documents(kinds=["Service", "Workload"]) as documents:
            await eventually(lambda: names(documents) == ["default/least", "default/most", "default/web"], "all three")
            assert documents.findings == ()

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (document("Service", "x", {}), "spec.port"),
        (document("Service", "x", {"port": 0}), "spec.port"),
        (document("Service", "x", {"port": 80, "protocol": "sctp"}), "spec.protocol"),
        (document("Service", "x", {"port": 80, "endpoints": [{"port": 80}]}), "spec.endpoints[0].address"),
        (document("Service", "x", {"port": 80, "retries": {"limit": 11}}), "spec.retries.limit"),
        (document("Service", "x", {"port": 80, "merge": "yes"}), "spec.merge"),
        (document("Workload", "x", {"ports": [{"port": 65536}]}), "spec.ports[0].port"),
    ],
)
def test_the_api_server_refuses_what_an_agent_would(tmp_path: Path, body: Body, said: str) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(client.ApiException) as refused:
            await stage.create(body)
        assert refused.value.status == 422
        assert said in str(refused.value.body)

    play(tmp_path, scene)


# --- what an agent makes of them ----------------------------------------------------------------------------------


def test_objects_come_change_and_go(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        await stage.namespace("shop")
        made = await stage.create(service("api"))
        await stage.create(service("api"), "shop")
        async with stage.documents() as documents:
            await eventually(lambda: names(documents) == ["default/api", "shop/api"], "both")
            assert sorted(each.origin for each in remote(documents).declared) == [
                "kubernetes:services.meshd.io/default/api",
                "kubernetes:services.meshd.io/shop/api",
            ]
            await stage.replace(made | {"spec": {"port": 81, "endpoints": ENDPOINTS}})
            await eventually(lambda: 81 in {rule.spec.port for rule in services(documents)}, "the change")
            await stage.delete("Service", "api")
            await eventually(lambda: names(documents) == ["shop/api"], "the end of one")
            assert remote(documents).health().healthy

    play(tmp_path, scene)


def services(documents: Documents) -> list[Any]:
    return list(remote(documents).documents)


def test_an_object_that_turns_bad_keeps_what_was_last_good_of_it(tmp_path: Path) -> None:
    """What the definitions cannot say is said by the agent."""

    async def scene(stage: Stage) -> None:
        made = await stage.create(service("api"))
        await stage.create(service("other.name"))
        async with stage.documents() as documents:
            await finds(
                documents, "kubernetes:services.meshd.io/default/other.name: metadata: name 'other.name' is not"
            )
            bad = made["spec"] | {"endpoints": [{"address": "not an address", "port": 1}]}
            await stage.replace(made | {"spec": bad})
            await finds(
                documents, "services.meshd.io/default/api: spec.endpoints[0].address: 'not an address' is neither"
            )
            assert names(documents) == ["default/api"]

    play(tmp_path, scene)


def test_workloads_are_read_by_those_who_ask_for_them(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        await stage.create(document("Workload", "web", {"ports": [{"port": 80}]}, labels={"meshd.io/node": "vm1"}))
        await stage.create(document("Workload", "db", {"ports": [{"port": 81}]}, labels={"meshd.io/node": "vm2"}))
        await stage.create(service("api"))
        async with stage.documents() as documents:
            await eventually(lambda: names(documents) == ["default/api"], "the service")
            assert [path for method, path, _ in stage.cluster.requests if method == "GET" and "workloads" in path] == []
        async with stage.documents(kinds=["Workload"], labels="meshd.io/node=vm1") as documents:
            await eventually(lambda: names(documents) == ["default/web"], "this host's workload")
            assert [each.name for each in documents.workloads()] == ["web"]

    play(tmp_path, scene)


def test_what_files_declare_goes_before_what_comes_after_them(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.file.write_text(
            "trustDomain: mesh.example\n---\napiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api}\n"
            "spec: {port: 8080}\n"
        )
        await stage.create(service("api"))
        async with stage.documents() as documents:
            await finds(
                documents,
                f"kubernetes:services.meshd.io/default/api: Service default/api is also in {stage.file}:3, which goes",
            )
            assert names(documents) == []
            stage.file.write_text("trustDomain: mesh.example\n")
            await eventually(lambda: names(documents) == ["default/api"], "the cluster's")
            assert documents.findings == ()

    play(tmp_path, scene)


def test_without_definitions_it_is_said_what_is_missing(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        async with stage.documents() as documents:
            await finds(documents, "the custom resources of the mesh are not installed")
            await stage.define()
            await stage.create(service("api"))
            await eventually(lambda: names(documents) == ["default/api"], "the document")

    play(tmp_path, scene, defined=False)


def test_definitions_that_are_removed_while_they_are_followed(tmp_path: Path) -> None:
    """It is said, and nobody has to be restarted once they are back."""

    async def scene(stage: Stage) -> None:
        await stage.create(service("api"))
        async with stage.documents() as documents:
            await eventually(lambda: names(documents) == ["default/api"], "the document")
            await stage.undefine("services")
            await finds(documents, "the custom resources of the mesh are not installed")
            await stage.define("services")
            await stage.create(service("web"))
            await eventually(lambda: names(documents) == ["default/web"], "those of the new definition alone", 90.0)
            await eventually(lambda: documents.findings == (), "nothing is wrong any more")

    play(tmp_path, scene)


def test_what_was_last_good_stays_while_the_cluster_is_away_and_over_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serves():
            api = await config.new_client_from_config(str(cluster.kubeconfig()), persist_config=False)
            async with api:
                stage = Stage(cluster, api, tmp_path)
                await stage.define()
                await stage.create(service("api"))
                async with stage.documents() as documents:
                    await eventually(lambda: names(documents) == ["default/api"], "the document")
        async with stage.documents() as documents:
            await finds(documents, "cannot be read")
            assert names(documents) == ["default/api"]
            assert remote(documents).known().stale
            async with cluster.serves():
                remote(documents).load()
                await eventually(lambda: remote(documents).health().healthy, "the cluster is back", 60.0)
                assert not remote(documents).known().stale

    aio.run(main(), 120.0)


def test_what_may_not_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stage.cluster.users["a token"] = User("agent", rules=(Rule(("list", "watch"), ("services",), ("meshd.io",)),))
        await stage.create(service("api"))
        async with stage.documents("a token") as documents:
            await eventually(lambda: names(documents) == ["default/api"], "the document")
        async with stage.documents("a token", kinds=["Workload"]) as documents:
            await finds(documents, 'User "agent" cannot list resource "workloads" in API group "meshd.io"')
            await finds(documents, "(status 403): this agent needs list and watch for it")

    play(tmp_path, scene)


def test_what_happens_while_a_watch_is_broken_off_is_seen(tmp_path: Path) -> None:
    """Goes on where it was, and is listed anew where the server has forgotten what came since."""

    async def scene(stage: Stage) -> None:
        async with stage.documents() as documents:
            await eventually(lambda: remote(documents).health().healthy, "it was read")
            await eventually(stage.cluster.break_watches, "a watch is open")
            await stage.create(service("one"))
            await eventually(lambda: names(documents) == ["default/one"], "what came meanwhile")
            await eventually(stage.cluster.break_watches, "a watch is open")
            await stage.delete("Service", "one")
            await stage.create(service("two"))
            stage.cluster.compact()
            await eventually(lambda: names(documents) == ["default/two"], "what came after what is forgotten")
            assert remote(documents).health().healthy

    play(tmp_path, scene)


def large(name: str) -> Body:
    """A document of about a mebibyte."""
    labels = {f"l{each}": "x" * 60 for each in range(1000)}
    endpoints = [{"address": "192.0.2.1", "port": 1, "labels": labels} for _ in range(14)]
    return document("Service", name, {"port": 80, "endpoints": endpoints})


def test_too_much_of_it_is_not_believed(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        for number in range(5):
            await stage.create(large(f"s{number}"))
        async with stage.documents() as documents:
            await finds(documents, "more than 4096 parts or 4 MiB, which is no configuration")
            assert names(documents) == []

    play(tmp_path, scene)


def test_too_much_of_it_is_not_even_kept(tmp_path: Path) -> None:
    """While it is told of by events, too: then it is listed anew, to see how much there is."""

    async def scene(stage: Stage) -> None:
        access = Access(str(stage.cluster.kubeconfig()))
        customs = Customs(access, resource_of("Service"), Query(), lambda: None)
        tasks = Tasks("test")
        tasks.start(customs.run(), "follow")
        try:
            await eventually(lambda: customs.synced, "it was listed")
            for number in range(20):
                await stage.create(large(f"s{number}"))
            await eventually(lambda: customs.away, "it ends")
            assert customs.away == "more than 16777216 bytes of objects at /apis/meshd.io/v1/services"
        finally:
            await tasks.cancel()
            await access.close()

    play(tmp_path, scene)
