"""What the settings say of the DNS: which names are asked of it, and which servers; and what weights are made of."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from discovery.backends import Place
from discovery.dns.names import Key, Names, is_host
from discovery.dns.registry import shares
from discovery.dns.resolver import MAX_SERVERS, Servers, usable
from discovery.dns.settings import DnsSettings
from discovery.names import Authority
from discovery.registry import Away
from meshd.api.names import Address

WEB = Key("web", "shop", 80, "_web._tcp.example", "srv")
DB = Key("db", "default", 5432, "db.example", "address")
NAMES = Names({("web", "shop"): WEB, ("db", "default"): DB}, ["example.internal", "b"])


@pytest.mark.parametrize(
    ("authority", "namespace", "claimed"),
    [
        ("web.shop", "default", WEB),
        ("web", "shop", WEB),
        ("web.shop.svc.cluster.local:80", "default", WEB),
        ("db:5432", "default", DB),
        ("web.example.internal", "default", Key("web", "example.internal", 80, "web.example.internal", "address")),
        ("WEB.example.internal.:81", "x", Key("web", "example.internal", 81, "web.example.internal", "address")),
        ("example.internal", "default", Key("example", "internal", 80, "example.internal", "address")),
        (
            "_http._tcp.web.example.internal",
            "default",
            Key("_http", "_tcp.web.example.internal", 80, "_http._tcp.web.example.internal", "srv"),
        ),
        ("a_b.example.internal", "default", Key("a_b", "example.internal", 80, "a_b.example.internal", "address")),
        ("web.b", "default", Key("web", "b", 80, "web.b", "address")),
        # not ours
        ("web", "default", None),
        ("web.shop:8080", "default", None),
        ("db.shop", "default", None),
        ("db:80", "default", None),
        ("example.com", "default", None),
        ("web.notexample.internal", "default", None),
        ("internal", "default", None),
        # not a name
        ("a..example.internal", "default", None),
        ("-a.example.internal", "default", None),
        ("a\\.b.example.internal", "default", None),
        ("ä.example.internal", "default", None),
        (f"{'a' * 64}.example.internal", "default", None),
    ],
)
def test_which_names_are_claimed(authority: str, namespace: str, claimed: Key | None) -> None:
    assert NAMES.claim(Authority.parse(authority, namespace)) == claimed


def test_a_host_is_253_characters_at_most() -> None:
    host = ".".join(["a" * 49] * 5)
    assert is_host(host + ".bcd")
    assert not is_host(host + ".bcde")
    assert not is_host("")


@pytest.mark.parametrize(
    ("weights", "counts", "expected"),
    [
        ([1, 3], [1, 1], [1, 3]),
        ([10, 10], [2, 2], [10, 10]),
        ([10, 10], [1, 2], [1000, 500]),
        ([0, 0], [1, 1], [1, 1]),
        ([0, 0], [1, 2], [100, 50]),
        ([0, 1], [1, 1], [1, 100]),
        ([65535, 0], [1, 1], [65535, 1]),
        ([30000, 1], [1, 2], [60000, 1]),
        ([], [], []),
    ],
)
def test_a_weight_is_that_of_all_addresses_of_a_record(
    weights: list[int], counts: list[int], expected: list[int]
) -> None:
    assert shares(weights, counts) == expected


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:127.0.0.1"])
def test_an_endpoint_is_one_host(address: str) -> None:
    assert not usable(address)
    assert usable("192.0.2.5")
    assert usable("2001:db8::5")


def test_the_servers_are_those_of_resolv_conf_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    servers = Servers((), file)
    with pytest.raises(Away, match=r"resolv\.conf: No such file"):
        servers.now()
    file.write_text("# nothing\nsearch example\nnameserver\n;nameserver 192.0.2.1\nnameserver ns.example\n")
    with pytest.raises(Away, match="names no server"):
        servers.now()
    file.write_text("options edns0\nnameserver 192.0.2.53\nnameserver   2001:db8::53 # the second\n")
    assert servers.now() == (Address("192.0.2.53", 53), Address("2001:db8::53", 53))
    beside = tmp_path / "new"
    beside.write_text("".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 9)))
    beside.rename(file)
    assert servers.now() == tuple(Address(f"192.0.2.{number}", 53) for number in range(1, MAX_SERVERS + 1))
    file.unlink()
    assert len(servers.now()) == MAX_SERVERS, "those of before, while there is no file"


def test_servers_of_the_settings_take_the_place_of_the_file(tmp_path: Path) -> None:
    given = (Address("192.0.2.53", 5353),)
    assert Servers(given, tmp_path / "resolv.conf").now() == given


def settings(**given: Any) -> DnsSettings:
    return msgspec.convert(given, DnsSettings)


def test_services_of_the_settings() -> None:
    given = settings(
        domains=["Example.Internal."],
        services={
            "web.shop": {"srv": "_web._tcp.Example", "workload": "web", "inboundPort": 4144},
            "db": {"name": "db.example.", "port": 5432, "protocol": "tcp"},
            "api": {"srv": "_api._tcp.example", "port": 8080, "workload": "shop/api"},
        },
        resolvers=["192.0.2.53", "2001:DB8::53", "[2001:db8::53]:5353", "127.0.0.1:5353"],
    )
    registry = given.registry(Place("dns-east", "prod.example", "vm1", "a"))
    assert registry.name == "dns-east"
    shop = "spiffe://prod.example/ns/shop/sa"
    for asked, key in (
        ("web.shop", Key("web", "shop", 80, "_web._tcp.example", "srv", f"{shop}/web", 4144)),
        ("db", Key("db", "default", 5432, "db.example", "address", protocol="tcp")),
        ("api.default:8080", Key("api", "default", 8080, "_api._tcp.example", "srv", f"{shop}/api", 4143)),
        ("a.example.internal", Key("a", "example.internal", 80, "a.example.internal", "address")),
        ("web", None),
    ):
        assert registry.claim(Authority.parse(asked, "default")) == key


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it answers for nothing: name `domains` or `services`"),
        ({"domains": ["."]}, "domains[0]: '.' is not a domain"),
        ({"domains": ["a", ""]}, "domains[1]: '' is not a domain"),
        ({"domains": ["*.example"]}, "domains[0]: '*.example' is not a domain"),
        ({"services": {"web": {}}}, "exactly one of `name` and `srv` - at `$.services[...]`"),
        ({"services": {"web": {"name": "a", "srv": "b", "port": 80}}}, "exactly one of `name` and `srv`"),
        ({"services": {"web": {"name": "web.example"}}}, "addresses have no port: set `port`"),
        ({"services": {"web": {"name": "web example", "port": 80}}}, "'web example' is not the name of a host"),
        ({"services": {"web": {"srv": "a", "workload": "a/b/c"}}}, "namespace 'a/b' is not a DNS label"),
        ({"services": {"web.a.b": {"srv": "a"}}}, "namespace 'a.b' is not a DNS label"),
        ({"services": {"web": {"srv": "a"}, "web.default": {"srv": "b"}}}, "'web' is there twice"),
        ({"services": {f"s{number}": {"srv": "a"} for number in range(1025)}}, "1025 of them, and at most 1024"),
        ({"domains": ["a"], "resolvers": ["ns.example"]}, "resolvers[0]: 'ns.example' is not HOST:PORT"),
        ({"domains": ["a"], "resolvers": ["192.0.2.53:0"]}, "resolvers[0]: '192.0.2.53:0' is not IP or IP:PORT"),
        ({"domains": ["a"], "resolvers": ["ns.example:53"]}, "'ns.example:53' is not IP or IP:PORT"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        settings(**given)
    assert said in str(refused.value)
