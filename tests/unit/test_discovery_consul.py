"""Consul's names, its settings, and when it is asked again."""

from typing import Any

import msgspec
import pytest

from discovery.consul.index import FRUITLESS_SPACE_S, MOST_WAIT_S, SPACE_S, Cursor, wait_s
from discovery.consul.names import Key, claim
from discovery.consul.settings import ConsulDiscovery
from discovery.names import Authority


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("web", Key("mesh", "web", "shop")),
        ("web.default", Key("mesh", "web", "default")),
        ("Web.Shop.mesh:8080", Key("mesh", "web", "shop", port=8080)),
        ("web.shop.svc.cluster.local", Key("mesh", "web", "shop")),
        ("web.service.consul", Key("service", "web")),
        ("web.service.consul.:8080", Key("service", "web", port=8080)),
        ("web.service.dc2.consul", Key("service", "web", datacenter="dc2")),
        ("v2.web.service.consul", Key("service", "web", tag="v2")),
        ("v2.web.service.dc2.consul", Key("service", "web", tag="v2", datacenter="dc2")),
        ("web_1.service.consul", Key("service", "web_1")),
        ("nearest.query.consul", Key("query", "nearest")),
        ("nearest.query.dc2.consul", Key("query", "nearest", datacenter="dc2")),
        ("service.service.consul", Key("service", "service")),
        ("web.consul", Key("mesh", "web", "consul")),
        ("web.service", Key("mesh", "web", "service")),
        ("service.consul", Key("mesh", "service", "consul")),
        ("web.service.dc2", None),
        ("a.b.query.consul", None),
        ("a.b.web.service.consul", None),
        (".service.consul", None),
        ("web.node.consul", None),
        ("-web.service.consul", None),
        ("web.shop.example", None),
    ],
)
def test_names_are_claimed_by_their_form(text: str, key: Key | None) -> None:
    assert claim(Authority.parse(text, "shop"), "consul") == key


def test_consul_may_have_another_domain() -> None:
    assert claim(Authority.parse("web.service.dc2.corp.example", "shop"), "corp.example") == Key(
        "service", "web", datacenter="dc2"
    )
    assert claim(Authority.parse("web.service.consul", "shop"), "corp.example") is None


def settings(**fields: Any) -> ConsulDiscovery:
    return msgspec.convert(fields, ConsulDiscovery)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "consul:8500"}, "url is not http://HOST:PORT"),
        ({"url": "http://127.0.0.1:99999"}, "url is not http://HOST:PORT"),
        ({"url": "http://user:secret@127.0.0.1:8500"}, "url is not http://HOST:PORT"),
        ({"url": "http://127.0.0.1:8500/v1"}, "url is not http://HOST:PORT"),
        ({"url": "unix:///run/consul.sock"}, "url is not http://HOST:PORT"),
        ({"url": "http://consul.example:8500"}, "changed on its way"),
        ({"url": "http://192.0.2.1:8500"}, "changed on its way"),
        ({"tls": {"certificate": "/c.pem"}}, "certificate and key go together"),
        ({"datacenter": "dc 1"}, "not the name of a datacenter"),
        ({"domain": "consul."}, "not DNS labels"),
        ({"maxStale": "25h"}, "maxStale: 25h is not"),
        ({"maxStale": "soon"}, "maxStale: 'soon'"),
        ({"maxConnections": 8}, ">= 16"),
        ({"services": {"web.a.b": {}}}, "not NAME or NAME.NAMESPACE"),
        ({"services": {"web": {"service": "a/../b"}}}, "not a name in Consul"),
        ({"services": {"web": {"service": "../b"}}}, "not a name in Consul"),
        ({"services": {"web": {"failover": ["dc1", ""]}}}, r"failover\[1\]"),
        ({"services": {"web": {"tag": "v2"}}}, "unknown field"),
        ({"config": {"prefix": "meshd/config"}}, "not one or more words that end with `/`"),
        ({"config": {"prefix": "/meshd/"}}, "not one or more words"),
        ({"config": {"prefix": "../acl/"}}, "not one or more words"),
        ({"config": {"kinds": []}}, "length >= 1"),
        ({"config": {"kinds": ["Settings"]}}, "Invalid enum value"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message) as refused:
        settings(**fields)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8500", "http://localhost:8500/", "http://[::1]:8500", "https://consul.example:8501"]
)
def test_a_url_may_lead_to_this_host_or_be_https(url: str) -> None:
    assert settings(url=url).url == url


def test_a_mapped_name_without_a_namespace_is_in_the_default_one() -> None:
    given = settings(services={"web": {"service": "web-prod"}, "web.shop": {"tags": ["v2"]}})
    assert {name: mapped.service for name, mapped in given.mapped.items()} == {
        ("web", "default"): "web-prod",
        ("web", "shop"): "",
    }


def test_an_index_is_passed_on_and_one_that_goes_backwards_begins_anew() -> None:
    cursor = Cursor()
    cursor.heard(40, 0.1, 0.0, changed=True)
    assert cursor.index == 40
    cursor.heard(41, 30.0, 60.0, changed=True)
    assert cursor.index == 41
    cursor.heard(7, 0.1, 60.0, changed=True)
    assert cursor.index == 0
    cursor.heard(7, 0.1, 0.0, changed=False)
    assert cursor.index == 7


def test_an_index_of_zero_counts_as_one() -> None:
    cursor = Cursor()
    cursor.heard(0, 0.1, 0.0, changed=True)
    assert cursor.index == 1


def test_an_answer_before_its_time_with_no_other_index_begins_anew() -> None:
    """As after a snapshot was restored, when the index will not be passed for long."""
    cursor = Cursor()
    cursor.heard(40, 0.1, 0.0, changed=True)
    cursor.heard(40, 59.0, 60.0, changed=False)
    assert cursor.index == 40
    cursor.heard(40, 3.0, 60.0, changed=False)
    assert cursor.index == 0


def test_answers_have_space_between_them() -> None:
    cursor = Cursor()
    assert cursor.heard(40, 0.05, 0.0, changed=True) == pytest.approx(SPACE_S - 0.05)
    assert cursor.heard(41, 60.0, 60.0, changed=True) == 0.0  # it was held long enough
    assert cursor.heard(42, 0.05, 60.0, changed=True) == pytest.approx(SPACE_S - 0.05)
    assert cursor.heard(43, 0.05, 60.0, changed=False) == pytest.approx(FRUITLESS_SPACE_S - 0.05)
    assert cursor.heard(43, 60.0, 60.0, changed=False) == 0.0


def test_the_more_services_share_the_connections_the_shorter_are_their_turns() -> None:
    assert wait_s(1, 92) == MOST_WAIT_S
    assert wait_s(92, 92) == 10.0
    assert wait_s(920, 92) == pytest.approx(1.0)
    assert wait_s(100_000, 92) == 0.25
