"""Workloads, their proxies, and the services that they make: conversations between connections and the registry."""

import math

import pytest
from msgspec.structs import replace

from discovery.names import Authority
from discovery.source import Answer, NotYet
from meshd.agent.local import LocalSource
from meshd.agent.registration import check_registration, check_report
from meshd.agent.registry import HOST, NOT_ATTACHED, NOT_REPORTED, Instance, Registry, Unacceptable
from meshd.api.control import CertificateState, ProxyWorkload, RegisterWorkload, ReportState
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.names import WorkloadName

READY = ReportState(pid=2, waiting_for=())
WEB = RegisterWorkload(
    instance="a" * 32,
    namespace="default",
    name="web",
    ports=(WorkloadPort(8080), WorkloadPort(9090, "tcp")),
    upstreams=(Upstream("api", "127.0.0.1:9001"),),
    outbound="127.0.0.1:40001",
    inbound="127.0.0.1:40002",
    admin="127.0.0.1:40003",
    pid=1,
)
OTHER = replace(WEB, instance="b" * 32, ports=(WorkloadPort(8081),), inbound="0.0.0.0:40012")
IDENTITY = "spiffe://mesh.local/ns/default/sa/web"


class Mesh:
    """A registry and what those who ask for services of it are told."""

    def __init__(self, *expected: str) -> None:
        self.registry = Registry()
        self.local = LocalSource(self.registry, "mesh.local", 0.0, frozenset(map(WorkloadName.parse, expected)))

    def register(self, asked: RegisterWorkload, owner: str = "run", uid: int = 1000) -> None:
        self.registry.register(asked, uid, owner)

    def serve(self, asked: RegisterWorkload, owner: str = "run", proxy: str = "proxy") -> None:
        self.register(asked, owner)
        self.registry.attach(asked.instance, 1000, proxy)
        self.registry.report(asked.instance, proxy, READY)

    def find(self, authority: str, namespace: str = "default") -> EndpointSet | None:
        answers: list[Answer] = []
        self.local.watch(Authority.parse(authority, namespace), answers.append)()
        (found,) = answers
        assert not isinstance(found, NotYet)
        return found

    def ports(self, authority: str) -> list[int] | None:
        found = self.find(authority)
        return None if found is None else [endpoint.port for endpoint in found.endpoints]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        (instance,) = self.registry.instances()
        return self.registry.waiting_for(instance, instance.workloads[0])


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def test_a_workload_is_announced_once_it_and_its_proxy_wait_for_nothing(mesh: Mesh) -> None:
    mesh.register(replace(WEB, waiting_for=("port 8080",)))
    assert (mesh.ports("web"), mesh.waiting_for) == ([], ("port 8080", NOT_ATTACHED))
    mesh.registry.attach(WEB.instance, 1000, "proxy")
    assert (mesh.ports("web"), mesh.waiting_for) == ([], ("port 8080", NOT_REPORTED))
    mesh.registry.report(WEB.instance, "proxy", replace(READY, waiting_for=("certificate",)))
    assert (mesh.ports("web"), mesh.waiting_for) == ([], ("port 8080", "certificate"))
    mesh.register(WEB)
    assert (mesh.ports("web"), mesh.waiting_for) == ([], ("certificate",))
    mesh.registry.report(WEB.instance, "proxy", READY)
    assert (mesh.ports("web"), mesh.waiting_for) == ([8080], ())
    found = mesh.find("web")
    assert found is not None
    assert str(found.service) == "web.default:8080"
    assert found.endpoints == (Endpoint("127.0.0.1", 8080, IDENTITY, 40002),)


