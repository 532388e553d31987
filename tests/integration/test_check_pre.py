"""`meshd check --pre` on hosts that lack something, each made for real: it names what, says what to do, and nothing is
changed by it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import situations
from tests.support.captures import Host, host
from tests.support.joined import Checks, checked, wrong

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")

MESHD = (sys.executable, "-P", "-m", "meshd.cli")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host")) as made:
        yield made


def looked(here: Host, *within: str) -> tuple[int, Checks]:
    return checked("nsenter", f"--net=/proc/{here.inside}/ns/net", *within, *MESHD, "check", "--pre", "--host")


class Lack(NamedTuple):
    """A host that lacks something, which check says so, and what is in its words and in its hint."""

    made: Callable[[Path], tuple[str, ...]]
    check: str
    message: str
    hint: str
    result: str = "error"


LACKS = {
    "no nft": Lack(lambda _: situations.no_nft(), "pre-kernel", "there is no program `nft`", "apt install nftables"),
    "no nf_tables in the kernel": Lack(
        lambda _: situations.no_netfilter(), "pre-kernel", "does not take what is in nf_tables", "a kernel of 5.13"
    ),
    "no `socket cgroupv2` in the kernel": Lack(
        situations.no_socket_match, "pre-kernel", "what is in nft_socket (since 5.13)\n", "a kernel of 5.13"
    ),
    "control groups of version 1 alone": Lack(
        lambda _: situations.cgroups_of_version_1_alone(), "pre-cgroups", "there are none at /sys/fs/cgroup nor at",
        "systemd.unified_cgroup_hierarchy=1",
    ),
    "nft may not be run": Lack(
        lambda _: situations.nft_denied(), "pre-kernel", "nft cannot be run: Permission denied", "journalctl -k -g"
    ),
    "no port may be had": Lack(
        lambda _: situations.binds_denied(), "pre-port", "127.0.0.1:4140 (TCP): Permission denied", "journalctl -k -g"
    ),
    "no systemd": Lack(
        lambda _: situations.no_systemd(), "pre-systemd", "units cannot be meshed", "meshd run", "warning"
    ),
    "no systemd-resolved": Lack(
        lambda _: situations.no_systemd(), "pre-resolver", "no systemd-resolved", "apt install systemd-res", "warning"
    ),
    "no room": Lack(
        lambda _: situations.full(Path("/var/lib")), "pre-room", "0 KiB are left", "df -h /var/lib", "error"
    ),
}  # fmt: skip


@pytest.mark.parametrize("lack", LACKS.values(), ids=LACKS.keys())
def test_what_a_host_lacks_is_named(here: Host, tmp_path: Path, lack: Lack) -> None:
    status, checks = looked(here, *lack.made(tmp_path))
    found = checks[lack.check]
    assert found["result"] == lack.result, checks
    assert lack.message in found["error"]
    assert lack.hint in found["hint"]
    assert found["see"] == "docs/vm.md#pre-meshd"
    assert status == any(each["result"] == "error" for each in checks.values())
    assert "table" not in here.ruleset()


PORTS = (("127.0.0.1", 4140), ("0.0.0.0", 4143), ("127.0.0.1", 4191), ("127.0.0.1", 4192), ("127.0.0.1", 4153))


def test_who_has_a_port_is_named(here: Host) -> None:
    with here.serving("thief", *PORTS):
        status, checks = looked(here)
    assert status == 1
    found = {each["description"]: each for each in checks.values() if each["id"] == "pre-port"}
    for host_, port in PORTS:
        each = found[f"the port {port} is free"]
        assert each["error"].startswith(f"{host_}:{port} (TCP): python")
        assert "(pid " in each["error"]
        assert each["hint"].startswith("end it, or have it listen elsewhere")


def test_a_host_without_ipv6_lacks_nothing(here: Host) -> None:
    here.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    try:
        for within in ((), situations.denying("inet6")):
            assert [each for each in wrong(looked(here, *within)[1]) if each.startswith(("pre-k", "pre-p"))] == []
    finally:
        here.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
