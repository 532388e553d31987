"""The proxy's listening sockets, as systemd makes them on a booted host: with IPv6, and where it is off."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines import NEEDS, Machine, machines

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to boot hosts"),
    pytest.mark.peer(*NEEDS),
    pytest.mark.timeout(600),
]

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "systemd" / "meshd-proxy.socket"

V4 = {"127.0.0.1:4140", "0.0.0.0:4143", "127.0.0.1:4191"}
V6 = {"[::1]:4140", "[::]:4143"}


@pytest.fixture(scope="module")
def bare() -> Iterator[Machine]:
    """A host with the socket unit, and a service in the place of the proxy's."""
    with machines("bare") as (machine,):
        machine.run("mkdir", "-p", "/etc/meshd")
        machine.write("/etc/meshd/meshd.yaml", "")
        machine.write("/etc/systemd/system/meshd-proxy.socket", UNIT.read_text())
        machine.write("/etc/systemd/system/meshd-proxy.service", "[Service]\nExecStart=/bin/sleep infinity\n")
        machine.run("systemctl", "daemon-reload")
        yield machine


def listening(machine: Machine) -> set[str]:
    """Where something listens at the proxy's ports."""
    lines = machine.run("ss", "--listening", "--tcp", "--numeric", "--no-header").splitlines()
    return {line.split()[3] for line in lines if line.split()[3].endswith((":4140", ":4143", ":4191"))}


def test_they_are_of_both_families(bare: Machine) -> None:
    bare.run("systemctl", "restart", "meshd-proxy.socket")
    assert listening(bare) == V4 | V6


def test_where_ipv6_is_off_the_others_are_there(bare: Machine) -> None:
    bare.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    bare.run("systemctl", "restart", "meshd-proxy.socket")
    assert bare.run("systemctl", "is-active", "meshd-proxy.socket").strip() == "active"
    assert listening(bare) >= V4
