"""The double of the Kubernetes API server is honest: it answers what a real one (1.36) was recorded to answer, and the
real client library finds in it what it looks for."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes import aio as library_of_kubernetes

from tests.support import aio
from tests.support.kubernetes import ADMIN, Cluster, Rule, User

client: Any = library_of_kubernetes.client  # its types have None in every field
config: Any = library_of_kubernetes.config
watch: Any = library_of_kubernetes.watch
dynamic_client: Any = library_of_kubernetes.dynamic

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kubernetes"

VOLATILE = {
    "uid", "resourceVersion", "creationTimestamp", "time", "fieldsV1", "expirationTimestamp", "token", "continue",
    "lastTransitionTime", "serverAddressByClientCIDRs",
}  # fmt: skip
"""What differs from one server to the next; that it is there, and of which type, is still compared."""

Exchange = dict[str, Any]


def recorded(name: str) -> list[Exchange]:
    return list(json.loads((RECORDINGS / f"{name}.json").read_text()))


def plain(value: Any, name: str = "") -> Any:
    """value without what no two servers have alike."""
    if isinstance(value, dict):
        return {key: plain(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each, name) for each in value]
    if name in VOLATILE:
        return f"({type(value).__name__})"
    if isinstance(value, str):
        if name in ("clusterIP", "clusterIPs") and value != "None":
            return "(an address)"
        value = re.sub(r"resource version: \d+(, current: \d+| \(\d+\))?", "resource version: N", value)
        return re.sub(r"JTI=[0-9a-f-]{36}", "JTI=(an id)", value)
    return "fieldsV1" if name == "fieldsV1" else value


def without_fields(value: Any) -> Any:
    """value with the fields of managers left out: the double does not work out which field is whose."""
    if isinstance(value, dict):
        return {key: "(fields)" if key == "fieldsV1" else without_fields(each) for key, each in value.items()}
    return [without_fields(each) for each in value] if isinstance(value, list) else value


def comparable(value: Any) -> Any:
    return plain(without_fields(value))


class Player:
    """Sends recorded requests to a double."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._cluster, self._session = cluster, session
        self.token: str | None = ADMIN

    def _request(self, request: dict[str, Any], body: Any) -> Any:
        headers = {"User-Agent": "python-requests/2", "Content-Type": "application/json"} | (
            request.get("headers") or {}
        )
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        params = {key: str(each) for key, each in (request.get("params") or {}).items()}
        data = None if body is None else json.dumps(body).encode()
        return self._session.request(
            request.get("method", "GET"), self._cluster.url + request["path"], params=params, headers=headers, data=data
        )

    async def send(self, request: dict[str, Any], body: Any = None) -> tuple[int, dict[str, str], Any]:
        async with self._request(request, request.get("body") if body is None else body) as response:
            content = await response.read()
            kind = response.headers["Content-Type"]
            said = json.loads(content) if kind == "application/json" else content.decode()
            headers = {
                key: response.headers[key]
                for key in ("Content-Type", "Warning", "Retry-After")
                if key in response.headers
            }
            return response.status, headers, said

    async def replay(self, exchange: Exchange, body: Any = None) -> Any:
        """Send its request, and compare the answer with the recorded one; what it said."""
        status, headers, said = await self.send(exchange["request"], body)
        real = exchange["response"]
        what = f"{exchange['request'].get('method')} {exchange['request']['path']}"
        assert status == real["status"], (what, said)
        wanted = {
            key: value for key, value in real["headers"].items() if key in ("Content-Type", "Warning", "Retry-After")
        }
        assert headers == wanted, what
        assert comparable(said) == comparable(real["body"]), what
        return said

    async def replay_watch(self, exchange: Exchange, meanwhile: Callable[[], None] = lambda: None) -> None:
        """The same for a watch, to its end; `meanwhile` is called once it is open."""
        real = exchange["response"]
        async with self._request(exchange["request"], None) as response:
            assert response.status == real["status"]
            assert response.headers["Transfer-Encoding"] == real["headers"]["Transfer-Encoding"]
            meanwhile()
            events = [json.loads(line) async for line in response.content]
        assert comparable(events) == comparable(real["events"]), exchange["request"]


@asynccontextmanager
async def player(cluster: Cluster) -> AsyncIterator[Player]:
    async with (
        cluster.serves(),
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=cluster.ca))
        ) as session,
    ):
        yield Player(cluster, session)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path)
    cluster.add_node("node-a")
    return cluster


