"""A cluster's API server that is away, slow, forgetful, garbled, or knows us no longer: what is believed, and what is
said of it."""

import asyncio
import copy
import json
import logging
import random
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web as http

from discovery.backends import Place
from discovery.kubernetes.access import MAX_BODY_BYTES, Access
from discovery.kubernetes.feeds import FEW
from discovery.kubernetes.lists import PAGE
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.registry import KubernetesRegistry
from discovery.kubernetes.settings import KubernetesDiscovery
from discovery.registry import Away, Denied
from meshd.api.control import Attach, Destination, GetStatus, ProxyConfiguration, Status, WatchDestination
from meshd.api.endpoints import EndpointSet
from meshd.ca.authority import Authority as Ca
from meshd.client.sockets import answers as is_answered
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.following import Readings, following
from tests.support.kubernetes import Cluster, Rule, User
from tests.support.kubernetes.api import Place as ApiPlace
from tests.support.kubernetes.bodies import endpoint, pod, service, slice_of
from tests.support.kubernetes.core import SERVICES as SERVICES_KIND
from tests.support.kubernetes.core import SLICES as SLICES_KIND
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.worlds import World, at
from tests.support.processes import running
from tests.support.waiting import eventually

SLICES = "/endpointslices"


@asynccontextmanager
async def stage(directory: Path, **how: Any) -> AsyncIterator[tuple[Cluster, World, KubernetesRegistry]]:
    """A double with the service `web` at 192.0.2.1, and a registry that reads it. `how` is for Access."""
    cluster = Cluster(directory)
    async with cluster.serves(), at(cluster.kubeconfig(), cluster) as here:
        await here.service(service("web", ("", 80, 8080)))
        await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1"), ports={"": 8080}))
        cluster.requests.clear()
        registry = reader(how.pop("kubeconfig", cluster.kubeconfig()), **how)
        try:
            yield cluster, here, registry
        finally:
            await registry.close()


def reader(kubeconfig: Path | None, **how: Any) -> KubernetesRegistry:
    settings = KubernetesDiscovery("" if kubeconfig is None else str(kubeconfig))
    place = Place("kubernetes", "prod.example", "vm1", "")
    return KubernetesRegistry(settings, place, Access(settings.kubeconfig, settings.context, **how))


Scene = Callable[[Cluster, World, KubernetesRegistry], Coroutine[Any, Any, None]]


def play(directory: Path, scene: Scene, **how: Any) -> None:
    async def main() -> None:
        async with stage(directory, **how) as (cluster, here, registry):
            await scene(cluster, here, registry)

    aio.run(main(), 110.0)


def key(here: World) -> ServiceKey:
    return ServiceKey(here.namespace, "web")


def watches(cluster: Cluster) -> list[dict[str, str]]:
    return [query for _, path, query in cluster.requests if query.get("watch") and path.endswith(SLICES)]


def lists(cluster: Cluster) -> int:
    asked = [each for each in cluster.requests if each[0] == "GET" and each[1].endswith(SLICES)]
    return len([query for _, _, query in asked if "watch" not in query])


