"""Which address stands for which service, as time goes by and the table fills."""

from ipaddress import IPv4Network, IPv6Network, ip_address

import msgspec
import pytest

from meshd.agent.names.settings import NamesSettings, Ranges, local_network
from meshd.agent.names.table import KEEP_S, Given, Table

RANGES = NamesSettings().ranges("prod.example")
SMALL = Ranges(IPv4Network("10.255.0.0/24"), None)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def table(ranges: Ranges = RANGES, clock: Clock | None = None, max_names: int = 65_536) -> Table:
    return Table(ranges, clock=clock or Clock(), max_names=max_names)


def given(table: Table, host: str) -> Given:
    found = table.give(host)
    assert found is not None
    return found


def test_a_service_has_one_address_on_every_host_and_after_every_start() -> None:
    hosts = [f"service-{number}.shop.mesh" for number in range(50)]
    there, here = table(), table()
    addresses = {host: given(there, host)[:3] for host in hosts}
    assert addresses == {host: given(here, host)[:3] for host in reversed(hosts)}
    assert given(there, hosts[0]) == given(there, hosts[0])
    assert addresses["service-7.shop.mesh"][1:] == ("252.218.110.226", "fd0b:9f20:10e8:0:2eb2:a5c6:692e:a6fe")
    assert all(there.owns(v4) and there.owns(v6) for _, v4, v6 in addresses.values())
    assert len({v4 for _, v4, _ in addresses.values()}) == len({v6 for _, _, v6 in addresses.values()}) == 50


def test_an_ipv6_network_follows_from_the_trust_domain() -> None:
    network = local_network("prod.example")
    assert network.subnet_of(IPv6Network("fd00::/8"))
    assert network.prefixlen == 64
    assert network != local_network("test.example")
    assert NamesSettings(range6="").ranges("prod.example").v6 is None
    assert NamesSettings(range6="fd12::/32").ranges("prod.example").v6 == IPv6Network("fd12::/32")


def test_no_two_services_share_an_address_and_the_ends_of_the_range_are_nobodys() -> None:
    full = table(SMALL)
    addresses = {given(full, f"s{number}.a.mesh").v4 for number in range(254)}
    assert addresses == {str(address) for address in SMALL.v4.hosts()}
    assert full.give("one-more.a.mesh") is None
    assert not full.owns("240.0.0.1")
    assert not full.owns("fd00::1")


def test_what_is_remembered_is_given_again_even_where_the_hash_has_another() -> None:
    before = table(SMALL)
    hosts = [f"s{number}.a.mesh" for number in range(200)]
    addresses = {host: given(before, host).v4 for host in hosts}
    kept = msgspec.json.decode(msgspec.json.encode(before.all()), type=tuple[Given, ...])
    after = table(SMALL)
    assert after.restore(kept) == 0
    assert {host: given(after, host).v4 for host in reversed(hosts)} == addresses
    assert any(given(table(SMALL), host).v4 != address for host, address in addresses.items())


@pytest.mark.parametrize(
    "odd",
    [
        Given("a.b.mesh", "10.255.1.1", "", 0.0),  # of another range
        Given("a.b.mesh", "no address", "", 0.0),
        Given("a.b.mesh", "10.255.0.9", "fd00::1", 0.0),  # where there are none
        Given("a.b.mesh", "", "", 0.0),
        Given("no host", "10.255.0.9", "", 0.0),
        Given("web.a.mesh", "10.255.0.9", "", 0.0),  # twice
        Given("a.b.mesh", "10.255.0.7", "", 0.0),  # another's
    ],
)
def test_what_does_not_fit_is_not_remembered(odd: Given) -> None:
    restored = table(SMALL)
    assert restored.restore([Given("web.a.mesh", "10.255.0.7", "", -1.0), odd]) == 1
    assert [each.host for each in restored.all()] == ["web.a.mesh"]


def test_the_name_that_was_not_used_for_the_longest_time_is_forgotten_after_days() -> None:
    clock = Clock()
    full = table(RANGES, clock, max_names=3)
    addresses = {host: given(full, host).v4 for host in ("a.x.mesh", "b.x.mesh", "c.y.mesh")}
    assert full.give("d.x.mesh") is None
    clock.now += KEEP_S - 1
    assert full.known("a.x.mesh") is not None
    clock.now += 2
    assert full.give("d.x.mesh") is not None
    assert [each.host for each in full.all()] == ["c.y.mesh", "a.x.mesh", "d.x.mesh"]
    assert full.host(addresses["b.x.mesh"]) == ""
    assert full.give("e.x.mesh") is not None
    assert full.give("f.x.mesh") is None
    assert full.is_above("x.mesh")
    assert not full.is_above("y.mesh")


def test_an_address_that_is_in_use_is_not_given_to_another() -> None:
    clock = Clock()
    full = table(RANGES, clock, max_names=1)
    address = given(full, "a.x.mesh").v4
    told: list[str] = []
    close = full.watch(address, told.append)
    clock.now += KEEP_S + 1
    assert full.give("b.x.mesh") is None
    close()
    assert full.give("b.x.mesh") is None, "it was in use until now"
    clock.now += KEEP_S + 1
    assert full.give("b.x.mesh") is not None
    assert told == ["a.x.mesh"]


def test_who_watches_an_address_that_stands_for_nothing_hears_what_it_comes_to_stand_for() -> None:
    address = given(table(), "a.x.mesh").v6
    later = table()
    told: list[str] = []
    later.watch(address, told.append)
    given(later, "a.x.mesh")
    assert told == ["", "a.x.mesh"]
    assert ip_address(address) in local_network("prod.example")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"range": "240.0.0.0/30"}, "not a network of /1 to /24"),
        ({"range": "240.0.0.1/4"}, "has host bits set"),
        ({"range6": "fd00::/120"}, "not a network of /1 to /112"),
        ({"listen": "0.0.0.0:53"}, "not at a loopback address"),
        ({"listen": "localhost"}, "not HOST:PORT"),
        ({"domains": ["Mesh"]}, "not a domain in small letters"),
        ({"namespace": "A"}, "not a DNS label"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(settings, NamesSettings)
