"""What is made of a cluster's objects: which names mean which Service, and which endpoints it has."""

import json
from typing import Any

import msgspec
import pytest

from discovery.kubernetes.assemble import Assembly, external, references, wanted_port
from discovery.kubernetes.feed import Part
from discovery.kubernetes.names import ServiceKey, alias, claim
from discovery.kubernetes.objects import EndpointSlice, Pod, Service
from discovery.kubernetes.pods import PodFacts, facts, opaque_ports
from discovery.kubernetes.settings import KubernetesDiscovery
from discovery.names import Authority
from discovery.registry import Away
from meshd.api.endpoints import Endpoint, EndpointSet

TRUST_DOMAIN = "prod.example"
PLAIN = PodFacts("", 4143, None)
MESHED = PodFacts("web", 4143, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web", ServiceKey("mine", "web")),
        ("web:8080", ServiceKey("mine", "web", 8080)),
        ("web.mesh", ServiceKey("mine", "web")),
        ("web.shop", ServiceKey("shop", "web")),
        ("WEB.Shop.svc.", ServiceKey("shop", "web")),
        ("web.shop.svc.cluster.local:80", ServiceKey("shop", "web", 80)),
        ("web.shop.svc.k8s.example:80", ServiceKey("shop", "web", 80)),
        ("db-0.db.shop.svc:5432", ServiceKey("shop", "db", 5432, "db-0")),
        ("db-0.db.shop.svc.cluster.local", ServiceKey("shop", "db", 0, "db-0")),
        ("web.shop.svc.other.example", None),
        ("a.db-0.db.shop.svc", None),
        ("db_0.db.shop.svc", None),
        ("web.service.consul", None),
        ("example.com", ServiceKey("com", "example")),
        ("www.example.com", None),
    ],
)
def test_names_of_the_cluster_and_of_others(text: str, found: ServiceKey | None) -> None:
    assert claim(Authority.parse(text, "mine"), "k8s.example") == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web.shop.svc.cluster.local", ServiceKey("shop", "web")),
        ("Web.Shop.Svc.K8s.Example.", ServiceKey("shop", "web")),
        ("web.shop.svc", ServiceKey("shop", "web")),
        ("web.shop", None),  # to DNS, a host of the domain `shop`
        ("api.example.com", None),
        ("", None),
    ],
)
def test_an_external_name_that_leads_into_the_cluster(name: str, found: ServiceKey | None) -> None:
    assert alias(name, "k8s.example") == found