def test_bookmarks_confirm_what_is_known_and_a_watch_goes_on_from_them(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        cluster.bookmark_every_s = 0.05
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            count = len(web.said)
            await eventually(lambda: len(web.said) > count + 3, "it is said again", 30.0)
            assert all(said == web.said[-1] for said in web.said)
            listed = cluster.api.store.version
            await here.account("somebody")  # of no concern, but a later version
            await eventually(lambda: len(web.said) > count + 8, "a bookmark with it", 30.0)
            cluster.compact()
            cluster.break_watches()
            await eventually(lambda: len(watches(cluster)) > 1, "it is watched again", 30.0)
            assert int(watches(cluster)[-1]["resourceVersion"]) > listed
            assert lists(cluster) == 1

    play(tmp_path, scene)


@pytest.mark.parametrize("as_status", [False, True])
def test_what_changed_in_a_past_that_is_gone_is_listed_again(tmp_path: Path, as_status: bool) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        cluster.gone_as_status = as_status
        held = asyncio.Event()

        async def hold(request: http.Request) -> None:
            if request.query.get("watch") and len(watches(cluster)) > 1:
                await held.wait()

        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            await eventually(lambda: watches(cluster), "it is watched", 30.0)
            cluster.interfere = hold
            cluster.break_watches()
            await eventually(lambda: len(watches(cluster)) > 1, "it is to be watched again", 30.0)
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), ports={"": 8080}))
            await here.delete_slice("web-1")
            cluster.compact()
            held.set()
            await web.endpoints("192.0.2.2")
            assert lists(cluster) == 2
            await here.delete_slice("web-2")
            await web.endpoints()

    play(tmp_path, scene)


