"""The installation's settings: what they say of themselves, and what is refused with which words."""

from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from k8s.settings import Installation, ProxySettings
from k8s.settings_page import settings_page
from k8s.settings_text import dumped, loaded
from k8s.values import port_ranges, quantity, written
from meshd.api.loading import ConfigurationError
from tests.support.certificates import Root

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_says_what_the_types_say() -> None:
    assert (ROOT / "docs" / "kubernetes-settings.md").read_text(encoding="utf-8") == settings_page(), (
        "docs/kubernetes-settings.md differs from the types: python -m k8s.settings_page > docs/kubernetes-settings.md"
    )


def test_what_is_written_is_read() -> None:
    made = Installation(
        trust_anchors=Root().bundle_pem,
        replicas=3,
        native_sidecar=True,
        proxy=ProxySettings(cpu_limit="1", await_=False),
    )
    text = dumped(made)
    assert loaded(text, "meshd-config") == made
    assert "trustAnchors: |\n  -----BEGIN CERTIFICATE-----\n" in text
    assert loaded("", "nothing") == Installation()


def test_back_ends_besides_the_cluster_have_names_of_their_own() -> None:
    text = "discovery: [{kubernetes: {kubeconfig: /etc/east}, name: east}, {consul: {}}]\n"
    made = loaded(text, "file")
    assert [each.called for each in made.discovery] == ["east", "consul"]
    assert loaded(dumped(made), "file") == made
    with pytest.raises(ConfigurationError, match="'kubernetes' is taken: set `name`"):
        loaded("discovery: [{kubernetes: {kubeconfig: /etc/east}}]\n", "file")


def test_values_go_over_the_text() -> None:
    given = {"proxy.cpuRequest": "1", "proxy.skipInboundPorts": "25", "replicas": "3", "nativeSidecar": "false"}
    made = loaded("replicas: 2\ntrustDomain: prod.example\n", "file", given)
    assert (made.replicas, made.native_sidecar, made.trust_domain) == (3, False, "prod.example")
    assert (made.proxy.cpu_request, made.proxy.skip_inbound_ports) == ("1", "25")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("nope", "1", "unknown field `nope`"),
        ("proxy.nope", "1", "proxy: unknown field `nope`"),
        ("image.tag", "1", "image is not a mapping"),
        ("image", "a b", "found 'a b'; expected the name of an image"),
        ("namespace", "A", "namespace 'A' is not a DNS label"),
        ("trustDomain", "a_b", "trustDomain: 'a_b' is not DNS labels"),
        ("trustAnchors", "x", "trustAnchors: expected certificates"),
        ("controller", "somewhere", "controller: found 'somewhere'; expected HOST:PORT"),
        ("replicas", "0", "replicas: expected `int` >= 1"),
        ("replicas", "[1]", "found '[1]'; expected one value"),
        ("nativeSidecar", "maybe", "nativeSidecar"),
        ("proxy.skipInboundPorts", "80-79", "skipInboundPorts: found '80-79'; expected ports from 1 to 65535"),
        ("proxy.memoryLimit", "64MB", "memoryLimit: found '64MB'; expected a quantity"),
        ("proxy.inboundPort", "4140", "found (4140, 4140, 4191); expected three of their own"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(path: str, value: str, said: str) -> None:
    base = "image: meshd:1\n"
    with pytest.raises(ConfigurationError) as refused:
        loaded(base, "file", {path: value})
    assert said in str(refused.value)


def test_a_limit_below_the_request_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"proxy: found a memory request of 1Gi and a limit of 512Mi"):
        loaded("", "file", {"proxy.memoryRequest": "1Gi", "proxy.memoryLimit": "512Mi"})


def test_where_things_are() -> None:
    here = Installation(namespace="mesh", cluster_domain="k8s.example")
    assert here.controller_address == "meshd-controller.mesh.svc.k8s.example:8086"
    assert replace(here, controller="c.example:1").controller_address == "c.example:1"
    assert here.injector_name == "meshd-injector.mesh.svc"


@pytest.mark.parametrize(
    ("said", "server", "native"),
    [
        ("auto", (1, 28), False), ("auto", (1, 29), True), ("auto", (2, 0), True), ("auto", None, False),
        (True, (1, 28), True), (False, (1, 36), False),
    ],
)  # fmt: skip
def test_native_sidecars_where_the_cluster_has_them(said: bool, server: tuple[int, int] | None, native: bool) -> None:
    assert Installation(native_sidecar=said).native(server) is native


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100m", "0.1"), ("0.5", "0.5"), (".5", "0.5"), ("2", "2"), ("64Mi", "67108864"), ("1k", "1000"),
        ("1e3", "1000"), ("1E3", "1000"), ("1E", "1e18"), ("1Ki", "1024"),
    ],
)  # fmt: skip
def test_quantities(text: str, amount: str) -> None:
    assert quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "m", "1K", "-1", "1 m", "1mm", "64MB", "1e", "1e+", "٣", "1_0"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="expected a quantity"):
        quantity(text)


def test_ports() -> None:
    assert port_ranges(" 443, 8000-8010 ") == ((443, 443), (8000, 8010))
    assert port_ranges("") == ()
    assert written([(8000, 8010), (443, 443), (8005, 8020), (8021, 8021)]) == "443,8000-8021"


@pytest.mark.parametrize("text", ["a", "0", "65536", "1-", "-1", "1,,2", "2-1", "1" * 5000, "٣"])
def test_what_is_no_list_of_ports(text: str) -> None:
    with pytest.raises(ValueError, match="expected ports"):
        port_ranges(text)
