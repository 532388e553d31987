"""A cluster's API server that is away, slow, forgetful, garbled, or knows us no longer: what is believed, and what is
said of it."""

import asyncio
import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web as http

from discovery.kubernetes.access import MAX_BODY_BYTES, Access
from discovery.kubernetes.lists import PAGE
from discovery.kubernetes.registry import KubernetesRegistry
from discovery.registry import Away
from meshd.api.control import Attach, Destination, GetStatus, ProxyConfiguration, Status, WatchDestination
from meshd.api.endpoints import EndpointSet
from meshd.ca.authority import Authority as Ca
from meshd.client.sockets import answers as is_answered
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.following import following
from tests.support.kubernetes import Cluster, Rule, User
from tests.support.kubernetes.bodies import endpoint, pod, service, slice_of
from tests.support.kubernetes.stages import SLICES, key, lists, play, reader, watches
from tests.support.kubernetes.worlds import World, at
from tests.support.processes import running
from tests.support.waiting import eventually


def test_bookmarks_confirm_what_is_known_and_a_watch_goes_on_from_them(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        cluster.bookmark_every_s = 0.05
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            count = len(web.said)
            await eventually(lambda: len(web.said) > count + 3, "it is said again")
            assert all(said == web.said[-1] for said in web.said)
            listed = cluster.api.store.version
            await here.account("somebody")  # of no concern, but a later version
            await eventually(lambda: len(web.said) > count + 8, "a bookmark with it")
            cluster.compact()
            cluster.break_watches()
            await eventually(lambda: len(watches(cluster)) > 1, "it is watched again")
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
            await eventually(lambda: watches(cluster), "it is watched")
            cluster.interfere = hold
            cluster.break_watches()
            await eventually(lambda: len(watches(cluster)) > 1, "it is to be watched again")
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
                await eventually(cluster.break_watches, "it is watched")
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

    aio.run(main())


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

    aio.run(main())


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


def test_following_ends_promptly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            await eventually(lambda: watches(cluster), "it is watched")
            assert registry.watches == 2
        assert registry.watches == 0
        await eventually(lambda: cluster.break_watches() == 0, "the watches have ended")

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
        heard = await eventually(lambda: client.heard.get(watch), "where web is")
        assert heard is not None
        answer = heard[0]
        await client.close()
        assert isinstance(answer, Destination)
        assert answer.found is not None
        return answer.found

    async def health(healthy: bool) -> str:
        client = await ControlClient.connect(socket)
        async with asyncio.timeout(60.0):
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
        with running(argv, tmp_path / "agent.log", lambda: is_answered(socket)):
            aio.run(scene(), 100.0)


def test_a_watch_that_is_left_waits_for_no_end_of_tls(tmp_path: Path) -> None:
    """A server that is gone would not answer it: what comes after the request is the end of the connection alone."""

    def answer(listener: socket.socket) -> bytes:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(tmp_path / "api.pem")
        with made.wrap_socket(listener.accept()[0], server_side=True) as encrypted:
            while not encrypted.recv(2**16).endswith(b"\r\n\r\n"):
                pass
            encrypted.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
            with socket.socket(fileno=os.dup(encrypted.fileno())) as raw:
                raw.setblocking(True)
                try:
                    return raw.recv(2**16)
                except ConnectionResetError:
                    return b""

    async def main() -> None:
        double = Cluster(tmp_path)
        async with double.serves():
            pass  # its certificates are there
        with socket.create_server(("127.0.0.1", 0)) as listener:
            double.port = listener.getsockname()[1]
            left = asyncio.get_running_loop().run_in_executor(None, answer, listener)
            access = Access(str(double.kubeconfig()))
            async with access.lines("/api/v1/pods", {"watch": "1"}, 60.0) as lines:
                assert await anext(lines) == b"{}"
            assert await left == b""
            await access.close()

    aio.run(main())