def test_a_watch_that_breaks_off_goes_on_from_where_it_was(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            for number in range(2, 6):
                await eventually(cluster.break_watches, "it is watched", 30.0)
                await here.slice(slice_of("web", f"web-{number}", endpoint(f"192.0.2.{number}"), ports={"": 8080}))
                await web.endpoints(*(f"192.0.2.{each}" for each in range(1, number + 1)))
            assert lists(cluster) == 1

    play(tmp_path, scene)


def test_a_server_that_is_gone_is_away_and_one_that_is_back_is_read_anew(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serves(), at(cluster.kubeconfig(), cluster) as here:
            await here.service(service("web", ("", 80, 8080)))
            await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1"), ports={"": 8080}))
        registry = reader(cluster.kubeconfig())
        with pytest.raises(Away, match=rf"^{cluster.url}: .*(refused|connect)"):
            await registry.probe()
        async with cluster.serves():
            await registry.probe()
            async with following(registry, key(here)) as web:
                await web.endpoints("192.0.2.1")
                assert web.away == ""
        async with cluster.serves(), following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
        async with following(registry, key(here)) as web:
            assert "127.0.0.1" in await web.ended()
        await registry.close()

    aio.run(main(), 110.0)


def test_a_server_that_goes_while_it_is_watched_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path)
        registry = None
        async with cluster.serves(), at(cluster.kubeconfig(), cluster) as here:
            await here.service(service("web", ("", 80, 8080)))
            registry = reader(cluster.kubeconfig())
            readings = following(registry, key(here))
            web = await readings.__aenter__()
            await web.endpoints()
        await web.ended()
        await readings.__aexit__(None, None, None)
        assert registry.watches == 0
        await registry.close()

    aio.run(main(), 110.0)


def test_a_server_that_does_not_answer_is_away(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        never = asyncio.Event()

        async def hang(_: http.Request) -> None:
            await never.wait()

        cluster.interfere = hang
        with pytest.raises(Away, match="no answer in time"):
            await registry.probe()
        async with following(registry, key(here)) as web:
            assert "no answer in time" in await web.ended()
        never.set()

    play(tmp_path, scene, answer_s=0.3)


def listing(**changes: Any) -> str:
    page = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": "7"}, "items": [slice_with()]}
    return json.dumps({key: value for key, value in (page | changes).items() if value is not None})


def slice_with(name: str = "web-1", **changes: Any) -> dict[str, Any]:
    """A slice of `web`, in the namespace HERE."""
    made = slice_of("web", name, endpoint("192.0.2.1"), ports={"": 8080})
    made["metadata"]["namespace"] = "HERE"
    return made | changes


GARBAGE = [
    "", "null", "[]", "{", "\x00\xff", "<html>", "{}", '{"kind": "EndpointSliceList"}',
    listing(kind="ServiceList"), listing(kind="Status"), listing(metadata=None), listing(metadata={}),
    listing(metadata={"resourceVersion": ""}), listing(metadata={"resourceVersion": 7}),
    listing(items="none"), listing(items=[None]), listing(items=[{}]),
    listing(items=[slice_with("")]), listing(items=[slice_with("x" * 254)]),
    listing(items=[slice_with(metadata={"name": "a"})]),
    listing(items=[slice_with(endpoints=[{"addresses": []}])]),
    listing(items=[slice_with(endpoints=[{"addresses": ["web"]}])]),
    listing(items=[slice_with(endpoints=[{"addresses": ["192.0.2.256"]}])]),
    listing(items=[slice_with(endpoints=[{"addresses": ["2001:db8::1"]}])]),
    listing(items=[slice_with(endpoints=[{"addresses": [7]}])]),
    listing(items=[slice_with(endpoints=[endpoint("192.0.2.1", conditions="good")])]),
    listing(items=[slice_with(endpoints=[endpoint("192.0.2.1", targetRef={"kind": "Pod", "name": "a"})])]),
    listing(items=[slice_with(endpoints=[
        endpoint("192.0.2.1", targetRef={"kind": "Pod", "name": "a", "uid": "1", "namespace": "another"})
    ])]),
    listing(items=[slice_with(ports=[{"name": "", "port": 0}])]),
    listing(items=[slice_with(ports=[{"name": "", "port": 65536}])]),
    listing(items=[slice_with(ports=[{"name": "", "port": "http"}])]),
]  # fmt: skip


def test_a_list_that_is_garbage_is_not_believed(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        async def garble(request: http.Request) -> http.Response | None:
            if not request.path.endswith(SLICES):
                return None
            return http.Response(
                body=body.replace("HERE", here.namespace).encode("latin-1"), content_type="application/json"
            )

        cluster.interfere = garble
        for body in GARBAGE:
            async with following(registry, key(here)) as web:
                assert await web.ended(), body
                assert web.said == [], body

    play(tmp_path, scene)


EVENTS = [
    "null", "{}", '{"type": "ADDED"}', '{"type": "ADDED", "object": {}}', '{"type": "MOVED", "object": {"metadata": '
    '{"resourceVersion": "9"}}}', '{"type": "BOOKMARK", "object": {"metadata": {}}}', "x" * 100,
    '{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd", "reason": "InternalError"}}',
    '{"type": "ERROR", "object": 7}',
]  # fmt: skip


def test_a_watch_that_is_garbage_is_not_believed(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        async def garble(request: http.Request) -> http.Response | None:
            if not (request.query.get("watch") and request.path.endswith(SLICES)):
                return None
            return http.Response(body=event.encode() + b"\n", content_type="application/json")

        cluster.interfere = garble
        for event in EVENTS:
            async with following(registry, key(here)) as web:
                assert "watches end" not in await web.ended(), event

    play(tmp_path, scene)


def test_answers_and_lists_and_watches_without_end_are_not_waited_for(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        watched = False

        async def endless(request: http.Request) -> http.StreamResponse | None:
            if not request.path.endswith(SLICES):
                return None
            if watched == bool(request.query.get("watch")):
                response = http.StreamResponse()
                await response.prepare(request)
                try:
                    for _ in range(2 * MAX_BODY_BYTES // 2**20):
                        await response.write(b" " * 2**20)
                except ConnectionError:
                    pass
                return response
            return None

        async def paged(request: http.Request) -> http.StreamResponse | None:
            if not request.path.endswith(SLICES) or request.query.get("watch"):
                return None
            items = [slice_with(f"s{number}") for number in range(PAGE)]
            page = listing(items=items, metadata={"resourceVersion": "7", "continue": "more"})
            return http.Response(text=page.replace("HERE", here.namespace), content_type="application/json")

        cluster.interfere = endless
        for said in ("an answer above", "an event above"):
            async with following(registry, key(here)) as web:
                assert said in await web.ended()
            watched = True
        cluster.interfere = paged
        async with following(registry, key(here)) as web:
            assert "more than 20000 objects" in await web.ended()

    play(tmp_path, scene)


def test_more_endpoints_than_are_believed(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        many = [endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(20_001)]
        parts = [many[place : place + 1000] for place in range(0, len(many), 1000)]
        for number, part in enumerate(parts[:-1]):
            await here.slice(slice_of("web", f"many-{number}", *part, ports={"": 8080}))
        await here.delete_slice("web-1")
        async with following(registry, key(here)) as web:
            said = await web.until(lambda _: True, "anything")
            assert said is not None
            assert len(said.endpoints) == 20_000
            await here.slice(slice_of("web", "one-more", *parts[-1], ports={"": 8080}))
            assert "20001 endpoints of web, more than 20000" in await web.ended()

    play(tmp_path, scene)


def test_a_server_that_forgets_what_it_just_listed_or_ends_every_watch_is_away(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        status = 410

        async def answers(request: http.Request) -> http.StreamResponse | None:
            if not (request.query.get("watch") and request.path.endswith(SLICES)):
                return None
            return http.Response(text="", content_type="application/json", status=status)

        cluster.interfere = answers
        async with following(registry, key(here)) as web:
            assert "too old to be watched" in await web.ended()
        status = 200
        async with following(registry, key(here)) as web:
            assert "end as soon as they begin" in await web.ended()

    play(tmp_path, scene)


def test_what_may_not_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        rule = Rule(("get", "list", "watch"), ("services", "pods"), ("",))
        cluster.users["a token"] = User("agent", rules=(rule,))
        limited = reader(cluster.kubeconfig("a token", "limited"))
        async with following(limited, key(here)) as web:
            said = await web.ended()
        assert 'User "agent" cannot list resource "endpointslices"' in said
        assert "needs get, list and watch for services, endpointslices and pods" in said
        stranger = reader(cluster.kubeconfig("nobody's token", "stranger"))
        with pytest.raises(Denied, match=r"Unauthorized \(status 401\): it does not know these credentials"):
            await stranger.probe()
        await limited.close()
        await stranger.close()

    play(tmp_path, scene)


def test_a_token_that_was_rotated_is_read_again_without_a_break(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        token = tmp_path / "token"
        config = json.loads(cluster.kubeconfig().read_text())
        config["users"][0]["user"] = {"tokenFile": str(token)}
        (tmp_path / "by-file").write_text(json.dumps(config))
        cluster.users["one"] = cluster.users["two"] = User("agent", rules=(Rule(),))
        token.write_text("one")
        registry = reader(tmp_path / "by-file")
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            token.write_text("two\n")
            del cluster.users["one"]
            cluster.break_watches()
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), ports={"": 8080}))
            await web.endpoints("192.0.2.1", "192.0.2.2")
            assert web.away == ""
        await registry.close()

    play(tmp_path, scene)


def test_in_a_pod_the_service_accounts_token_is_used_as_it_rotates(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        account = tmp_path / "account"
        account.mkdir()
        (account / "ca.crt").write_bytes(cluster.ca.read_bytes())
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)}
        registry = reader(None, account=account, environ=environ)
        with pytest.raises(Away, match=r"the pod's service account: .*token"):
            await registry.probe()
        cluster.account_rules["system:serviceaccount:default:default"] = (Rule(),)
        tokens = [cluster.add("system:serviceaccount:default:default", "https://kubernetes.default.svc") for _ in "12"]
        (account / "token").write_text(tokens[0] + "\n")
        await eventually_there(registry)
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            (account / "token").write_text(tokens[1])
            del cluster.accounts[tokens[0]]
            cluster.break_watches()
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), ports={"": 8080}))
            await web.endpoints("192.0.2.1", "192.0.2.2")
        await registry.close()
        outside = reader(None, account=account, environ={})
        with pytest.raises(Away, match="the pod's service account: Service host/port is not set"):
            await outside.probe()

    play(tmp_path, scene)


async def eventually_there(registry: KubernetesRegistry) -> None:
    async with asyncio.timeout(60.0):
        while True:
            try:
                await registry.probe()
            except Away:
                await asyncio.sleep(0.05)
            else:
                return


def test_a_plugin_gives_credentials_and_gives_new_ones_when_they_are_no_longer_good(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        given, plugin, runs = tmp_path / "given", tmp_path / "plugin", tmp_path / "runs"
        plugin.write_text(f"#!/bin/sh\necho run >> {runs}\ncat {given}\n")
        plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
        version = "client.authentication.k8s.io/v1"

        def give(token: str) -> None:
            credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
            given.write_text(json.dumps(credential))

        config = json.loads(cluster.kubeconfig().read_text())
        config["users"][0]["user"] = {"exec": {"apiVersion": version, "command": str(plugin), "args": []}}
        (tmp_path / "by-plugin").write_text(json.dumps(config))
        cluster.users["one"] = cluster.users["two"] = User("agent", rules=(Rule(),))
        registry = reader(tmp_path / "by-plugin")
        said = await asyncio.gather(*(registry.probe() for _ in range(20)), return_exceptions=True)
        assert len(said) == sum("no credentials in it, or its plugin gave none" in str(each) for each in said)
        assert runs.read_text() == "run\n"  # not twenty times
        give("one")
        await eventually_there(registry)
        give("two")
        del cluster.users["one"]
        await registry.probe()
        await registry.close()

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify is not to be had"),
        ({"server": "http://127.0.0.1:8001"}, "is not an https URL"),
        ({"certificate-authority": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"certificate-authority-data": "AAAA", "certificate-authority": None}, "certificate"),
    ],
)
def test_a_server_that_cannot_be_known_for_what_it_is_is_not_spoken_to(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    async def scene(cluster: Cluster, _: World, __: KubernetesRegistry) -> None:
        config = json.loads(cluster.kubeconfig().read_text())
        changed = config["clusters"][0]["cluster"] | change
        config["clusters"][0]["cluster"] = {name: value for name, value in changed.items() if value is not None}
        (tmp_path / "changed").write_text(json.dumps(config))
        registry = reader(tmp_path / "changed")
        cluster.requests.clear()
        with pytest.raises(Away, match=said):
            await registry.probe()
        assert cluster.requests == []

    play(tmp_path, scene)


def test_another_server_in_its_place_is_not_spoken_to(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "other").mkdir()
        right, other = Cluster(tmp_path), Cluster(tmp_path / "other")
        async with right.serves(), other.serves():
            config = json.loads(right.kubeconfig().read_text())
            config["clusters"][0]["cluster"]["server"] = other.url
            (tmp_path / "wrong").write_text(json.dumps(config))
            registry = reader(tmp_path / "wrong")
            with pytest.raises(Away, match="its certificate is not good"):
                await registry.probe()
            assert other.requests == []
            await registry.close()

    aio.run(main())


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("", ""), ("{", ""), ("[]", ""), ("{}", ""), ('{"current-context": "x"}', "")],
)
def test_a_kubeconfig_that_is_none_is_said_to_be(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)

    async def main() -> None:
        registry = reader(file)
        with pytest.raises(Away, match=f"^{file}: .*{said}"):
            await registry.probe()
        await registry.close()

    aio.run(main())


