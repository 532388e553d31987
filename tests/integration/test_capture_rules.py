"""The table in the kernel: real nftables, control groups and processes, on a host of the test's own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.capture import slices
from meshd.capture.plan import Listener, Plan, Skips, listener, networks
from meshd.capture.table import removal, render
from tests.support.captures import HERE, PROXY_USER, THERE, THERE6, Host, host

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")

PROXY_UID = 65534
OUTBOUND, INBOUND = listener("127.0.0.1:4140"), listener("0.0.0.0:4143")
VIRTUAL = networks(("240.0.0.0/4",), "")


@pytest.fixture(scope="module")
def here() -> Iterator[Host]:
    """The host, and servers outside it on two ports. Its directory is for all users: not below pytest's own."""
    places = [(address, port) for address in (THERE, THERE6) for port in (9000, 9001)]
    with (
        tempfile.TemporaryDirectory(prefix="meshd-capture-") as directory,
        host(Path(directory)) as made,
        made.serving("outside", *places, outside=True),
    ):
        yield made


@contextmanager
def proxy(here: Host) -> Iterator[None]:
    places = ("127.0.0.1", 4140), ("::1", 4140), ("0.0.0.0", 4143), ("::", 4143)
    with here.serving("proxy", *places, user=PROXY_USER):
        yield


def plan(here: Host, **differs: object) -> Plan:
    usual = {"outbound": OUTBOUND, "inbound": INBOUND, "exempt": (PROXY_UID,), "virtual": VIRTUAL}
    return Plan(**{**usual, "group": slices.find(here.slice), **differs})  # type: ignore[arg-type]


@contextmanager
def captured(here: Host, **differs: object) -> Iterator[None]:
    here.run("nft", "--file", "-", text=render(plan(here, **differs)))
    try:
        yield
    finally:
        here.run("nft", "--file", "-", text=removal())


def test_processes_of_the_slice_are_captured_and_no_others(here: Host) -> None:
    web = here.group("web.service")
    with proxy(here), captured(here):
        assert here.call(THERE, 9000, within=web) == f"proxy {THERE}:9000"
        assert here.call(THERE6, 9000, within=web) == f"proxy [{THERE6}]:9000"
        assert here.call(THERE, 9000) == "outside -"
        assert here.call(THERE6, 9000) == "outside -"
        assert here.call("240.1.2.3", 80, within=web) == "proxy 240.1.2.3:80"


def test_nobody_is_captured_before_and_after(here: Host) -> None:
    web = here.group("web.service")
    with proxy(here):
        assert here.call(THERE, 9000, within=web) == "outside -"
        with captured(here):
            assert here.call(THERE, 9000, within=web) == f"proxy {THERE}:9000"
        assert here.call(THERE, 9000, within=web) == "outside -"


def test_a_unit_that_is_restarted_is_captured_from_its_first_connection(here: Host) -> None:
    with proxy(here), captured(here):
        ids = set()
        for _ in range(5):
            group = here.group("again.service")
            ids.add(group.stat().st_ino)
            assert here.call(THERE, 9000, within=group) == f"proxy {THERE}:9000"
            group.rmdir()
        assert len(ids) == 5  # each was another control group


def test_the_proxy_is_never_captured_not_even_in_the_slice(here: Host) -> None:
    web = here.group("web.service")
    with proxy(here), captured(here, uids=(PROXY_UID,)):
        assert here.call(THERE, 9000, within=web, user=PROXY_USER) == "outside -"


def test_users_are_captured_wherever_they_run(here: Host) -> None:
    with proxy(here), captured(here, uids=(1,), group=None):
        assert here.call(THERE, 9000, user="daemon") == f"proxy {THERE}:9000"
        assert here.call(THERE6, 9000, user="daemon") == f"proxy [{THERE6}]:9000"
        assert here.call(THERE, 9000) == "outside -"


def test_loopback_is_left_alone(here: Host) -> None:
    web = here.group("web.service")
    with proxy(here), here.serving("local", ("127.0.0.1", 7000), ("::1", 7000)), captured(here, ports=(7000,)):
        assert here.call("127.0.0.1", 7000, within=web) == "local -"
        assert here.call("::1", 7000, within=web) == "local -"
        assert here.call("127.0.0.1", 7000) == "local -"


