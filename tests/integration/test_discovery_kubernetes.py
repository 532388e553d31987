"""Services of a cluster, found through its API server: at a double of it, or at a real one (`make test-k8s`)."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from discovery.backends import Place
from discovery.kubernetes.names import ServiceKey
from discovery.kubernetes.registry import KubernetesRegistry
from discovery.kubernetes.settings import KubernetesDiscovery
from discovery.registry import Located
from meshd.api.endpoints import Endpoint
from tests.support import aio
from tests.support.following import following
from tests.support.kubernetes.api import Place as ApiPlace
from tests.support.kubernetes.bodies import endpoint, pod, service, slice_of
from tests.support.kubernetes.core import SERVICES
from tests.support.kubernetes.worlds import World, world

TRUST_DOMAIN = "prod.example"


@asynccontextmanager
async def registered(here: World) -> AsyncIterator[KubernetesRegistry]:
    settings = KubernetesDiscovery(str(here.kubeconfig))
    registry = KubernetesRegistry(settings, Place("kubernetes", TRUST_DOMAIN, "vm1", "zone-a"))
    try:
        yield registry
    finally:
        await registry.close()


Scene = Callable[[World, KubernetesRegistry], Coroutine[Any, Any, None]]


def play(directory: Path, scene: Scene) -> None:
    async def main() -> None:
        async with world(directory) as here, registered(here) as registry:
            await scene(here, registry)

    aio.run(main(), 120.0)


def test_a_service_is_where_its_slices_say_and_moves_as_they_do(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.service(service("web", ("http", 80, 8080), ("metrics", 9090, 9091)))
        ports = {"http": 8080, "metrics": 9091}
        made = await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1", zone="zone-a"), ports=ports))
        async with (
            following(registry, ServiceKey(here.namespace, "web", 80)) as web,
            following(registry, ServiceKey(here.namespace, "web", 9090)) as metrics,
        ):
            said = await web.endpoints("192.0.2.1")
            assert said.endpoints == (Endpoint("192.0.2.1", 8080, zone="zone-a"),)
            assert str(said.service) == f"web.{here.namespace}:80"
            assert [each.port for each in (await metrics.endpoints("192.0.2.1")).endpoints] == [9091]
            assert registry.watches == 2  # for the two of them
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), endpoint("192.0.2.1"), ports=ports))
            await web.endpoints("192.0.2.1", "192.0.2.2")  # and 192.0.2.1 once
            await here.set_slice(made | {"endpoints": [endpoint("192.0.2.3", conditions={"ready": False})]})
            await web.endpoints("192.0.2.1", "192.0.2.2")
            await here.delete_slice("web-2")
            await web.endpoints()
            await here.delete_service("web")
            await web.until(lambda said: said is None, "the service is no more")
        assert registry.watches == 0

    play(tmp_path, scene)


def test_a_meshed_pods_identity_is_its_service_accounts(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.account("web")
        await here.account("web.v2")
        await here.service(service("web", ("", 80, 8080)))
        meshed = await here.pod(pod("a", "web"))
        other_port = await here.pod(pod("b", "web", annotations={"config.meshd.io/inbound-port": "4999"}))
        plain = await here.pod(pod("c", "web", meshed=False))
        nameless = await here.pod(pod("d", "web.v2"))
        gone = await here.pod(pod("e", "web"))
        await here.delete_pod("e")
        again = await here.pod(pod("e", "web"))  # as a StatefulSet makes it again, with another uid
        found = [
            endpoint(f"192.0.2.{place}", each)
            for place, each in enumerate((meshed, other_port, plain, nameless, gone, again), 1)
        ]
        await here.slice(slice_of("web", "web-1", *found, ports={"": 8080}))
        async with following(registry, ServiceKey(here.namespace, "web")) as web:
            said = await web.endpoints("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.6")
            identity = f"spiffe://{TRUST_DOMAIN}/ns/{here.namespace}/sa/web"
            assert [(each.address[-1], each.identity, each.inbound_port) for each in said.endpoints] == [
                ("1", identity, 4143),
                ("2", identity, 4999),
                ("3", "", 0),
                ("6", identity, 4143),
            ]
            assert said.endpoints[0].labels == {"pod": "a"}

    play(tmp_path, scene)


def test_many_pods_are_read_by_one_list_and_only_those_behind_the_service(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.service(service("web", ("", 80, 8080), selector={"app": "web"}))
        pods = [await here.pod(pod(f"p{number}", labels={"app": "web"})) for number in range(12)]
        found = [endpoint(f"192.0.2.{number}", each) for number, each in enumerate(pods, 1)]
        made = await here.slice(slice_of("web", "web-1", *found, ports={"": 8080}))
        async with following(registry, ServiceKey(here.namespace, "web")) as web:
            said = await web.endpoints(*(f"192.0.2.{number}" for number in range(1, 13)))
            assert all(each.identity.endswith(f"/ns/{here.namespace}/sa/default") for each in said.endpoints)
            one_more = await here.pod(pod("q"))
            await here.set_slice(made | {"endpoints": [*found, endpoint("192.0.2.13", one_more)]})
            await web.endpoints(*(f"192.0.2.{number}" for number in range(1, 14)))
            for endpoints in (found, [*found, endpoint("192.0.2.13", one_more)]):  # what nobody names is not kept
                await here.set_slice(made | {"endpoints": endpoints})
                await web.endpoints(*(each["addresses"][0] for each in endpoints))
        if here.double is not None:
            read = [path for method, path, _ in here.double.requests if method == "GET" and "/pods" in path]
            mine = f"/api/v1/namespaces/{here.namespace}/pods"
            assert read == [mine, f"{mine}/q", f"{mine}/q"]

    play(tmp_path, scene)


def test_ports_go_by_number_name_and_target(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        body = service("web", ("http", 80, "app"), ("sql", 5432, 15432))
        body["spec"]["ports"][1]["appProtocol"] = "postgresql"
        await here.service(body)
        await here.service(service("db", ("sql", 5432, 15432), clusterIP="None"))
        for name, ports in (("web", {"http": 8080, "sql": 15432}), ("db", {"sql": 15432})):
            await here.slice(slice_of(name, f"{name}-1", endpoint("192.0.2.1"), ports=ports))
        for name, port, found in (
            ("web", 80, [8080]), ("web", 5432, [15432]), ("web", 0, [8080]), ("web", 8080, None), ("web", 443, None),
            ("db", 5432, [15432]), ("db", 15432, [15432]), ("db", 0, [15432]), ("db", 1, []),
        ):  # fmt: skip
            async with following(registry, ServiceKey(here.namespace, name, port)) as readings:
                said = await readings.until(lambda _: True, "anything")
                assert (said and [each.port for each in said.endpoints]) == found, (name, port)
                assert said is None or said.protocol == ("tcp" if (name, port) == ("web", 5432) else "auto")

    play(tmp_path, scene)


def test_a_headless_services_pods_have_names_of_their_own(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.service(service("db", ("sql", 5432, 5432), clusterIP="None"))
        found = [endpoint(f"192.0.2.{number}", hostname=f"db-{number}") for number in (0, 1)]
        await here.slice(slice_of("db", "db-1", *found, ports={"sql": 5432}))
        async with following(registry, ServiceKey(here.namespace, "db", 5432, "db-1")) as one:
            await one.endpoints("192.0.2.1")

    play(tmp_path, scene)


def test_an_external_name_leads_out_or_to_another_service_and_never_past_the_mesh(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.service(service("ext", type="ExternalName", externalName="api.example.com"))
        await here.service(service("web", ("", 80, 8080)))
        meshed = await here.pod(pod("a"))
        await here.slice(slice_of("web", "web-1", endpoint("192.0.2.1", meshed), ports={"": 8080}))
        async with following(registry, ServiceKey(here.namespace, "ext", 80)) as ext:
            said = await ext.endpoints("api.example.com")
            assert said.endpoints == (Endpoint("api.example.com", 80),)
            inside = f"web.{here.namespace}.svc.cluster.local"
            await here.patch_service("ext", {"spec": {"externalName": inside}})
            said = await ext.endpoints("192.0.2.1")
            assert (said.endpoints[0].port, said.endpoints[0].inbound_port) == (8080, 4143)
            assert str(said.service) == f"ext.{here.namespace}:80"
            await here.patch_service("ext", {"spec": {"externalName": f"ext.{here.namespace}.svc"}})
            await ext.until(lambda said: said is None, "it leads in a circle")
            await here.patch_service("ext", {"spec": {"externalName": "localhost"}})
            await ext.endpoints()
            assert registry.watches == 1  # of `ext` itself

    play(tmp_path, scene)


def test_a_service_that_comes_is_seen(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        async with following(registry, ServiceKey(here.namespace, "late")) as late:
            await late.until(lambda said: said is None, "there is none yet")
            await here.service(service("late", ("", 80, 80)))
            await here.slice(slice_of("late", "late-1", endpoint("2001:db8::1"), ports={"": 80}, family="IPv6"))
            await late.endpoints("2001:db8::1")

    play(tmp_path, scene)


def test_services_that_publish_addresses_that_are_not_ready(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        await here.service(service("db", ("", 80, 80), publishNotReadyAddresses=True))
        not_ready = endpoint("192.0.2.1", conditions={"ready": False})
        await here.slice(slice_of("db", "db-1", not_ready, ports={"": 80}))
        async with following(registry, ServiceKey(here.namespace, "db")) as database:
            await database.endpoints("192.0.2.1")
            await here.patch_service("db", {"spec": {"publishNotReadyAddresses": False}})
            await database.endpoints()

    play(tmp_path, scene)


def on_its_host(body: dict[str, Any]) -> dict[str, Any]:
    return {"spec": body["spec"] | {"hostNetwork": True}}


def test_addresses_lead_back_to_services(tmp_path: Path) -> None:
    async def scene(here: World, registry: KubernetesRegistry) -> None:
        two = (("http", 80, "app"), ("metrics", 9090, 9091))
        made = await here.service(service("web", *two, selector={"app": "web"}))
        running = pod("a", labels={"app": "web"}, ports=[{"name": "app", "containerPort": 8080}])
        await here.pod(running, "192.0.2.77")
        await here.pod(running | {"metadata": running["metadata"] | {"name": "b"}} | on_its_host(running), "192.0.2.76")
        virtual = made["spec"]["clusterIP"]
        web = ServiceKey(here.namespace, "web", 80)
        assert await registry.locate(virtual, 80) == Located(web, whole=True)
        assert await registry.locate(virtual, 8080) is None
        assert await registry.locate("192.0.2.77", 8080) == Located(web)
        assert await registry.locate("192.0.2.77", 9091) == Located(web._replace(port=9090))
        assert await registry.locate("192.0.2.77", 80) is None
        assert await registry.locate("192.0.2.76", 8080) is None  # it is the host's
        assert await registry.locate("192.0.2.78", 8080) is None
        await here.service(service("outside", ("http", 80, 80), ("sql", 5432, 5432)))
        ports = {"http": 8080, "sql": 15432}
        not_ready = endpoint("192.0.2.78", conditions={"ready": False})
        await here.slice(slice_of("outside", "outside-1", not_ready, ports=ports))
        assert await registry.locate("192.0.2.78", 15432) == Located(ServiceKey(here.namespace, "outside", 5432))
        assert await registry.locate("192.0.2.78", 5432) is None

    play(tmp_path, scene)


def test_addresses_of_the_second_family_lead_back_to_services(tmp_path: Path) -> None:
    """Which the API server cannot be asked for by the address: it knows the first of each alone."""

    async def scene(here: World, registry: KubernetesRegistry) -> None:
        if here.double is None:
            pytest.skip("needs a cluster of two families")
        double = here.double
        own = service("kubernetes", ("https", 443, 6443))
        if double.api.store.get(SERVICES.key, ("default", "kubernetes")) is None:
            double.api.create(ApiPlace(SERVICES, "default"), own, "test")
        families = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}}
        made = await here.service(service("web", ("http", 80, 8080), **families))
        await here.service(service("db", ("", 5432, 5432), **families, clusterIP="None"))
        first, second = made["spec"]["clusterIPs"]
        running = await here.pod(pod("a", labels={"app": "web"}), "192.0.2.77", "2001:db8::77")
        await here.pod(pod("aa", labels={"app": "web"}), "192.0.2.76", "2001:db8::76")
        for name, ports in (("web", {"http": 8080}), ("db", {"": 5432})):
            for family, address in (("IPv4", "192.0.2.77"), ("IPv6", "2001:db8::77")):
                at = endpoint(address, running)
                await here.slice(slice_of(name, f"{name}-{family.lower()}", at, ports=ports, family=family))
        web, db = ServiceKey(here.namespace, "web", 80), ServiceKey(here.namespace, "db", 5432)
        assert await registry.locate(first, 80) == await registry.locate(second, 80) == Located(web, whole=True)
        assert await registry.locate(second, 8080) is None
        assert await registry.locate("192.0.2.77", 8080) == Located(web._replace(family="IPv4"))
        assert await registry.locate("2001:db8::77", 8080) == Located(web._replace(family="IPv6"))
        assert await registry.locate("2001:db8::77", 5432) == Located(db._replace(family="IPv6"))
        # before these by its name, with slices of its own that speak of addresses of others
        await here.service(service("a", ("", 8080, 8080), **families))
        wrong = await here.pod(pod("b", meshed=False), "192.0.2.75", "2001:db8::75")
        claims = [endpoint("2001:db8::77", wrong), endpoint("2001:db8::77"), endpoint("2001:db8::99")]
        await here.slice(slice_of("a", "a-1", *claims, ports={"": 8080}, family="IPv6"))
        again = KubernetesRegistry(KubernetesDiscovery(str(here.kubeconfig)), Place("again", TRUST_DOMAIN, "vm1", ""))
        try:
            assert await again.locate("2001:db8::77", 8080) == Located(web._replace(family="IPv6"))
            alone = ServiceKey(here.namespace, "a", 8080, family="IPv6")
            assert await again.locate("2001:db8::99", 8080) == Located(alone)
        finally:
            await again.close()

        async with following(registry, web._replace(family="IPv6")) as six, following(registry, web) as either:
            await six.endpoints("2001:db8::77")
            await either.endpoints("192.0.2.77")

        double.requests.clear()
        assert await registry.locate("2001:db8::78", 8080) is None
        assert await registry.locate("192.0.2.78", 8080) is None
        whole = [path for method, path, query in double.requests if path == "/api/v1/services" and not fields(query)]
        assert len(whole) == 0, "what was found a moment ago serves others, and of the first family it is not asked"

    play(tmp_path, scene)


def fields(query: dict[str, str]) -> str:
    return query.get("fieldSelector", "")


def test_a_cluster_that_is_there_is_found_to_be(tmp_path: Path) -> None:
    async def scene(_: World, registry: KubernetesRegistry) -> None:
        await registry.probe()

    play(tmp_path, scene)