def test_no_secret_is_in_what_is_said_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        cluster.users["s3cr3t"] = User("agent")
        registry = reader(cluster.kubeconfig("s3cr3t", "secret"))
        async with following(registry, key(here)) as web:
            assert "s3cr3t" not in await web.ended()
        await registry.close()

    play(tmp_path, scene)
    assert "s3cr3t" not in caplog.text


def test_a_pod_that_cannot_be_read_holds_its_service_back_rather_than_being_taken_for_plain(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        meshed = await here.pod(pod("a"))
        rule = Rule(("get", "list", "watch"), ("services", "endpointslices"))
        cluster.users["a token"] = User("agent", rules=(rule,))
        limited = reader(cluster.kubeconfig("a token", "limited"))
        await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2", meshed), ports={"": 8080}))
        async with following(limited, key(here)) as web:
            assert 'cannot get resource "pods"' in await web.ended()
            assert web.said == []
        await limited.close()

    play(tmp_path, scene)


def test_what_is_passed_over_is_complained_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        cluster.bookmark_every_s = 0.05
        await here.account("web.v2")
        await here.slice(
            slice_of("web", "web-2", endpoint("192.0.2.2", await here.pod(pod("a", "web.v2"))), ports={"": 8080})
        )
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            await here.slice(slice_of("web", "web-3", endpoint("192.0.2.3"), ports={"": 8080}))
            await web.endpoints("192.0.2.1", "192.0.2.3")
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1", "192.0.2.3")

    play(tmp_path, scene)
    said = [each.getMessage() for each in caplog.records if "web.v2" in each.getMessage()]
    assert len(said) == 1
    assert "'web.v2' is not a DNS label" in said[0]


class Late:
    """Services of which one is asked for after the watch of many began. Its own list is as it was when it was asked
    for, but comes only when `own` is set; lists of all of them are made only when `all` is."""

    def __init__(self, cluster: Cluster, here: World) -> None:
        self._cluster, self._here = cluster, here
        self.names = [f"s{number}" for number in range(FEW + 1)]
        self.asked, self.own, self.all = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.all.set()

    async def begin(self) -> None:
        for name in (*self.names, "late"):
            await self._here.service(service(name, ("", 80, 8080)))
            await self._here.slice(slice_of(name, f"{name}-0", endpoint("192.0.2.1"), ports={"": 8080}))

    async def hold(self, request: http.Request) -> http.Response | None:
        if request.method != "GET" or not request.path.endswith(SLICES) or request.query.get("watch"):
            return None
        if "late" in request.query.get("labelSelector", ""):
            body = self._cluster.api.list(place(self._here, SLICES_KIND), request.query)
            self.asked.set()
            await self.own.wait()
            return http.json_response(body)
        await self.all.wait()
        return None

    def key(self, name: str) -> ServiceKey:
        return ServiceKey(self._here.namespace, name)

    async def moves(self) -> None:
        """What is `late` is now elsewhere."""
        now = self._cluster.api.get(place(self._here, SLICES_KIND, "late-0"))
        await self._here.set_slice(now | {"endpoints": [endpoint("192.0.2.2")]})


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
def test_a_list_that_comes_late_does_not_undo_a_newer_one(tmp_path: Path, asked: str) -> None:
    """One service is asked for before, or while, all are listed again, and its own list comes after."""

    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        late = Late(cluster, here)
        await late.begin()
        async with AsyncExitStack() as stack:

            async def follow(name: str) -> Readings:
                return await stack.enter_async_context(following(registry, late.key(name)))

            for name in late.names:
                many = await follow(name)
                await many.endpoints("192.0.2.1")
            cluster.interfere = late.hold
            if asked == "before":
                last = await follow("late")
                await late.asked.wait()
                await late.moves()
            late.all.clear()
            count = lists(cluster)
            await here.account("somebody")
            cluster.compact()
            cluster.break_watches()
            await eventually(lambda: lists(cluster) > count + FEW, "all are listed again", 30.0)
            if asked == "meanwhile":
                last = await follow("late")
                await late.asked.wait()
                await late.moves()
            count = len(watches(cluster))
            late.all.set()
            await eventually(lambda: len(watches(cluster)) > count + FEW, "all are watched again", 30.0)
            late.own.set()
            await last.endpoints("192.0.2.2")
            await here.slice(slice_of("late", "late-1", endpoint("192.0.2.3"), ports={"": 8080}))
            await last.endpoints("192.0.2.2", "192.0.2.3")
            assert all(
                said is None or "192.0.2.1" not in [each.address for each in said.endpoints] for said in last.said
            )

    play(tmp_path, scene)


async def truth(here: World, name: str) -> set[str]:
    """The addresses that the cluster has for a service."""
    assert here.double is not None
    listed = here.double.api.list(place(here, SLICES_KIND), {"labelSelector": f"kubernetes.io/service-name={name}"})
    return {each["addresses"][0] for slice_ in listed["items"] for each in slice_["endpoints"]}


def place(here: World, kind: Kind, name: str = "") -> ApiPlace:
    return ApiPlace(kind, here.namespace, name)


def test_many_services_of_a_namespace_share_watches_and_miss_nothing(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        draw = random.Random(20261121)
        cluster.bookmark_every_s = 0.2
        names = [f"s{number}" for number in range(30)]
        for name in names:
            cluster.api.create(place(here, SERVICES_KIND), service(name, ("", 80, 8080)), "test")

        def change() -> None:
            name = draw.choice(names)
            slice_name = f"{name}-{draw.randrange(3)}"
            body = slice_of(name, slice_name, endpoint(f"192.0.2.{draw.randrange(1, 255)}"), ports={"": 8080})
            there = cluster.api.store.get(SLICES_KIND.key, (here.namespace, slice_name))
            if there is None:
                cluster.api.create(place(here, SLICES_KIND), body, "test")
            elif draw.random() < 0.3:
                cluster.api.delete(place(here, SLICES_KIND, slice_name), {}, "test")
            else:
                cluster.api.update(place(here, SLICES_KIND, slice_name), body, "test")

        async with AsyncExitStack() as stack:
            read: dict[str, Readings] = {}
            let_go: list[tuple[str, AsyncExitStack]] = []
            for turn in range(400):
                change()
                if turn % 10 == 0 and len(read) < len(names):
                    name = names[len(read)]
                    mine = await stack.enter_async_context(AsyncExitStack())
                    read[name] = await mine.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                    let_go.append((name, mine))
                if turn in (180, 260, 340):  # no more often: a server that always does this is away
                    if turn > 180:
                        cluster.compact()
                    cluster.break_watches()
                if turn % 100 == 99:  # one goes, and its name is asked for anew
                    name, mine = let_go.pop(0)
                    await mine.aclose()
                    read[name] = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                await asyncio.sleep(0.002)
            assert len(read) == len(names)
            for name, readings in read.items():
                wanted = await truth(here, name)
                await readings.endpoints(*wanted)
            assert registry.watches <= 2 * 9
        assert registry.watches == 0

    play(tmp_path, scene)


def test_what_is_watched_while_a_list_is_under_way_is_newer_than_the_list(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        names = [f"s{number}" for number in range(FEW + 2)]
        *others, first_of_many, late = names
        for name in names:
            await here.service(service(name, ("", 80, 8080)))
            await here.slice(slice_of(name, f"{name}-0", endpoint("192.0.2.1"), ports={"": 8080}))
        await here.slice(slice_of(late, f"{late}-1", endpoint("192.0.2.9"), ports={"": 8080}))
        asked, released = asyncio.Event(), asyncio.Event()

        async def delay(request: http.Request) -> http.Response | None:
            """The list is as it was when it was asked for, but comes late."""
            if late not in request.query.get("labelSelector", ""):
                return None
            body = cluster.api.list(place(here, SLICES_KIND), request.query)
            asked.set()
            await released.wait()
            return http.json_response(body)

        async with AsyncExitStack() as stack:
            for name in (*others, first_of_many):
                readings = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, name)))
                await readings.endpoints("192.0.2.1")
            cluster.interfere = delay
            last = await stack.enter_async_context(following(registry, ServiceKey(here.namespace, late)))
            await asked.wait()
            changed = cluster.api.get(place(here, SLICES_KIND, f"{late}-0")) | {"endpoints": [endpoint("192.0.2.2")]}
            await here.set_slice(changed)
            await here.delete_slice(f"{late}-1")
            await here.slice(slice_of(first_of_many, "more", endpoint("192.0.2.3"), ports={"": 8080}))
            await readings.endpoints("192.0.2.1", "192.0.2.3")  # so the watch has come past all of it
            assert last.said == []
            released.set()
            await last.endpoints("192.0.2.2")
            assert len(last.said) == 1
            moved = copy.deepcopy(cluster.api.get(place(here, SLICES_KIND, f"{late}-0")))
            moved["metadata"]["labels"]["kubernetes.io/service-name"] = first_of_many
            await here.set_slice(moved)
            await last.endpoints()
            await readings.endpoints("192.0.2.1", "192.0.2.2", "192.0.2.3")

    play(tmp_path, scene)


