"""Three hosts from bare Debian to a mesh and back: the package installed by apt, a CA, two hosts that join it, and what
an operator does to them, under load. It prints how long the way to the first request is, and what is lost on others.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.guide import Guide
from tests.e2e.steps import HERE, Said, at_once, counted, listing, main_pid, page
from tests.support import packages
from tests.support.machines import NEEDS, Machine, base_root, machines
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to boot hosts"),
    pytest.mark.peer(*NEEDS, *packages.NEEDS),
    pytest.mark.timeout(600),
]

WITHIN_S, COMMANDS = 120.0, 5
"""To the first request, from a host where nothing is installed; of a machine that is not busy."""

PATIENT = "curl -sf --retry 20 --retry-all-errors --retry-delay 1 "
UNIT = """\
[Unit]
Description=an application that knows nothing of a mesh
[Service]
ExecStart=/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1 --directory /etc
DynamicUser=yes
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def upgrade(package: Path, suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a version that follows."""
    own = tmp_path_factory.mktemp("upgrade")
    root = base_root(suite) if suite else None
    return packages.next_version(Path(shutil.copy(package, own)), "0.1.0+next", root)


@contextmanager
def load(host: Machine, say: Said) -> Iterator[None]:
    """Requests from two callers while it is open, by the upstream and by the forward proxy; none may fail."""
    host.run("sh", "-c", "rm -f /root/stop*")
    begun = [
        host.begins("python3", "-B", "/root/load.py", "/root/stop", "http://127.0.0.1:9001/hostname"),
        host.begins("python3", "-B", "/root/load.py", "/root/stop", "http://api/hostname", "http://127.0.0.1:4140"),
    ]
    try:
        yield
    finally:
        host.run("touch", "/root/stop")
        said = [process.communicate(timeout=90)[0] for process in begun]
    for text in said:
        told = json.loads(text.splitlines()[-1])
        assert told["failed"] == [], host.journal("meshd-proxy", "meshd")
        assert told["good"] > 0
    say(f"{sum(json.loads(text.splitlines()[-1])['good'] for text in said)} requests, 0 failed")


def test_from_bare_hosts_to_a_mesh_and_back(package: Path, upgrade: Path, suite: str, say: Said) -> None:
    with machines("ca", "vm1", "vm2", suite=suite) as hosts:
        ca, web, api = hosts
        for host in hosts:
            for script in ("load.py", "listing.py"):
                shutil.copy(HERE / script, host.file(f"/root/{script}"))
            host.write("/etc/systemd/system/app.service", UNIT)
        at_once([web, api], "systemctl", "enable", "--now", "app.service")
        before = listing(hosts)
        to_the_first_request(ca, web, api, package, say)
        what_the_units_may(web, ca, say)
        without_a_failed_request(web, upgrade, say)
        what_is_done_twice(ca)
        what_hinders_its_going(web)
        at_once(hosts, "apt-get", "purge", "-y", "meshd")
        say("purged")
        assert web.run("nft", "list", "tables") == ""
        web.run("systemctl", "restart", "app.service")
        for host, was, now in zip(hosts, before, listing(hosts), strict=True):
            assert sorted(set(now) ^ set(was)) == [], f"{host.name} is not as it was before meshd was installed"
            assert "meshd" not in host.run("dpkg-query", "--show", "--showformat", "${Package}\\n")


def to_the_first_request(ca: Machine, web: Machine, api: Machine, package: Path, say: Said) -> None:
    """An operator's way, counted and timed on the host that calls; what is done meanwhile on the others is theirs."""
    for host in (ca, api, web):
        shutil.copy(package, host.file("/root/meshd.deb"))
    at_once([ca, api], "apt-get", "install", "-y", "--no-install-recommends", "/root/meshd.deb")
    ca.write("/etc/default/meshd-ca", 'MESHD_CA_OPTS="--name ca"\n')
    ca.run("meshd", "ca", "init", "--trust-domain", "prod.example")
    ca.run("systemctl", "enable", "--now", "meshd-ca")
    tokens = {
        host.name: ca.run(
            "meshd", "ca", "token", "create", "--node", host.name, "--workload", f"default/{name}"
        ).strip()
        for host, name in ((web, "web"), (api, "api"))
    }
    typed = Guide("vm.md").commands("Without Consul", {"ca.example": "ca", "192.0.2.5": api.address, "curl ": PATIENT})
    on_vm2, on_vm1 = typed[:3], typed[3:]
    for command in on_vm2:
        api.types(command.replace("TOKEN", tokens[api.name]))

    began = time.monotonic()
    web.types("apt-get install -y --no-install-recommends /root/meshd.deb", timeout_s=240)
    *_, got = (web.types(command.replace("TOKEN", tokens[web.name])) for command in on_vm1)
    took_s = time.monotonic() - began
    assert got == api.run("curl", "-s", "http://127.0.0.1:8080/")
    said = f"{took_s:.1f} s and {len(web.commands)} commands from a bare host to the first request by mutual TLS"
    say(said)
    assert len(web.commands) <= COMMANDS

    inbound = page(api)
    caller = 'client_id="spiffe://prod.example/ns/default/sa/web"'
    assert counted(inbound, "request_total", 'direction="inbound"', 'tls="true"', caller) >= 1, sorted(
        key for key in inbound if key.startswith("request_total")
    )
    assert counted(inbound, "request_total", 'direction="inbound"', 'tls="false"') == 0
    what_the_journal_has(web, "meshd-proxy", SYSLOG_IDENTIFIER="meshd-proxy", PRIORITY="6")
    what_the_journal_has(ca, "meshd-ca", SYSLOG_IDENTIFIER="meshd-ca", MESHD_PEER=f"node {web.name}")
    for host in (web, api):
        checked = host.run("meshd", "check", "--wait", "1m", timeout_s=120)
        assert "Status check results are √" in checked, checked


def what_the_journal_has(host: Machine, unit: str, **fields: str) -> None:
    """Of the workload web: that it got its certificate, by fields and not only in words."""
    found = host.run("journalctl", "--output=json", f"--unit={unit}", "MESHD_WORKLOAD=default/web")
    entries = [json.loads(line) for line in found.splitlines()]
    assert [each for each in entries if fields.items() <= each.items()], entries


def what_the_units_may(web: Machine, ca: Machine, say: Said) -> None:
    """As the systemd that runs them has it."""
    for host, unit, most in ((web, "meshd-proxy", 2.0), (ca, "meshd-ca", 2.0), (web, "meshd", 2.0)):
        found = host.run("systemd-analyze", "security", "--no-pager", f"{unit}.service")
        score = re.search(r"exposure level for \S+ ([0-9.]+)", found)
        assert score is not None, found
        assert float(score[1]) <= most
        say(f"systemd-analyze security {unit}: {score[1]}")
    assert web.run("stat", "-c", "%U %a", "/var/lib/meshd/node.key") == "meshd 600\n"
    assert ca.run("stat", "-c", "%U %a", "/var/lib/meshd-ca/root.key") == "meshd-ca 600\n"


def without_a_failed_request(web: Machine, upgrade: Path, say: Said) -> None:
    """What an operator does to a host that has traffic."""
    first = main_pid(web, "meshd-proxy")
    with load(web, say):
        more(web)
        say("systemctl reload meshd-proxy")
        web.run("systemctl", "reload", "meshd-proxy")
        wait_until(lambda: main_pid(web, "meshd-proxy") != first, "a new generation takes over", 60)
        more(web)
        second = main_pid(web, "meshd-proxy")
    with load(web, say):
        more(web)
        say("systemctl restart meshd-proxy, three times")
        for _ in range(3):  # the first one ends a generation that another began
            web.run("systemctl", "restart", "meshd-proxy")
            more(web)
        third = main_pid(web, "meshd-proxy")
    assert len({first, second, third}) == 3
    assert "SIGKILL" not in web.journal("meshd-proxy")
    with load(web, say):
        more(web)
        say("systemctl restart meshd")
        web.run("systemctl", "restart", "meshd")
        web.run("systemctl", "reload", "meshd")
        more(web)
        say("apt-get install of the next version")
        shutil.copy(upgrade, web.file("/root/next.deb"))
        web.run("apt-get", "install", "-y", "/root/next.deb", timeout_s=240)
        wait_until(lambda: main_pid(web, "meshd-proxy") != third, "the next version takes over", 60)
        wait_until(lambda: counted(page(web), "proxy_build_info", 'version="0.1.0+next"'), "it says so", 60)
        more(web)
    assert "0.1.0+next" in web.run("meshd", "version")
    assert "NRestarts=0\n" in web.run("systemctl", "show", "--property=NRestarts", "meshd-proxy")


def what_is_done_twice(ca: Machine) -> None:
    """Maintainer scripts may be run again at any time, and a package that is removed leaves what is the operator's."""
    before = ca.run("sha256sum", "/var/lib/meshd-ca/root.key", "/etc/default/meshd-ca")
    for _ in range(2):
        ca.run("sh", "-e", "/var/lib/dpkg/info/meshd.postinst", "configure", "0.1.0")
    ca.run("apt-get", "remove", "-y", "meshd", timeout_s=120)
    assert ca.runs("systemctl", "is-active", "meshd-ca").stdout.strip() != "active"
    ca.run("apt-get", "install", "-y", "--no-install-recommends", "/root/meshd.deb", timeout_s=240)
    ca.run("systemctl", "enable", "--now", "meshd-ca")
    assert ca.run("sha256sum", "/var/lib/meshd-ca/root.key", "/etc/default/meshd-ca") == before


def what_hinders_its_going(web: Machine) -> None:
    """A unit in the mesh, one of its files changed, and settings that are not good: it is to go all the same."""
    web.run("meshd", "inject", "app", "--name", "app", "--port", "8080")
    assert "inet meshd" in web.run("nft", "list", "tables")
    for file in ("/etc/meshd/conf.d/app.service.yaml", "/etc/meshd/meshd.yaml"):
        with web.file(file).open("a", encoding="utf-8") as opened:
            opened.write("no: such\n")


def more(web: Machine) -> None:
    """Go on when both callers had some more answers."""

    def answered() -> list[int]:
        return [int(web.runs("cat", f"/root/stop.{port}").stdout or "0") for port in (9001, 4140)]

    before = answered()
    wait_until(
        lambda: all(now >= then + 10 for now, then in zip(answered(), before, strict=True)), "requests go on", 90
    )