async def made(play: Player, create: list[Exchange] | None = None) -> None:
    """The objects of the recordings, and the service account that was there without being recorded."""
    exchanges = recorded("create-objects") if create is None else create
    for exchange in exchanges:
        await play.replay(exchange)
        if exchange["request"]["path"] == "/api/v1/namespaces":
            path = {"method": "POST", "path": "/api/v1/namespaces/shop/serviceaccounts"}
            assert (await play.send(path, {"metadata": {"name": "web"}}))[0] == 201


def run(cluster: Cluster, scene: Callable[[Player], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with player(cluster) as play:
            await scene(play)

    aio.run(main())


def test_objects_become_what_they_became_on_a_real_server(cluster: Cluster) -> None:
    run(cluster, made)


def test_lists_and_their_pages_are_a_real_servers(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play)
        for exchange in recorded("list"):
            await play.replay(exchange)
        first, second, garbage = recorded("list-continue")
        token = (await play.replay(first))["metadata"]["continue"]
        second["request"]["params"]["continue"] = token
        await play.replay(second)
        await play.replay(garbage)

    run(cluster, scene)


def test_watches_say_what_a_real_servers_say(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play)
        slices, streamed, from_now, from_old = recorded("watch")
        slices["request"]["params"]["resourceVersion"] = str(cluster.api.store.version)
        for exchange in (slices, streamed, from_now, from_old):
            exchange["request"]["params"]["timeoutSeconds"] = "1"

        def delete() -> None:
            place = cluster._place("/api/v1/namespaces/shop/services/ext")
            cluster.api.delete(place, {}, "test")

        await play.replay_watch(slices)
        await play.replay_watch(streamed)
        await play.replay_watch(from_now, delete)
        await play.replay_watch(from_old)

    run(cluster, scene)


def test_the_past_is_gone_as_on_a_real_server(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play)
        _, _, listed, continued = recorded("gone-410")
        status, _, said = await play.send({"path": "/api/v1/namespaces/shop/pods", "params": {"limit": 1}})
        assert status == 200
        cluster.api.create(cluster._place("/api/v1/namespaces/shop/configmaps"), {"metadata": {"name": "x"}}, "test")
        cluster.compact()
        continued["request"]["params"]["continue"] = said["metadata"]["continue"]
        for exchange in recorded("gone-410")[:2]:
            await play.replay_watch(exchange)
        await play.replay(listed)
        await play.replay(continued)

    run(cluster, scene)


def test_errors_are_a_real_servers(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play)
        unknown, anonymous, *others = recorded("errors")
        play.token = "nobody's"
        await play.replay(unknown)
        play.token = None
        await play.replay(anonymous)
        play.token = ADMIN
        _, _, service = await play.send({"path": "/api/v1/namespaces/shop/services/web"})
        for exchange in others:
            body = exchange["request"]["body"]
            if exchange["request"]["method"] == "PUT":  # of an object whose uid is another here
                body["metadata"]["uid"] = service["metadata"]["uid"]
            await play.replay(exchange, body)

    run(cluster, scene)


def test_tokens_are_made_and_reviewed_as_on_a_real_server(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play, recorded("create-objects")[:1])
        request, too_short, good, other, none, garbage, forged, empty, gone = recorded("tokens")
        token = (await play.replay(request))["status"]["token"]
        await play.replay(too_short)
        for exchange in (good, other, none):
            exchange["request"]["body"]["spec"]["token"] = token
            await play.replay(exchange)
        await play.replay(garbage)
        forged["request"]["body"]["spec"]["token"] = token.rpartition(".")[0] + ".AAAA"
        await play.replay(forged)
        await play.replay(empty)
        accounts = "/api/v1/namespaces/shop/serviceaccounts"
        await play.send({"method": "POST", "path": accounts}, {"metadata": {"name": "gone"}})
        _, _, said = await play.send({"method": "POST", "path": f"{accounts}/gone/token"}, request["request"]["body"])
        await play.send({"method": "DELETE", "path": f"{accounts}/gone"})
        gone["request"]["body"]["spec"]["token"] = said["status"]["token"]
        await play.replay(gone)

    run(cluster, scene)


def test_custom_resources_are_defined_and_checked_as_on_a_real_server(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        await made(play, recorded("create-objects")[:1])
        for exchange in recorded("crd"):
            await play.replay(exchange)

    run(cluster, scene)


def test_discovery_says_of_what_there_is_what_a_real_server_says(cluster: Cluster) -> None:
    async def scene(play: Player) -> None:
        for exchange in recorded("discovery"):
            path, real = exchange["request"]["path"], exchange["response"]["body"]
            status, _, said = await play.send(exchange["request"])
            assert status == 200, path
            for many, name in (("groups", "name"), ("resources", "name")):
                known = {each[name]: each for each in comparable(real).get(many, ())}
                for each in said.pop(many, ()):
                    if each[name] in known:
                        assert each == known[each[name]], path
                    else:
                        assert each[name] in ("customresourcedefinitions", "customresourcedefinitions/status"), path
                real.pop(many, None)
            assert set(said) == set(real), path

    run(cluster, scene)


# --- the client library


@asynccontextmanager
async def library(cluster: Cluster, token: str = ADMIN) -> AsyncIterator[Any]:
    async with cluster.serves():
        api = await config.new_client_from_config(str(cluster.kubeconfig(token)))
        async with api:
            yield api


def served(cluster: Cluster, scene: Callable[[Any], Coroutine[Any, Any, None]], token: str = ADMIN) -> None:
    async def main() -> None:
        async with library(cluster, token) as api:
            await scene(api)

    aio.run(main())


def configmap(name: str, **labels: str) -> Any:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels))


def test_the_library_creates_reads_changes_and_deletes(cluster: Cluster) -> None:
    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        for number in range(7):
            await core.create_namespaced_config_map("default", configmap(f"m{number}", odd=str(number % 2)))
        page = await core.list_namespaced_config_map("default", limit=5)
        rest = await core.list_namespaced_config_map("default", limit=5, _continue=page.metadata._continue)
        assert [each.metadata.name for each in [*page.items, *rest.items]] == [f"m{number}" for number in range(7)]
        odd = await core.list_namespaced_config_map("default", label_selector="odd in (1,2),odd!=3,odd,!even")
        assert [each.metadata.name for each in odd.items] == ["m1", "m3", "m5"]
        one = await core.list_config_map_for_all_namespaces(field_selector="metadata.name=m2")
        assert [each.metadata.name for each in one.items] == ["m2"]
        await core.patch_namespaced_config_map("m2", "default", [{"op": "add", "path": "/data", "value": {"a": "b"}}])
        changed = await core.read_namespaced_config_map("m2", "default")
        assert changed.data == {"a": "b"}
        changed.metadata.resource_version = one.items[0].metadata.resource_version
        with pytest.raises(client.ApiException) as conflict:
            await core.replace_namespaced_config_map("m2", "default", changed)
        assert conflict.value.status == 409
        with pytest.raises(client.ApiException) as unsupported:
            await core.list_namespaced_config_map("default", field_selector="data.a=b")
        assert (unsupported.value.status, "field label not supported: data.a" in unsupported.value.body) == (400, True)
        await core.delete_namespaced_config_map("m2", "default")
        with pytest.raises(client.ApiException) as gone:
            await core.read_namespaced_config_map("m2", "default")
        assert gone.value.status == 404
        await core.delete_collection_namespaced_config_map("default", label_selector="odd=1")
        left = await core.list_namespaced_config_map("default")
        assert [each.metadata.name for each in left.items] == ["m0", "m4", "m6"]

    served(cluster, scene)


def test_the_library_watches(cluster: Cluster) -> None:
    cluster.bookmark_every_s = 0.05

    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        await core.create_namespaced_config_map("default", configmap("a", app="web"))
        seen: list[tuple[str, str]] = []
        async with watch.Watch() as watching:
            events = watching.stream(
                core.list_namespaced_config_map, "default", label_selector="app=web", allow_watch_bookmarks=True
            )
            async for event in events:
                name = event["raw_object"]["metadata"].get("name", "")
                if event["type"] != "BOOKMARK" or ("BOOKMARK", "") not in seen:
                    seen.append((event["type"], name))
                match seen[-1]:
                    case ("ADDED", "a"):
                        await core.create_namespaced_config_map("default", configmap("b", app="other"))
                        await core.patch_namespaced_config_map("b", "default", {"metadata": {"labels": {"app": "web"}}})
                    case ("ADDED", "b"):
                        await core.patch_namespaced_config_map("b", "default", {"metadata": {"labels": {"app": None}}})
                    case ("DELETED", "b"):
                        pass
                    case ("BOOKMARK", ""):
                        if ("DELETED", "b") in seen:
                            break
        assert [each for each in seen if each[0] != "BOOKMARK"] == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "b")]

    served(cluster, scene)