def test_a_workload_that_is_not_well_is_held_back_and_no_other(mesh: Mesh) -> None:
    web, api = (ProxyWorkload("default", name, (WorkloadPort(port),)) for name, port in (("web", 8080), ("api", 8081)))
    mesh.registry.declare_host(Instance(HOST, 0, 0, (web, api), "", "127.0.0.1:4143", ""))
    mesh.registry.attach(HOST, 0, "proxy")
    mesh.registry.report(HOST, "proxy", READY)
    mesh.serve(OTHER, proxy="another proxy")
    seen: list[list[int] | None] = []
    mesh.registry.subscribe(lambda: seen.append(mesh.ports("web")))
    wrong = {WorkloadName("default", "web"): ("port 8080 (refused)",)}
    mesh.registry.hold_back(wrong)
    mesh.registry.hold_back(dict(wrong))
    assert seen == [[8081]], "the one of `meshd run` has no checks; and what is said twice is no news"
    host = mesh.registry.instance(HOST)
    assert host is not None
    assert (mesh.ports("api"), mesh.registry.waiting_for(host, web)) == ([8081], ("port 8080 (refused)",))
    assert mesh.ports("127.0.0.1:8080") == [], "nobody, rather than somebody outside the mesh"
    assert WorkloadName("default", "api") in mesh.registry.announced()
    mesh.registry.hold_back({})
    assert (mesh.ports("web"), mesh.registry.waiting_for(host, web)) == ([8080, 8081], ())
    assert mesh.ports("127.0.0.1:8080") == [8080]


def test_withdrawn_means_no_callers_but_still_a_service(mesh: Mesh) -> None:
    mesh.serve(WEB)
    assert not mesh.registry.withdraw("someone else")
    assert mesh.registry.withdraw("run")
    assert mesh.ports("web") == []


@pytest.mark.parametrize(("gone", "left"), [("run", None), ("proxy", [])])
def test_what_a_connection_held_goes_with_it(mesh: Mesh, gone: str, left: list[int] | None) -> None:
    mesh.serve(WEB)
    mesh.registry.gone(gone)
    assert mesh.ports("web") == left


def test_registering_again_over_a_new_connection_outlives_the_old_one(mesh: Mesh) -> None:
    mesh.serve(WEB, owner="old")
    mesh.register(WEB, owner="new")
    mesh.registry.gone("old")
    assert mesh.ports("web") == [8080]


def test_a_proxy_that_was_replaced_says_nothing_any_more(mesh: Mesh) -> None:
    mesh.serve(WEB, proxy="old")
    mesh.registry.attach(WEB.instance, 1000, "new")
    mesh.registry.report(WEB.instance, "old", READY)
    mesh.registry.gone("old")
    assert (mesh.ports("web"), mesh.waiting_for) == ([], (NOT_REPORTED,))


def test_a_second_proxy_counts_once_it_is_ready_and_the_first_again_when_it_is_gone(mesh: Mesh) -> None:
    """As when one takes over from another, and when one is started by mistake while another has the listeners."""

    def pid() -> int:
        (instance,) = mesh.registry.instances()
        report = mesh.registry.report_of(instance)
        return report.pid if report is not None else 0

    mesh.serve(WEB, proxy="first")
    mesh.registry.attach(WEB.instance, 1000, "second")
    mesh.registry.report(WEB.instance, "second", ReportState(pid=3, waiting_for=("listener 127.0.0.1:40001",)))
    assert (pid(), mesh.ports("web")) == (READY.pid, [8080])
    mesh.registry.report(WEB.instance, "second", ReportState(pid=3, waiting_for=()))
    assert (pid(), mesh.ports("web")) == (3, [8080])
    mesh.registry.gone("second")
    assert (pid(), mesh.ports("web")) == (READY.pid, [8080])


def test_a_proxy_that_stayed_serves_the_workload_that_comes_back(mesh: Mesh) -> None:
    mesh.serve(WEB)
    mesh.registry.gone("run")
    mesh.register(WEB, owner="run again")
    assert mesh.ports("web") == [8080]


@pytest.mark.parametrize("instance", ["", "a" * 31, "a" * 33, "A" * 32, "b" * 32, "é"])
def test_the_instance_must_be_the_very_same(mesh: Mesh, instance: str) -> None:
    mesh.register(WEB)
    with pytest.raises(Unacceptable, match="no workload is registered") as caught:
        mesh.registry.attach(instance, 1000, "proxy")
    assert caught.value.retry


