"""The proxy's file: what it means, and that what is wrong with it is said with file and path."""

from pathlib import Path

import pytest

from meshd.api.detection import Detection
from meshd.api.endpoints import Endpoint, EndpointSet
from meshd.api.loading import ConfigurationError
from proxy.static import StaticResolver, load
from tests.support.certificates import Root

GOOD = """
trustDomain: mesh.example
outbound: 127.0.0.1:4140
workloads:
- {name: web, upstreams: [{service: api, listen: "127.0.0.1:9001"}]}
services:
- {name: api, port: 80, endpoints: [{address: 192.0.2.5, port: 8080, weight: 2}]}
- {name: api, namespace: other, port: 81, endpoints: []}
"""


def loaded(tmp_path: Path, text: str) -> object:
    file = tmp_path / "proxy.yaml"
    file.write_text(text)
    return load(file)


def test_a_file_and_the_services_in_it(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(GOOD)
    world = load(file)
    assert [workload.name for workload in world.configuration.workloads] == ["web"]
    resolver = StaticResolver(world.services)
    heard: dict[str, list[EndpointSet | None]] = {}
    for name in ("api", "api:80", "api.default", "api.default:80", "api.other", "api:81", "nothing", "api.nowhere"):
        resolver.watch(name, "default", heard.setdefault(name, []).append)
    ports = {name: [found and found.service.port for found in answers] for name, answers in heard.items()}
    assert ports == {
        "api": [80], "api:80": [80], "api.default": [80], "api.default:80": [80], "api.other": [81], "api:81": [None],
        "nothing": [None], "api.nowhere": [None],
    }  # fmt: skip
    ended: list[EndpointSet | None] = []
    resolver.watch("api", "default", ended.append)()
    resolver.replace({})
    assert heard["api"][-1] is None
    assert len(ended) == 1


def test_how_protocols_are_detected(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(
        GOOD.replace("name: web,", "name: web, opaquePorts: [9999],")
        .replace("outbound:", "opaquePorts: [3307]\ndetectTimeout: 200ms\noutbound:")
        .replace("port: 80,", "port: 80, opaquePorts: [80],")
        .replace("port: 81,", "port: 81, opaquePorts: [],")
    )
    world = load(file)
    assert world.configuration.detection == Detection((3307,), 0.2)
    assert world.configuration.workloads[0].opaque_ports == (9999,)
    opaque = {namespace: found.opaque for (namespace, _), found in world.services.items()}
    assert opaque == {"default": True, "other": False}


@pytest.mark.parametrize(
    ("workload", "identity"),
    [("api", "spiffe://mesh.example/ns/other/sa/api"), ("shop/api", "spiffe://mesh.example/ns/shop/sa/api"), ("", "")],
)
def test_an_endpoint_is_what_a_document_makes_of_it(tmp_path: Path, workload: str, identity: str) -> None:
    file = tmp_path / "proxy.yaml"
    endpoint = f"{{address: '2001:DB8:0::5', port: 1, workload: '{workload}', weight: 3, zone: a}}"
    file.write_text(GOOD.replace("endpoints: []", f"endpoints: [{endpoint}]") + "trustBundle: bundle.pem\n")
    (tmp_path / "bundle.pem").write_text(Root().bundle_pem)
    (found,) = load(file).services["other", "api"].endpoints
    inbound = 4143 if workload else 0
    assert found == Endpoint("2001:db8::5", 1, identity, inbound, "auto", 3, "a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("trustDomain: mesh.example", ""), "missing the field `trustDomain`"),
        (("mesh.example", "MESH"), "'MESH' is not a trust domain"),
        (("outbound: 127.0.0.1:4140", "outbound: 4140"), "outbound: expected `str`, got `int`"),
        (("outbound: 127.0.0.1:4140", "outbound: 127.0.0.1"), "'127.0.0.1' is not HOST:PORT"),
        (("name: web", "name: Web"), "workloads[0]: name 'Web' is not a DNS label"),
        (("name: web,", "name: web, key: a,"), "workloads[0]: `certificate` and `key` go together"),
        (("outbound:", "opaquePorts: [25, 70000]\noutbound:"), "opaquePorts[1]: expected `int` <= 65535"),
        (("outbound:", "detectTimeout: 1h\noutbound:"), "detectTimeout 1h is not from 100ms to 10m"),
        (("name: web,", "name: web, opaquePorts: [0],"), "workloads[0].opaquePorts[0]: expected `int` >= 1"),
        (("port: 80,", "port: 80, opaquePorts: [-1],"), "services[0].opaquePorts[0]: expected `int` >= 1"),
        (("weight: 2", "weight: 0"), "services[0].endpoints[0].weight: expected `int` >= 1"),
        (("weight: 2", "workload: api"), "trustBundle: needed with `inbound` or meshed endpoints"),
        (("namespace: other, port: 81", "port: 81"), "services[1]: api.default is there twice"),
        (("127.0.0.1:9001", "127.0.0.1:4140"), "workloads[0].upstreams[0].listen: 127.0.0.1:4140 is there twice"),
        (("services:", "- {name: web}\nservices:"), "workloads[1]: default/web is there twice"),
        (("services:", "---\nservices:"), "expected one document, found 2"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_path(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, GOOD.replace(*change, 1))
    assert said in str(refused.value)
    assert all(line.startswith(str(tmp_path / "proxy.yaml")) for line in str(refused.value).splitlines())
