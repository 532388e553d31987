"""What registries are told of this host's workloads."""

import socket
from dataclasses import replace as changed

import pytest

from discovery.publish import Announcement, Publisher
from meshd.agent.publishing import Publishing, own_address
from meshd.agent.registry import HOST, Instance, Registry
from meshd.api.control import ProxyWorkload, ReportState
from meshd.api.documents import WorkloadPort
from meshd.api.names import WorkloadName
from tests.support.aio import run

PORTS = (WorkloadPort(8080, "http"), WorkloadPort(9090))
HERE = Instance(HOST, 0, 0, (ProxyWorkload("shop", "web", PORTS),), "", "0.0.0.0:4143", "")


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[Announcement, ...]] = []
        self.withdrawn = False
        self.trouble = ""

    def publish(self, announcements: tuple[Announcement, ...]) -> None:
        self.told.append(announcements)

    async def withdraw(self) -> None:
        self.withdrawn = True


class Rig:
    def __init__(self, host: Instance = HERE, advertise: str = "192.0.2.7") -> None:
        self.registry, self.recorder = Registry(), Recorder()
        assert isinstance(self.recorder, Publisher)
        self.publishing = Publishing(
            self.registry,
            [self.recorder],
            trust_domain="mesh.example",
            zone="a",
            advertise=advertise,
            find_address=lambda: "",
        )
        self.registry.subscribe(self.publishing.refresh)
        self.registry.declare_host(host)

    def ready(self, *waiting_for: str) -> None:
        self.registry.attach(HOST, 0, "proxy")
        self.registry.report(HOST, "proxy", ReportState(1, waiting_for))

    @property
    def healthy(self) -> list[tuple[int, bool]]:
        return sorted((each.service.port, each.healthy) for each in self.recorder.told[-1])


def test_each_port_of_a_workload_is_announced_and_healthy_when_its_proxy_is_ready() -> None:
    rig = Rig()
    assert rig.healthy == [(8080, False), (9090, False)]
    rig.ready()
    assert rig.healthy == [(8080, True), (9090, True)]
    (web, _) = sorted(rig.recorder.told[-1], key=lambda each: each.service.port)
    assert str(web.service) == "web.shop:8080"
    endpoint = web.endpoint
    assert (endpoint.address, endpoint.port, endpoint.inbound_port) == ("192.0.2.7", 8080, 4143)
    assert (endpoint.identity, endpoint.protocol, endpoint.zone) == (
        "spiffe://mesh.example/ns/shop/sa/web",
        "http",
        "a",
    )


def test_who_waits_is_known_but_not_healthy_and_says_for_what() -> None:
    rig = Rig()
    rig.ready()
    rig.registry.report(HOST, "proxy", ReportState(1, ("certificate of shop/web",)))
    assert rig.healthy == [(8080, False), (9090, False)]
    assert {each.message for each in rig.recorder.told[-1]} == {"waits for certificate of shop/web"}


def test_who_is_not_well_is_known_but_not_healthy_and_no_other() -> None:
    rig = Rig(changed(HERE, workloads=(*HERE.workloads, ProxyWorkload("shop", "api", (WorkloadPort(8081),)))))
    rig.ready()
    rig.registry.hold_back({WorkloadName("shop", "web"): ("unit web.service (it is failed (failed))",)})
    assert rig.healthy == [(8080, False), (8081, True), (9090, False)]
    assert {each.message for each in rig.recorder.told[-1]} == {
        "",
        "waits for unit web.service (it is failed (failed))",
    }


def test_only_what_differs_is_told() -> None:
    rig = Rig()
    rig.ready()
    told = len(rig.recorder.told)
    rig.registry.report(HOST, "proxy", ReportState(2, ()))
    rig.registry.declare_host(HERE)
    assert len(rig.recorder.told) == told
    rig.registry.declare_host(changed(HERE, workloads=()))
    assert rig.recorder.told[-1] == ()


@pytest.mark.parametrize(
    ("inbound", "advertise", "announced"),
    [
        ("0.0.0.0:4143", "192.0.2.7", True),
        ("[::]:4143", "192.0.2.7", True),
        ("192.0.2.7:4143", "192.0.2.7", True),
        ("127.0.0.1:4143", "192.0.2.7", False),
        ("[::1]:4143", "192.0.2.7", False),
        ("127.0.0.1:4143", "127.0.0.1", True),
        ("0.0.0.0:4143", "", False),
    ],
)
def test_only_what_others_can_reach_is_announced(inbound: str, advertise: str, announced: bool) -> None:
    rig = Rig(changed(HERE, inbound=inbound), advertise)
    assert bool(rig.recorder.told[-1]) is announced


def test_at_the_end_all_is_withdrawn_and_nothing_is_said_any_more() -> None:
    rig = Rig()
    run(rig.publishing.withdraw())
    assert rig.recorder.withdrawn
    told = len(rig.recorder.told)
    rig.ready()
    assert len(rig.recorder.told) == told


def test_the_address_by_which_this_host_reaches_others_is_one_of_its_own() -> None:
    with socket.socket(socket.AF_INET6 if ":" in own_address() else socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((own_address(), 0))


def test_what_keeps_a_registry_from_having_it_is_told() -> None:
    rig = Rig()
    assert rig.publishing.troubles() == ()
    rig.recorder.trouble = "the registry is full"
    assert rig.publishing.troubles() == ("the registry is full",)