def test_an_instance_belongs_to_the_user_that_registered_it(mesh: Mesh) -> None:
    mesh.register(WEB)
    for uid in (0, 1001):
        with pytest.raises(Unacceptable, match="another user"):
            mesh.registry.attach(WEB.instance, uid, "proxy")
        with pytest.raises(Unacceptable, match="another user"):
            mesh.register(WEB, uid=uid)


@pytest.mark.parametrize(
    ("authority", "ports"),
    [
        ("web", [8080, 8081]),
        ("web:80", [8080, 8081]),
        ("web:8080", [8080]),
        ("web:9090", [9090]),
        ("WEB.default.svc.cluster.local.:8081", [8081]),
        ("web:81", None),
        ("web.other", None),
        ("api", None),
        ("web.shop.example", None),
        ("127.0.0.1:8081", [8081]),
        ("127.0.0.1:9090", [9090]),
        ("127.0.0.1", None),
        ("127.0.0.2:8080", None),
    ],
)
def test_which_instances_and_ports_a_caller_means(mesh: Mesh, authority: str, ports: list[int] | None) -> None:
    mesh.serve(WEB)
    mesh.serve(OTHER, "run 2", "proxy 2")
    assert mesh.ports(authority) == ports


def test_port_80_is_itself_where_a_workload_has_it(mesh: Mesh) -> None:
    mesh.serve(replace(WEB, ports=(WorkloadPort(8080), WorkloadPort(80))))
    assert mesh.ports("web:80") == [80]


def test_a_proxy_bound_to_every_address_is_reached_on_loopback(mesh: Mesh) -> None:
    mesh.serve(OTHER)
    mesh.serve(replace(WEB, inbound="192.0.2.7:4143", ports=(WorkloadPort(8081),)), "run 2", "proxy 2")
    found = mesh.find("web")
    assert found is not None
    assert [(each.address, each.inbound_port) for each in found.endpoints] == [
        ("127.0.0.1", 40012),
        ("192.0.2.7", 4143),
    ]


def test_the_protocol_is_what_all_instances_say(mesh: Mesh) -> None:
    mesh.serve(replace(WEB, ports=(WorkloadPort(8080, "http"),)))
    found = mesh.find("web")
    assert found is not None
    assert found.protocol == "http"
    mesh.serve(OTHER, "run 2", "proxy 2")
    found = mesh.find("web")
    assert found is not None
    assert found.protocol == "auto"


@pytest.mark.parametrize(("listed", "opaque"), [(None, None), ((), False), ((3306, 8080), True)])
def test_whether_a_workload_is_opaque_is_its_document_s_to_say(
    mesh: Mesh, listed: tuple[int, ...] | None, opaque: bool | None
) -> None:
    workload = ProxyWorkload("default", "web", (WorkloadPort(8080),), (), listed)
    mesh.registry.declare_host(Instance(HOST, 0, 0, (workload,), "", "0.0.0.0:4143", ""))
    found = mesh.find("web")
    assert found is not None
    assert found.opaque is opaque


def test_watchers_are_told_what_changed_and_nothing_else(mesh: Mesh) -> None:
    told: list[Answer] = []
    close = mesh.local.watch(Authority.parse("web", "default"), told.append)
    mesh.serve(replace(WEB, name="other"))
    assert told == [None]
    mesh.serve(OTHER, "run 2", "proxy 2")
    assert [len(each.endpoints) if isinstance(each, EndpointSet) else each for each in told] == [None, 0, 1]
    close()
    mesh.registry.gone("run 2")
    assert len(told) == 3


def test_the_host_s_workloads_are_those_of_its_documents(mesh: Mesh) -> None:
    with pytest.raises(Unacceptable):
        mesh.registry.attach(HOST, 0, "host proxy")
    workloads = (
        ProxyWorkload("default", "web", (WorkloadPort(8080),)),
        ProxyWorkload("shop", "api", (WorkloadPort(80),)),
    )
    mesh.registry.declare_host(Instance(HOST, 0, 0, workloads, "", "0.0.0.0:4143", ""))
    mesh.registry.attach(HOST, 0, "host proxy")
    mesh.registry.report(HOST, "host proxy", READY)
    assert mesh.ports("web") == [8080]
    assert mesh.ports("api.shop") == [80]
    assert mesh.registry.registered == 0


