"""What Consul's instances become: which are meant, which are well, and what their meta says."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from discovery.consul.answers import Instance, decoded, shown
from discovery.consul.places import Read, Selection, read
from discovery.registry import Away
from meshd.api.endpoints import Endpoint

WEB = "spiffe://mesh.example/ns/default/sa/web"


def instance(
    address: str = "192.0.2.1",
    port: int = 8080,
    meta: Mapping[str, str] | None = None,
    *statuses: str,
    node_meta: Mapping[str, str] | None = None,
    tags: tuple[str, ...] = (),
    **service: Any,
) -> Instance:
    given = {"ID": "web-1", "Service": "web", "Address": address, "Port": port, "Meta": meta, "Tags": tags, **service}
    node = {"Node": "vm1", "Address": "192.0.2.9", "Meta": node_meta}
    checks = [{"CheckID": "c", "Status": status} for status in statuses or ("passing",)]
    return msgspec.convert({"Node": node, "Service": given, "Checks": checks}, Instance)


def of(*instances: Instance, **chosen: Any) -> Read:
    return read(instances, ("web", chosen.get("namespace", "")), Selection(**chosen), "mesh.example")


def endpoints(*instances: Instance, **chosen: Any) -> tuple[Endpoint, ...]:
    reading = of(*instances, **chosen)
    assert reading.found is not None
    assert reading.complaints == ()
    return reading.found.endpoints


def test_an_instance_is_an_endpoint_at_its_own_address_or_its_nodes() -> None:
    assert endpoints(instance()) == (Endpoint("192.0.2.1", 8080),)
    assert endpoints(instance(address="")) == (Endpoint("192.0.2.9", 8080),)
    assert endpoints(instance(address="2001:DB8::0:1")) == (Endpoint("2001:db8::1", 8080),)
    assert endpoints(instance(address="Web.example")) == (Endpoint("web.example", 8080),)


def test_meta_says_how_a_meshed_instance_is_reached() -> None:
    meta = {
        "meshd-identity": WEB, "meshd-inbound-port": "4200", "meshd-protocol": "grpc", "meshd-zone": "a",
        "meshd-weight": "7", "meshd-node": "vm1", "version": "2",
    }  # fmt: skip
    expected = Endpoint("192.0.2.1", 8080, WEB, 4200, "grpc", 7, "a", {"version": "2"})
    assert endpoints(instance(meta=meta)) == (expected,)
    assert endpoints(instance(meta={"meshd-identity": WEB}))[0].inbound_port == 4143


def test_a_nodes_meta_stands_in_for_what_the_service_does_not_say_but_gives_no_identity() -> None:
    node_meta = {"meshd-zone": "b", "meshd-weight": "3", "meshd-inbound-port": "4201", "meshd-identity": WEB, "os": "x"}
    assert endpoints(instance(node_meta=node_meta)) == (Endpoint("192.0.2.1", 8080, weight=3, zone="b"),)
    meshed = endpoints(instance(meta={"meshd-identity": WEB, "meshd-zone": "a"}, node_meta=node_meta))
    assert meshed == (Endpoint("192.0.2.1", 8080, WEB, 4201, weight=3, zone="a"),)


def test_consuls_own_weights_and_locality_count_where_meta_says_nothing() -> None:
    weights, locality = {"Passing": 5, "Warning": 2}, {"Region": "r", "Zone": "z"}
    assert endpoints(instance(Weights=weights, Locality=locality))[0] == Endpoint("192.0.2.1", 8080, weight=5, zone="z")
    warned = instance("192.0.2.1", 8080, None, "warning", Weights=weights)
    assert endpoints(warned, only_passing=False)[0].weight == 2
    assert endpoints(instance(Weights={"Passing": 0, "Warning": 0}))[0].weight == 1
    assert endpoints(instance(Weights={"Passing": 1 << 40}))[0].weight == 65535


@pytest.mark.parametrize(
    ("statuses", "passing", "warning_too"),
    [
        (("passing", "passing"), True, True),
        (("passing", "warning"), False, True),
        (("passing", "critical"), False, False),
        (("warning", "maintenance"), False, False),
    ],
)
def test_the_worst_check_decides(statuses: tuple[str, ...], passing: bool, warning_too: bool) -> None:
    there = instance("192.0.2.1", 8080, None, *statuses)
    assert bool(endpoints(there)) is passing
    assert bool(endpoints(there, only_passing=False)) is warning_too


def test_a_service_whose_instances_are_all_unwell_is_not_the_same_as_none() -> None:
    assert endpoints(instance("192.0.2.1", 8080, None, "critical")) == ()
    assert of().found is None
    assert of(instance(), namespace="shop").found is None


def test_namespaces_are_told_apart_by_meta() -> None:
    shop, plain = instance("192.0.2.2", 8080, {"meshd-namespace": "shop"}), instance()
    assert [each.address for each in endpoints(shop, plain, namespace="shop")] == ["192.0.2.2"]
    assert [each.address for each in endpoints(shop, plain, namespace="default")] == ["192.0.2.1"]
    assert len(endpoints(shop, plain)) == 2


def test_tags_and_meta_select() -> None:
    first = instance("192.0.2.1", 8080, {"env": "prod"}, tags=("V2", "eu"))
    second = instance("192.0.2.2", 8080, {"env": "test"}, tags=("v2",))
    assert len(endpoints(first, second, tags=("v2",))) == 2
    assert [each.address for each in endpoints(first, second, tags=("v2", "EU"))] == ["192.0.2.1"]
    assert [each.address for each in endpoints(first, second, meta=(("env", "test"),))] == ["192.0.2.2"]
    assert of(first, second, tags=("v3",)).found is None


def test_a_port_that_is_named_must_be_the_instances_but_80_is_also_none() -> None:
    first, second = instance(port=8080), instance(port=8081)
    assert [each.port for each in endpoints(first, second, port=8081)] == [8081]
    assert [each.port for each in endpoints(first, second)] == [8080, 8081]
    assert [each.port for each in endpoints(first, second, port=80)] == [8080, 8081]
    assert [each.port for each in endpoints(first, instance(port=80), port=80)] == [80]
    assert of(first, second, port=9090).found is None


def test_a_secondary_port_is_for_callers_who_name_it() -> None:
    first, second = instance(port=8080), instance(port=9090, meta={"meshd-secondary": "true"})
    assert [each.port for each in endpoints(first, second)] == [8080]
    assert [each.port for each in endpoints(first, second, port=80)] == [8080]
    assert [each.port for each in endpoints(first, second, port=9090)] == [9090]


def test_the_set_is_named_as_callers_name_it_and_speaks_what_all_speak() -> None:
    grpc = {"meshd-protocol": "grpc", "meshd-namespace": "shop"}
    found = of(instance(port=9001, meta=grpc), instance(port=9000, meta=grpc)).found
    assert found is not None
    assert (str(found.service), found.protocol) == ("web.shop:9000", "grpc")
    asked = of(instance(port=9001), port=80).found
    assert asked is not None
    assert str(asked.service) == "web.default:80"
    mixed = of(instance(port=9001, meta=grpc), instance(port=9000)).found
    assert mixed is not None
    assert (str(mixed.service), mixed.protocol) == ("web.default:9000", "auto")


# --- one place, several registrations --------------------------------------------------------------------------------


def meshed(*statuses: str, meta: Mapping[str, str] | None = None, **more: Any) -> Instance:
    return instance("192.0.2.1", 8080, {"meshd-identity": WEB, **(meta or {})}, *statuses, **more)


def test_a_place_that_is_registered_with_an_identity_and_without_has_it() -> None:
    for order in ([instance(), meshed()], [meshed(), instance()]):
        assert endpoints(*order) == (Endpoint("192.0.2.1", 8080, WEB, 4143),)
    assert endpoints(instance(address="::1"), instance(address="0:0::1")) == (Endpoint("::1", 8080),)


@pytest.mark.parametrize(
    ("of_the_mesh", "of_the_application"), [("critical", "passing"), ("passing", "critical"), ("warning", "passing")]
)
def test_such_a_place_is_well_when_both_say_so_and_never_reached_in_plain_text(
    of_the_mesh: str, of_the_application: str
) -> None:
    assert endpoints(meshed(of_the_mesh), instance("192.0.2.1", 8080, None, of_the_application)) == ()


def test_what_selects_may_be_said_by_either_but_the_namespace_is_the_meshed_ones() -> None:
    there = (instance(tags=("v2",), meta={"env": "prod"}), meshed(meta={"meshd-namespace": "shop"}))
    assert endpoints(*there, tags=("v2",), meta=(("env", "prod"),), namespace="shop") == (
        Endpoint("192.0.2.1", 8080, WEB, 4143),
    )
    assert of(*there, namespace="default").found is None


def test_two_proxies_at_one_place_are_two_endpoints() -> None:
    other = meshed(meta={"meshd-inbound-port": "4150"})
    assert [each.inbound_port for each in endpoints(meshed(), other, meshed())] == [4143, 4150]


def test_only_what_is_meshed_is_taken_where_that_is_asked_for() -> None:
    assert endpoints(instance("192.0.2.2"), meshed(), meshed_only=True) == (Endpoint("192.0.2.1", 8080, WEB, 4143),)
    assert endpoints(instance(), meshed_only=True) == ()


# --- what is wrong in Consul -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        ({"meshd-identity": ""}, "is not spiffe://"),
        ({"meshd-identity": "web"}, "is not spiffe://"),
        ({"meshd-identity": "spiffe://mesh.example/web"}, "is not spiffe://"),
        ({"meshd-identity": "spiffe://mesh.example/node/vm1"}, "is a host's"),
        ({"meshd-identity": "spiffe://other.example/ns/default/sa/web"}, "not in the trust domain mesh.example"),
        ({"meshd-identity": WEB, "meshd-inbound-port": "0"}, "is not a port"),
        ({"meshd-identity": WEB, "meshd-inbound-port": "65536"}, "is not a port"),
        ({"meshd-identity": WEB, "meshd-inbound-port": "4143x"}, "is not a port"),
    ],
)
def test_a_wrong_identity_takes_its_place_out_and_is_not_plain_text(meta: dict[str, str], complaint: str) -> None:
    for others in ((), (instance(),)):
        reading = of(instance(meta=meta), *others)
        assert reading.found is not None
        assert reading.found.endpoints == ()
        assert len(reading.complaints) == 1
        assert complaint in reading.complaints[0]
        assert "'web-1' on 'vm1'" in reading.complaints[0]


def test_a_wrong_protocol_or_weight_is_said_and_passed_over() -> None:
    reading = of(instance(meta={"meshd-protocol": "spdy", "meshd-weight": "many"}))
    assert reading.found is not None
    assert reading.found.endpoints == (Endpoint("192.0.2.1", 8080),)
    assert ["spdy" in reading.complaints[0], "many" in reading.complaints[1]] == [True, True]


@pytest.mark.parametrize(
    ("address", "port"),
    [
        *(("192.0.2.1", port) for port in (0, -1, 70000)),
        *((address, 80) for address in ("not a host", "-", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255")),
    ],
)
def test_an_instance_that_nobody_can_call_is_left_out(address: str, port: int) -> None:
    reading = of(instance(address=address, port=port))
    assert reading.found is None
    assert "no address and port" in reading.complaints[0]


def test_answers_are_bounded_and_what_a_server_says_is_fit_for_a_log() -> None:
    with pytest.raises(Away, match="20001 entries, more than 20000"):
        decoded(b"[" + b",".join([b'""'] * 20001) + b"]", tuple[str, ...], "it")
    with pytest.raises(Away, match="not an answer of Consul's"):
        decoded(b"[" * 100_000, tuple[str, ...], "it")
    assert shown(b"  rpc error\x1b[2J\n\xff" + b"x" * 500) == "rpc error?[2J??" + "x" * 183