def test_following_ends_promptly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            await eventually(lambda: watches(cluster), "it is watched", 30.0)
            assert registry.watches == 2
        assert registry.watches == 0
        await eventually(lambda: cluster.break_watches() == 0, "the watches have ended", 30.0)

    play(tmp_path, scene)


def test_an_agent_serves_what_it_knew_while_the_cluster_is_away_and_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    socket = tmp_path / "meshd.sock"
    Ca.create(tmp_path / "ca", "prod.example", time.time(), "a token of the test").close()
    argv = [sys.executable, "-m", "meshd.cli", "agent", "--config", str(tmp_path / "meshd.yaml")]
    namespace = ""

    async def found() -> EndpointSet:
        client = await ControlClient.connect(socket)
        assert isinstance(await client.call(Attach("")), ProxyConfiguration)
        watch = client.say(WatchDestination(f"web.{namespace}", "default"))
        heard = await eventually(lambda: client.heard.get(watch), "where web is", 30.0)
        assert heard is not None
        answer = heard[0]
        await client.close()
        assert isinstance(answer, Destination)
        assert answer.found is not None
        return answer.found

    async def health(healthy: bool) -> str:
        client = await ControlClient.connect(socket)
        async with asyncio.timeout(30.0):
            while True:
                status = await client.call(GetStatus())
                assert isinstance(status, Status)
                (said,) = [each for each in status.discovery if each.name == "east"]
                if said.healthy == healthy:
                    await client.close()
                    return said.message
                await asyncio.sleep(0.05)

    async def there_and_away() -> None:
        nonlocal namespace
        async with cluster.serves(), at(cluster.kubeconfig(), cluster) as here:
            namespace = here.namespace
            await here.service(service("web", ("", 80, 8080)))
            meshed = await here.pod(pod("a"))
            await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1", meshed), ports={"": 8080}))
            known = await found()
            assert (known.source, known.stale) == ("east", False)
            assert [(each.address, each.identity) for each in known.endpoints] == [
                ("192.0.2.1", f"spiffe://prod.example/ns/{namespace}/sa/default")
            ]
            assert await health(True) == ""
        assert cluster.url in await health(False)
        assert (await found()).stale

    async def still_known() -> None:
        known = await found()
        assert (known.stale, [each.address for each in known.endpoints]) == (True, ["192.0.2.1"])

    async def begin() -> None:
        async with cluster.serves():
            (tmp_path / "meshd.yaml").write_text(
                f"trustDomain: prod.example\nstateDir: {tmp_path}/state\nsocket: {socket}\nadmin: ''\n"
                "names: {listen: ''}\n"
                f"ca: {{bundle: {tmp_path}/ca/bundle.pem, tokenFile: {tmp_path}/ca/agent.token}}\n"
                f"discovery:\n- name: east\n  kubernetes: {{kubeconfig: {cluster.kubeconfig()}}}\n"
            )

    aio.run(begin())
    for scene in (there_and_away, still_known):
        with running(argv, tmp_path / "agent.log", lambda: is_answered(socket), deadline_s=30.0):
            aio.run(scene(), 100.0)