def test_of_workloads_that_are_expected_back_nothing_is_said_until_they_are() -> None:
    mesh = Mesh("default/web", "default/gone")
    told: dict[str, list[Answer]] = {"web": [], "gone": [], "never": [], "127.0.0.1:8080": [], "192.0.2.1:8080": []}
    for name, answers in told.items():
        mesh.local.watch(Authority.parse(name, "default"), answers.append)
    assert told == {"web": [], "gone": [], "never": [None], "127.0.0.1:8080": [], "192.0.2.1:8080": [None]}
    mesh.register(WEB)
    assert told["web"] == []
    mesh.registry.attach(WEB.instance, 1000, "proxy")
    mesh.registry.report(WEB.instance, "proxy", READY)
    for name in ("web", "127.0.0.1:8080"):
        assert [len(found.endpoints) for found in told[name] if isinstance(found, EndpointSet)] == [1]
    mesh.registry.withdraw("run")
    assert [len(found.endpoints) for found in told["web"] if isinstance(found, EndpointSet)] == [1, 0]
    mesh.local.settle()
    assert told["gone"] == [None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instance": "a" * 31}, "32 to 128 hexadecimal"),
        ({"instance": "G" * 32}, "32 to 128 hexadecimal"),
        ({"name": "Web"}, "not a DNS label"),
        ({"namespace": ""}, "not a DNS label"),
        ({"name": "x/web"}, "not a DNS label"),
        ({"ports": (WorkloadPort(1), WorkloadPort(1))}, "listed twice"),
        ({"ports": tuple(map(WorkloadPort, range(1, 100)))}, "at most 64 ports"),
        ({"ports": (WorkloadPort(1, address="localhost"),)}, "not an IP address"),
        ({"upstreams": (Upstream("a b", "127.0.0.1:1"),)}, "not HOST"),
        ({"inbound": ""}, "not HOST:PORT"),
        ({"inbound": "127.0.0.1:0"}, "a port above 0"),
        ({"outbound": "localhost:1"}, "the outbound address"),
        ({"admin": "x"}, "not HOST:PORT"),
        ({"waiting_for": ("x",) * 65}, "at most 64"),
        ({"waiting_for": ("x" * 1025,)}, "1024 characters"),
    ],
)
def test_what_cannot_be_registered(change: dict[str, object], said: str) -> None:
    with pytest.raises(Unacceptable, match=said):
        check_registration(replace(WEB, **change))


def test_what_can_be_registered() -> None:
    assert str(check_registration(WEB)) == "default/web"
    check_registration(replace(WEB, ports=(), outbound="", admin=""))


@pytest.mark.parametrize(
    "report",
    [
        replace(READY, waiting_for=("x",) * 65),
        replace(READY, certificates=(CertificateState("default/web", 0.0, "x" * 1025),)),
        replace(READY, certificates=(CertificateState("default/web", 0.0),) * 4097),
    ],
)
def test_what_cannot_be_a_proxy_s_report(report: ReportState) -> None:
    with pytest.raises(Unacceptable, match="at most"):
        check_report(report)


def test_the_oldest_certificate_is_known_once_every_proxy_has_said() -> None:
    registry = Registry()
    assert registry.oldest_certificate() == math.inf
    registry.declare_host(Instance(HOST, 0, 0, (), "", "", ""))
    for number, begun in enumerate((300.0, 200.0)):
        registry.attach(HOST, 0, number)
        assert registry.oldest_certificate() == 0.0
        states = (CertificateState("default/web", 900.0, "", begun), CertificateState("default/none", 0.0))
        registry.report(HOST, number, ReportState(1, (), states))
        assert registry.oldest_certificate() == begun