@pytest.mark.parametrize("as_status", [False, True])
def test_the_library_hears_that_the_past_is_gone(cluster: Cluster, as_status: bool) -> None:
    cluster.gone_as_status = as_status

    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        old = (await core.list_namespaced_config_map("default")).metadata.resource_version
        await core.create_namespaced_config_map("default", configmap("a"))
        cluster.compact()
        async with watch.Watch() as watching:
            events = watching.stream(
                core.list_namespaced_config_map, "default", resource_version=old, timeout_seconds=5
            )
            with pytest.raises(client.ApiException) as gone:
                await anext(events)
        assert gone.value.status == 410

    served(cluster, scene)


def test_the_library_finds_custom_resources_by_discovery(cluster: Cluster) -> None:
    async def scene(api: Any) -> None:
        definition = recorded("crd")[0]["request"]["body"]
        await client.ApiextensionsV1Api(api).create_custom_resource_definition(definition)
        dynamic = await dynamic_client.DynamicClient(api)
        workloads = await dynamic.resources.get(api_version="meshd.io/v1", kind="Workload")
        body = {
            "apiVersion": "meshd.io/v1",
            "kind": "Workload",
            "metadata": {"name": "a"},
            "spec": {"ports": [{"port": 80}]},
        }
        await dynamic.create(workloads, body=body, namespace="default")
        found = await dynamic.get(workloads, namespace="default")
        assert [each.metadata.name for each in found.items] == ["a"]
        custom = client.CustomObjectsApi(api)
        with pytest.raises(client.ApiException) as wrong:
            await custom.create_namespaced_custom_object(
                "meshd.io", "v1", "default", "workloads", body | {"spec": {"ports": [{"port": "80"}]}}
            )
        assert wrong.value.status == 422

    served(cluster, scene)