def test_what_is_skipped_goes_where_it_was_going_but_for_addresses_of_services(here: Host) -> None:
    web = here.group("web.service")
    ports = Skips(ports=(9001, 80))
    with proxy(here), captured(here, skips=ports):
        assert here.call(THERE, 9000, within=web) == f"proxy {THERE}:9000"
        assert here.call(THERE, 9001, within=web) == "outside -"
        assert here.call(THERE6, 9001, within=web) == "outside -"
        assert here.call("240.1.2.3", 80, within=web) == "proxy 240.1.2.3:80"
    with proxy(here), captured(here, skips=Skips(networks=networks((f"{THERE}/32", "fd98::/64"), ""))):
        assert here.call(THERE, 9000, within=web) == "outside -"
        assert here.call(THERE6, 9000, within=web) == "outside -"
        assert here.call("198.51.100.7", 9000, within=web) == "proxy 198.51.100.7:9000"


def test_a_slice_of_ones_own_has_skip_lists_of_its_own(here: Host) -> None:
    own = slices.own_slice(here.slice, ("shop", "web"))  # type: ignore[arg-type]
    inner = here.group(str(Path(slices.path_of(own)).relative_to(here.slice)))
    web = here.group(str(Path(slices.path_of(own)).relative_to(here.slice) / "web.service"))
    other = here.group("other.service")
    group = slices.find(own)
    assert group is not None
    assert group.id == inner.stat().st_ino
    with proxy(here), captured(here, by_group=((group, Skips(ports=(9001,))),)):
        assert here.call(THERE, 9001, within=web) == "outside -"
        assert here.call(THERE, 9000, within=web) == f"proxy {THERE}:9000"
        assert here.call(THERE, 9001, within=other) == f"proxy {THERE}:9001"


def test_what_comes_for_a_meshed_port_goes_to_the_inbound_listener(here: Host) -> None:
    places = ("0.0.0.0", 7000), ("::", 7000), ("0.0.0.0", 7001)
    with proxy(here), here.serving("app", *places), captured(here, ports=(7000,)):
        assert here.call(HERE, 7000, outside=True) == f"proxy {HERE}:7000"
        assert here.call("fd98::1", 7000, outside=True) == "proxy [fd98::1]:7000"
        assert here.call(HERE, 7001, outside=True) == "app -"
        assert here.call(HERE, 7000) == f"proxy {HERE}:7000"  # of this host, and not of the mesh
        assert here.call(HERE, 7000, user=PROXY_USER) == "app -"  # the proxy's own way to the application


@pytest.mark.parametrize("address", [THERE, THERE6])
def test_while_the_proxy_is_away_connections_are_refused_or_go_on(here: Host, address: str) -> None:
    web = here.group("web.service")
    with captured(here):
        assert here.call(address, 9000, within=web) == "ECONNREFUSED"
    with captured(here, is_open=True):
        assert here.call(address, 9000, within=web) == "outside -"
        assert "packets 1 " in here.run("nft", "list", "counter", "inet", "meshd", "passed")


def test_where_the_proxy_does_not_listen_nobody_else_is_led_to(here: Host) -> None:
    web = here.group("web.service")
    v4_alone = Listener(OUTBOUND.v4, None)
    with here.serving("thief", ("::1", 4140)), captured(here, outbound=v4_alone):
        assert here.call(THERE6, 9000, within=web) == "ECONNREFUSED"


def test_rules_of_others_stay_as_they_are(here: Host) -> None:
    others = "table ip filter {\n\tchain output {\n\t\ttype filter hook output priority 0; tcp dport 25 drop\n\t}\n}\n"
    here.run("nft", "--file", "-", text=others)
    before = here.ruleset()
    with captured(here, ports=(7000,), skips=Skips((1, 2), networks(("10.0.0.0/8",), ""))):
        during = here.ruleset()
        assert during != before
        assert before.strip() in during
        here.run("nft", "--file", "-", text=render(plan(here, ports=(7001,))))
        again = here.ruleset()
        here.run("nft", "--file", "-", text=render(plan(here, ports=(7001,))))
        assert here.ruleset() == again
        assert again.count("table inet meshd") == 1
    assert here.ruleset() == before
    here.run("nft", "delete", "table", "ip", "filter")


def test_a_table_that_is_not_good_changes_nothing(here: Host) -> None:
    with captured(here):
        before = here.ruleset()
        broken = render(plan(here)).replace("goto captured", "goto nowhere")
        with pytest.raises(AssertionError, match="nowhere"):
            here.run("nft", "--file", "-", text=broken)
        assert here.ruleset() == before