@pytest.mark.parametrize(
    ("spec", "phase", "own"),
    [({}, "Running", True), ({}, "Succeeded", False), ({}, "Failed", False), ({"hostNetwork": True}, "Running", False)],
)
def test_whose_a_pods_address_is(spec: dict[str, Any], phase: str, own: bool) -> None:
    body = {"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec, "status": {"phase": phase}}
    assert msgspec.convert(body, Pod).has_own_address is own


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"kubeconfig": "kubeconfig"}, "is relative"),
        ({"context": "east"}, "there is no `kubeconfig`"),
        ({"clusterDomain": "cluster local"}, "is not DNS labels"),
        ({"kubeConfig": "/etc/kubeconfig"}, "unknown field"),
        ({"config": {"namespace": "../x"}}, "is not a DNS label"),
        ({"config": {"kinds": []}}, "length >= 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=error):
        msgspec.convert(settings, KubernetesDiscovery)


def service(*ports: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> Service:
    content = {
        "metadata": {"name": "web", "namespace": "shop", "annotations": annotations or {}},
        "spec": {"ports": list(ports or [{"port": 80, "targetPort": 8080}]), **spec},
    }
    return msgspec.json.decode(json.dumps(content), type=Service)


def slice_of(*endpoints: dict[str, Any], ports: Any = ({"port": 8080},), **more: Any) -> EndpointSlice:
    content = {"metadata": {"name": "web-1", "namespace": "shop"}, "addressType": "IPv4", **more}
    content |= {"endpoints": list(endpoints), "ports": ports}
    return msgspec.json.decode(json.dumps(content), type=EndpointSlice)


def at(number: int, pod: str = "", **more: Any) -> dict[str, Any]:
    reference = {"targetRef": {"kind": "Pod", "name": pod, "namespace": "shop", "uid": pod}} if pod else {}
    return {"addresses": [f"192.0.2.{number}"], **reference, **more}


class Assembled:
    """What was made of slices, and what was complained of."""

    def __init__(
        self,
        *slices: EndpointSlice,
        of: Service | None = None,
        pods: dict[str, PodFacts | None] | None = None,
        port: int = 80,
        hostname: str = "",
        zone: str = "",
        family: str = "",
    ) -> None:
        self.complaints: list[str] = []
        key = ServiceKey("shop", "web", port, hostname, family)
        assembly = Assembly(key, TRUST_DOMAIN, zone, self.complaints.append)
        self.said = assembly.of(of or service(), hostname, slices, pods or {})

    @property
    def found(self) -> EndpointSet:
        assert self.said is not None
        return self.said

    @property
    def numbers(self) -> list[int]:
        return [int(each.address.rpartition(".")[2]) for each in self.found.endpoints]


def conditions(*said: str) -> dict[str, Any]:
    """`ready`, `!ready`; what is not named is null."""
    return {"conditions": {name.lstrip("!"): not name.startswith("!") for name in said}}


@pytest.mark.parametrize(
    ("endpoints", "numbers"),
    [
        ([at(1), at(2, **conditions("ready")), at(3, **conditions("!ready"))], [1, 2]),
        ([at(1, **conditions("ready")), at(2, **conditions("!ready", "serving", "terminating"))], [1]),
        ([at(1, **conditions("!ready")), at(2, **conditions("!ready", "serving", "terminating"))], [2]),
        ([at(1, **conditions("!ready", "!serving", "terminating"))], []),
        ([at(1, **conditions("!ready", "terminating"))], []),
        ([at(1, **conditions("!ready", "serving"))], []),
        ([at(1, conditions={"ready": None, "serving": None, "terminating": None})], [1]),
        ([], []),
    ],
)
def test_the_ready_ones_and_else_those_that_serve_while_they_end(
    endpoints: list[dict[str, Any]], numbers: list[int]
) -> None:
    assert Assembled(slice_of(*endpoints)).numbers == numbers


def test_all_of_them_where_addresses_that_are_not_ready_are_published() -> None:
    slices = slice_of(at(1, **conditions("!ready")), at(2, **conditions("ready")))
    assert Assembled(slices, of=service(publishNotReadyAddresses=True)).numbers == [1, 2]


def test_an_endpoint_in_two_slices_is_one_and_ready_where_either_says_so() -> None:
    first, second = slice_of(at(1, **conditions("!ready"))), slice_of(at(1), at(2), metadata={"name": "web-2"})
    assert Assembled(first, second).numbers == [1, 2]


def test_the_metrics_of_a_meshed_pods_proxy_are_in_plain_text() -> None:
    pods: dict[str, PodFacts | None] = {"a": MESHED._replace(admin_port=8080), "b": MESHED}
    slices = slice_of(at(1, "a"), at(2, "b"), ports=({"name": "web", "port": 8080},))
    said = Assembled(slices, of=service({"name": "web", "port": 80}), pods=pods).found.endpoints
    assert [(bool(each.identity), each.inbound_port) for each in said] == [(False, 0), (True, 4143)]


def test_of_two_families_the_services_first_where_there_is_any() -> None:
    six = slice_of({"addresses": ["2001:DB8::1"]}, addressType="IPv6", metadata={"name": "web-2"})
    both = service(ipFamilies=["IPv6", "IPv4"])
    assert [each.address for each in Assembled(slice_of(at(1)), six, of=both).found.endpoints] == ["2001:db8::1"]
    assert Assembled(slice_of(at(1)), of=both).numbers == [1]
    for family, found in (("IPv4", "192.0.2.1"), ("IPv6", "2001:db8::1")):  # who asked by an address has that one's
        said = Assembled(slice_of(at(1)), six, of=both, family=family).found.endpoints
        assert [each.address for each in said] == [found]
    assert Assembled(slice_of(at(1)), of=both, family="IPv6").numbers == [1]


def hinted(number: int, *zones: str) -> dict[str, Any]:
    return at(number, hints={"forZones": [{"name": zone} for zone in zones]})


@pytest.mark.parametrize(
    ("zone", "endpoints", "numbers"),
    [
        ("a", [hinted(1, "a"), hinted(2, "b"), hinted(3, "a", "b")], [1, 3]),
        ("c", [hinted(1, "a"), hinted(2, "b")], [1, 2]),
        ("a", [hinted(1, "a"), hinted(2, "b"), at(3)], [1, 2, 3]),
        ("", [hinted(1, "a"), hinted(2, "b")], [1, 2]),
    ],
)
def test_hints_are_followed_where_all_have_them_and_one_is_ours(
    zone: str, endpoints: list[dict[str, Any]], numbers: list[int]
) -> None:
    assert Assembled(slice_of(*endpoints), zone=zone).numbers == numbers


def test_zones_are_passed_on() -> None:
    assert Assembled(slice_of(at(1, zone="a"))).found.endpoints == (Endpoint("192.0.2.1", 8080, zone="a"),)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fe80::1", "224.0.0.1", "::ffff:127.0.0.1"]
)
def test_an_address_that_could_only_be_this_hosts_is_nobodys(address: str) -> None:
    family = "IPv6" if ":" in address else "IPv4"
    assembled = Assembled(slice_of({"addresses": [address]}, addressType=family))
    assert assembled.found.endpoints == ()
    assert assembled.complaints == [f"the endpoint {address!r} is passed over: it is not another host's"]


def test_names_for_addresses() -> None:
    names = slice_of({"addresses": ["API.example.com."]}, {"addresses": ["localhost"]}, addressType="FQDN")
    assembled = Assembled(names)
    assert [each.address for each in assembled.found.endpoints] == ["api.example.com"]
    assert len(assembled.complaints) == 1
    assert Assembled(slice_of(at(1), addressType="MAC")).complaints == ["addresses of type 'MAC' are not known"]


def test_meshed_pods_are_spoken_to_as_their_service_account() -> None:
    slices = slice_of(at(1, "a"), at(2, "b"), at(3))
    found = Assembled(slices, pods={"a": MESHED._replace(inbound_port=5000), "b": PLAIN}).found
    identity = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/web"
    assert [(each.identity, each.inbound_port) for each in found.endpoints] == [(identity, 5000), ("", 0), ("", 0)]


def test_a_pod_that_is_gone_or_cannot_have_an_identity_is_never_spoken_to_in_plain_text() -> None:
    assembled = Assembled(slice_of(at(1, "a"), at(2, "b")), pods={"a": None, "b": MESHED._replace(account="web.v2")})
    assert assembled.found.endpoints == ()
    assert len(assembled.complaints) == 1
    assert "shop/web.v2" in assembled.complaints[0]


@pytest.mark.parametrize(
    "reference",
    [
        {"kind": "Pod", "name": "a", "namespace": "bank", "uid": "1"},  # whose identity would be the bank's
        {"kind": "Pod", "name": "", "namespace": "shop", "uid": "1"},
        {"kind": "Pod", "name": "a", "namespace": "shop"},
    ],
)
def test_a_slice_that_speaks_of_pods_that_are_not_its_own_is_garbage(reference: dict[str, str]) -> None:
    with pytest.raises(Away, match="refers to no pod of its own"):
        list(references([slice_of(at(1, targetRef=reference))]))


TWO = ({"name": "http", "port": 80, "targetPort": "app"}, {"name": "sql", "port": 5432, "targetPort": 15432})
DNS = ({"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 8080})


@pytest.mark.parametrize(
    ("of", "port", "found"),
    [
        (service(), 0, (80, "")),
        (service(), 80, (80, "")),
        (service(), 8080, None),
        (service(*TWO), 0, (80, "http")),
        (service(*TWO), 5432, (5432, "sql")),
        (service(*reversed(TWO)), 0, (80, "http")),
        (service(*DNS), 0, (8080, "http")),
        (service(*DNS), 53, None),
        (service({"name": "a", "port": 1}, {"name": "b", "port": 2}), 0, (1, "a")),
        (service(clusterIP="None"), 8080, (8080, None)),
        (service(DNS[0]), 0, None),
    ],
)
def test_which_port_is_meant(of: Service, port: int, found: tuple[int, str | None] | None) -> None:
    wanted = wanted_port(of, port)
    assert (wanted and (wanted.number, wanted.name)) == found


def test_a_slice_has_its_own_number_for_a_port() -> None:
    ports = ({"name": "http", "port": 8080}, {"name": "sql", "port": 15432}, {"name": "dns", "port": 53})
    found = Assembled(slice_of(at(1), ports=ports), of=service(*TWO), port=5432).found
    assert (found.service.port, [each.port for each in found.endpoints]) == (5432, [15432])
    for absent in ((), ({"name": "http"},), ({"name": "http", "port": 8080, "protocol": "UDP"},), ({"port": 1},)):
        assert Assembled(slice_of(at(1), ports=absent), of=service(*TWO)).found.endpoints == ()
    no_ports = service(clusterIP="None", ports=[])
    assert Assembled(slice_of(at(1), ports=None), of=no_ports, port=7).found.endpoints[0].port == 7


@pytest.mark.parametrize(
    ("said", "protocol"),
    [
        ("http", "http"), ("kubernetes.io/h2c", "http2"), ("kubernetes.io/ws", "http1"), ("grpc", "grpc"),
        ("mysql", "tcp"), ("linkerd.io/opaque", "tcp"), ("https", "auto"), ("example.com/own", "auto"), ("", "auto"),
    ],
)  # fmt: skip
def test_what_an_app_protocol_says(said: str, protocol: str) -> None:
    found = Assembled(slice_of(at(1)), of=service({"port": 80, "appProtocol": said})).found
    assert (found.protocol, found.endpoints[0].protocol) == (protocol, protocol)


@pytest.mark.parametrize(
    ("by_service", "by_pods", "opaque"),
    [
        (None, (None, None), None),
        ("80", (None, None), True),
        ("web", (None, None), True),
        ("3306", ("8080", "8080"), False),
        (None, ("8080", "8000-8100"), True),
        (None, ("8080", "1"), None),
        (None, ("1", "1"), False),
        ("", ("8080", "8080"), False),
    ],
)
def test_opaque_ports_by_annotation(by_service: str | None, by_pods: tuple[str, str], opaque: bool | None) -> None:
    name = "config.linkerd.io/opaque-ports"
    said = {} if by_service is None else {name: by_service}
    pods = {
        uid: PLAIN._replace(opaque=None if text is None else opaque_ports({name: text}, {}))
        for uid, text in zip("ab", by_pods, strict=True)
    }
    of = service({"name": "web", "port": 80}, annotations=said)
    slices = slice_of(at(1, "a"), at(2, "b"), ports=({"name": "web", "port": 8080},))
    assert Assembled(slices, of=of, pods=dict(pods)).found.opaque is opaque


def test_what_a_pod_says_of_itself() -> None:
    def said(**metadata: Any) -> PodFacts:
        container = {"ports": [{"name": "sql", "containerPort": 5432}]}
        spec = {"serviceAccountName": "web", "containers": [container], "initContainers": [{}]}
        return facts(msgspec.convert({"metadata": {"name": "a", **metadata}, "spec": spec}, Pod))

    label = {"meshd.io/control-plane-ns": "meshd"}
    assert said() == PodFacts("", 4143, None)
    assert said(labels=label) == MESHED
    assert said(labels={"linkerd.io/control-plane-ns": "linkerd"}).account == ""
    for text, port in (("5000", 5000), ("0", 4143), ("65536", 4143), ("x", 4143), ("", 4143)):
        assert said(labels=label, annotations={"config.meshd.io/inbound-port": text}).inbound_port == port
    sidecar = {"name": "meshd-proxy", "ports": [{"name": "meshd-admin", "containerPort": 4191}]}
    for containers, meshed, port in (
        ([{}, sidecar], True, 4191),
        ([sidecar], False, 0),
        ([{**sidecar, "name": "app"}], True, 0),
    ):
        spec = {"containers": [{}], "initContainers": containers}
        metadata = {"name": "a", "labels": label if meshed else {}}
        assert facts(msgspec.convert({"metadata": metadata, "spec": spec}, Pod)).admin_port == port
    ours, theirs = "config.meshd.io/opaque-ports", "config.linkerd.io/opaque-ports"
    assert said(annotations={ours: "1, 5-7,sql,x,9-y,"}).opaque == ((1, 1), (5, 7), (5432, 5432))
    assert said(annotations={ours: "1", theirs: "2"}).opaque == ((1, 1),)


@pytest.mark.parametrize(
    ("name", "port", "found"),
    [
        ("API.example.com.", 0, [("api.example.com", 80)]),
        ("api.example.com", 443, [("api.example.com", 443)]),
        ("192.0.2.7", 0, [("192.0.2.7", 80)]),
        ("localhost", 0, []),
        ("a.localhost", 0, []),
        ("127.0.0.1", 0, []),
        ("127.1", 0, []),
        ("2130706433", 0, []),
        ("bad name", 0, []),
        ("", 0, []),
    ],
)
def test_an_external_name_is_another_hosts(name: str, port: int, found: list[tuple[str, int]]) -> None:
    complaints: list[str] = []
    of = service(type="ExternalName", externalName=name, ports=[])
    said = external(ServiceKey("shop", "web", port), of, complaints.append)
    assert [(each.address, each.port) for each in said.endpoints] == found
    assert len(complaints) == (not found)


def test_slices_that_are_as_they_were_are_not_read_again() -> None:
    assembly = Assembly(ServiceKey("shop", "web", 80), TRUST_DOMAIN, "", lambda text: None)
    kept, changed = slice_of(at(1)), slice_of(at(2), metadata={"name": "web-2"})
    first = assembly.of(service(), "", (kept, changed), {})
    second = assembly.of(service(), "", (kept, slice_of(at(3), metadata={"name": "web-2"})), {})
    assert first is not None
    assert second is not None
    assert [each.address for each in second.endpoints] == ["192.0.2.1", "192.0.2.3"]
    assert second.endpoints[0] is first.endpoints[0]
    third = assembly.of(service({"port": 80, "appProtocol": "grpc"}), "", (kept, changed), {})
    assert third is not None
    assert [each.protocol for each in third.endpoints] == ["grpc", "grpc"]


@pytest.mark.parametrize(
    ("events", "listed", "version", "known"),
    [
        ([("a", 1, "5")], {"a": 2}, "7", {"a": 2}),  # the list is later
        ([("a", 1, "9")], {"a": 2}, "7", {"a": 1}),
        ([("a", None, "9")], {"a": 2, "b": 1}, "7", {"b": 1}),
        ([("a", None, "5")], {"a": 2}, "7", {"a": 2}),
        ([("a", 1, "5")], {}, "7", {}),
        ([("a", 1, "9")], {}, "7", {"a": 1}),
        ([("a", 1, "x")], {"a": 2}, "y", {"a": 1}),  # nothing can be known of versions that are no numbers
        ([("a", 1, "8"), ("a", None, "9")], {"a": 2}, "7", {}),
    ],
)
def test_of_a_list_and_a_watch_the_later_counts(
    events: list[tuple[str, int | None, str]], listed: dict[str, int], version: str, known: dict[str, int]
) -> None:
    made = {number: slice_of(at(number)) for number in (1, 2)}
    part: Part[EndpointSlice] = Part()
    told: list[int] = []
    part.listeners.add(lambda: told.append(1))
    for name, number, at_version in events:
        part.take(name, None if number is None else made[number], at_version)
    assert told == []
    part.catch_up({name: made[number] for name, number in listed.items()}, version)
    assert part.objects == {name: made[number] for name, number in known.items()}
    assert told == [1]
    part.take("c", made[1], "6")  # from before the list, where that can be known
    assert ("c" in part.objects) == (not version.isdigit())
