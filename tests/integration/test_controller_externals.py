"""A process on a virtual machine among the endpoints of a cluster's Service, as a sidecar's controller tells it."""

from pathlib import Path
from typing import Any

from aiohttp import web as http

from meshd.api.control import Destination, WatchDestination
from meshd.api.endpoints import Endpoint
from tests.integration.test_controller import WEB
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.controllers import DOMAIN, ControlPlane, control_plane
from tests.support.kubernetes.bodies import endpoint, service, slice_of
from tests.support.waiting import eventually

DB = f"spiffe://{DOMAIN}/ns/shop/sa/db"


def workload(plane: ControlPlane, name: str, labels: dict[str, str], **spec: Any) -> None:
    plane.custom("shop", "workloads", {"kind": "Workload", "metadata": {"name": name, "labels": labels}, "spec": spec})


async def watched(client: ControlClient, authority: str) -> dict[str, Endpoint]:
    """The endpoints that are told of it first, by address."""
    answer = await client.call(WatchDestination(authority, "shop"))
    assert isinstance(answer, Destination)
    assert answer.found is not None
    return {each.address: each for each in answer.found.endpoints}


def test_a_process_outside_is_an_endpoint_of_the_services_that_select_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            selected = {"selector": {"app": "db"}}
            plane.service("shop", service("db", ("sql", 5432, 15432), clusterIP="10.96.0.7", **selected))
            plane.service("shop", service("named", ("sql", 5432, "sql"), **selected))
            plane.service("shop", service("other", ("sql", 5432, 5432), selector={"app": "x"}))
            pod = plane.pod("shop", "db-1", "db")
            plane.slice("shop", slice_of("db", "db-a", endpoint("10.0.0.1", pod), ports={"sql": 15432}))
            there = {"addresses": ["192.0.2.7", "2001:db8::7"], "inboundPort": 14143, "zone": "east"}
            workload(plane, "db", {"app": "db"}, ports=[{"port": 15432}], external=there)
            workload(plane, "elsewhere", {"app": "db"}, ports=[{"port": 1}], external={"addresses": ["192.0.2.8"]})
            workload(plane, "wrong", {"app": "db"}, external={"addresses": ["127.0.0.1"]})
            workload(plane, "inside", {"app": "db"}, ports=[{"port": 15432}])
            sidecar = await plane.connect(controller, plane.issue(WEB))
            for authority in ("db:5432", "10.96.0.7:5432", "db.shop.svc.cluster.local:5432"):
                found = await watched(sidecar, authority)
                assert found.keys() == {"10.0.0.1", "192.0.2.7", "2001:db8::7"}
                outside = found["192.0.2.7"]
                assert (outside.port, outside.identity) == (15432, DB)
                assert (outside.inbound_port, outside.zone) == (14143, "east")
            assert (await watched(sidecar, "192.0.2.7:15432")).keys() == {"192.0.2.7"}
            assert await watched(sidecar, "named:5432") == {}
            assert await watched(sidecar, "other:5432") == {}
            watch = sidecar.say(WatchDestination("other:5432", "shop"))
            workload(plane, "late", {"app": "x"}, external={"addresses": ["192.0.2.9"]})
            await eventually(lambda: "192.0.2.9" in str(sidecar.heard.get(watch)), "one that comes later is heard of")
            await sidecar.close()

    aio.run(main())


def test_nothing_is_said_of_services_before_they_are_read(tmp_path: Path) -> None:
    """An API server that has just started has custom resources last."""
    refused: list[str] = []

    async def starting(request: http.Request) -> None:
        if request.path.endswith("/workloads") and len(refused) < 3:
            refused.append(request.path)
            raise http.HTTPServiceUnavailable

    async def main() -> None:
        async with control_plane(tmp_path) as plane, plane.controller() as controller:
            plane.service("shop", service("db", ("sql", 5432, 15432), selector={"app": "db"}))
            there = {"addresses": ["192.0.2.7"]}
            workload(plane, "db", {"app": "db"}, ports=[{"port": 15432}], external=there)
            plane.cluster.interfere = starting
            sidecar = await plane.connect(controller, plane.issue(WEB))
            assert (await watched(sidecar, "db:5432")).keys() == {"192.0.2.7"}
            assert (await watched(sidecar, "192.0.2.7:15432"))["192.0.2.7"].identity == DB
            assert len(refused) == 3
            await sidecar.close()

    aio.run(main())