def test_who_may_do_what(cluster: Cluster) -> None:
    cluster.users["a reader's"] = User("reader", rules=(Rule(("get", "list"), ("services",), ("",), "default"),))

    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        assert (await core.list_namespaced_service("default")).items == []
        for refused in (
            core.list_service_for_all_namespaces(),
            core.list_namespaced_service("kube-system"),
            core.list_namespaced_pod("default"),
            core.delete_namespaced_service("web", "default"),
        ):
            with pytest.raises(client.ApiException) as why:
                await refused
            assert why.value.status == 403

    served(cluster, scene, "a reader's")


def test_a_service_accounts_token_is_good_for_the_api_and_for_as_long_as_the_account_is_there(cluster: Cluster) -> None:
    cluster.account_rules["system:serviceaccount:default:default"] = (Rule(("list",), ("pods",)),)

    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
        given = await core.create_namespaced_service_account_token("default", "default", asked)
        account = await config.new_client_from_config(str(cluster.kubeconfig(given.status.token, "account")))
        async with account:
            pods = client.CoreV1Api(account)
            assert (await pods.list_pod_for_all_namespaces()).items == []
            await core.delete_namespaced_service_account("default", "default")
            with pytest.raises(client.ApiException) as unknown:
                await pods.list_pod_for_all_namespaces()
            assert unknown.value.status == 401

    served(cluster, scene)


def test_a_namespace_takes_all_that_is_in_it_along(cluster: Cluster) -> None:
    async def scene(api: Any) -> None:
        core = client.CoreV1Api(api)
        await core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="shop")))
        await core.create_namespaced_config_map("shop", configmap("a"))
        await core.delete_namespace("shop")
        assert (await core.list_config_map_for_all_namespaces()).items == []
        with pytest.raises(client.ApiException) as gone:
            await core.create_namespaced_config_map("shop", configmap("a"))
        assert (gone.value.status, 'namespaces \\"shop\\" not found' in gone.value.body) == (404, True)

    served(cluster, scene)


def test_watches_break_off_and_the_server_comes_back_on_its_port(cluster: Cluster) -> None:
    async def main() -> None:
        async with library(cluster) as api:
            core = client.CoreV1Api(api)
            response = await core.list_namespaced_config_map_without_preload_content("default", watch=True)
            await asyncio.sleep(0)
            assert cluster.break_watches() == 1
            with pytest.raises(aiohttp.ClientError):
                await response.content.readline()
            response.close()
        port = cluster.port
        async with library(cluster) as api:
            assert cluster.port == port
            assert (await client.CoreV1Api(api).list_namespace()).items

    aio.run(main())


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads proxies from the environment, which may have some."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
