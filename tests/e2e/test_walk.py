"""Three hosts on which Consul runs, from bare Debian to a mesh and back, by what docs/vm.md says to type: units of real
programs go into it by `meshd inject`, and call each other by names. It prints how long the way to the first request is.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.guide import Guide
from tests.e2e.steps import HERE, Said, at_once, counted, listing, page
from tests.e2e.walkers import API, CALLER, GREETER, Calls, answered, has_consul, has_leader
from tests.support import packages
from tests.support.machines import NEEDS, Machine, machines
from tests.support.peers import path
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to boot hosts"),
    pytest.mark.peer(*NEEDS, *packages.NEEDS, "consul"),
    pytest.mark.timeout(900),
]

COMMANDS = 5
"""To the first request, from a host that has a service and a Consul."""

TO_WEB, TO_API = "http:web.mesh:80", "http:api.mesh:80"
TO_CACHE, TO_GREETER = "redis:cache.mesh:6379", "grpc:greeter.mesh:50051"
PLAIN_RESOLV_CONF = "# nobody is asked\noptions timeout:2 attempts:2\n"


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide("vm.md")


class Walk:
    """The hosts, what calls on them, and what they must have answered to go on."""

    def __init__(self, hosts: list[Machine], package: Path, guide: Guide, say: Said) -> None:
        self.hosts, self.package, self.guide, self.say = hosts, package, guide, say
        self.ca, self.vm1, self.vm2 = hosts
        self.front = Calls(self.vm1, "front.service", 3000)
        self.batch = Calls(self.vm1, "batch.service", 3001)
        self.shop = Calls(self.vm2, "shop.service", 3000)
        self.callers = {
            self.front: (TO_WEB, TO_API, TO_CACHE, TO_GREETER),
            self.batch: (TO_WEB,),
            self.shop: (TO_WEB,),
        }

    def types(self, host: Machine, section: str, words: Mapping[str, str] | None = None) -> list[str]:
        """A person types what a section of the page says, at that host: what was printed, command by command."""
        return [host.types(f"cd /root\n{each}", timeout_s=240) for each in self.guide.commands(section, words)]


def test_what_an_operator_does(package: Path, suite: str, guide: Guide, say: Said) -> None:
    with machines("ca", "vm1", "vm2", programs={path("consul"): "/usr/bin/consul"}, suite=suite) as hosts:
        walk = Walk(hosts, package, guide, say)
        has_services(walk)
        before = listing(hosts)
        into_the_mesh(walk)
        as_who_they_are(walk)
        away_with_it(walk, before)
    assert guide.untyped() == {"Without Consul", "An apt repository"}, "a command of the page is not tried"


def has_services(walk: Walk) -> None:
    """What there is before there is a mesh: Consul, services, and callers of services that they do not find yet."""
    ca, vm1, vm2 = walk.hosts
    has_consul(walk.hosts)
    for host in walk.hosts:
        for script in ("caller.py", "greeter.py"):
            shutil.copy(HERE / script, host.file(f"/opt/{script}"))
        shutil.copy(HERE / "listing.py", host.file("/root/listing.py"))
        shutil.copy(walk.package, host.file("/root/meshd_0.1.0_amd64.deb"))
        host.write("/etc/apt/apt.conf.d/90yes", 'APT::Get::Assume-Yes "true";\n')
        with host.file("/etc/hosts").open("a", encoding="utf-8") as file:
            file.write(f"{ca.address} ca.example\n")
        host.run("rm", "-f", "/etc/resolv.conf")
        host.write("/etc/resolv.conf", PLAIN_RESOLV_CONF)
    ca.write("/etc/systemd/system/greeter.service", GREETER)
    ca.write("/etc/systemd/system/api.service", API)
    ca.run("sh", "-c", "echo 'save \"\"' >>/etc/redis/redis.conf")
    vm1.run("ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
    for caller, calls in walk.callers.items():
        caller.host.write(f"/etc/systemd/system/{caller.unit}", CALLER.format(port=caller.port, calls=" ".join(calls)))
    at_once(walk.hosts, "systemctl", "enable", "--now", "consul", "nginx")
    ca.run("systemctl", "enable", "--now", "redis-server", "greeter", "api")
    vm1.run("systemctl", "enable", "--now", "systemd-resolved", "front", "batch")
    vm2.run("systemctl", "enable", "--now", "shop")
    for host in walk.hosts:
        wait_until(lambda host=host: has_leader(host), f"{host.name} knows Consul's leader", 90)  # type: ignore[misc]


def into_the_mesh(walk: Walk) -> None:
    """By the page. The way to the first request is counted and timed on vm2, whose service vm1 then calls."""
    ca, vm1, vm2 = walk.hosts
    too = (("default/web", "default/shop"), ("default/front", "default/batch"))
    more = {each: f"{each} --workload {other}" for each, other in too}
    *_, for_vm2, for_vm1 = walk.types(ca, "The CA, on one host", more)
    walk.types(vm1, "A caller, on vm1", {"TOKEN": for_vm1.strip()})
    vm1.run("meshd", "inject", "batch", "--port", "3001", "--restart")
    assert walk.front.good(TO_WEB) == 0

    began = time.monotonic()
    walk.types(vm2, "A service, on vm2", {"TOKEN": for_vm2.strip()})
    wait_until(lambda: walk.front.good(TO_WEB), "front is answered by web", 120)
    took_s = time.monotonic() - began
    walk.say(f"{took_s:.1f} s and {len(vm2.commands)} commands from a bare host to the first request by mutual TLS")
    assert len(vm2.commands) <= COMMANDS
    walk.types(vm2, "A host without systemd-resolved")
    vm2.run("meshd", "inject", "shop", "--port", "3000", "--restart")

    token = ca.run("meshd", "ca", "token", "create", "--node", "ca", "--workload", "default/*").strip()
    walk.types(ca, "A service, on vm2", {"TOKEN": token})
    ca.run("meshd", "inject", "redis-server", "--name", "cache", "--port", "6379", "--restart")
    ca.run("meshd", "inject", "greeter", "--port", "50051", "--restart")
    ca.run("meshd", "inject", "api", "--port", "8080", "--restart")
    answered(walk.callers)


def as_who_they_are(walk: Walk) -> None:
    """Each call went by mutual TLS, from whose unit made it to whose unit was meant, and none otherwise."""
    ca, vm1, vm2 = walk.hosts
    called = {
        (host.name, caller, service): counted(page(host), metric, *labels(caller, service))
        for host, service, metric in (
            (ca, "web", "request_total"), (vm2, "web", "request_total"), (ca, "api", "request_total"),
            (ca, "greeter", "request_total"), (ca, "cache", "tcp_open_total"),
        )
        for caller in ("front", "batch", "shop")
    }  # fmt: skip
    by_caller = {
        caller: {service for (_, who, service), times in called.items() if who == caller and times}
        for caller in ("front", "batch", "shop")
    }
    assert by_caller == {"front": {"web", "api", "greeter", "cache"}, "batch": {"web"}, "shop": {"web"}}, called
    for host in walk.hosts:
        found = page(host)
        assert not [
            key for key in found if key.startswith("request_total{") and 'tls="true"' not in key and "inbound" in key
        ]
        said = host.run("meshd", "check")
        assert "Status check results are √" in said, said
    lookups = page(vm1)
    each_us = lookups["meshd_caller_lookup_seconds_total"] / sum_of(lookups, "meshd_caller_lookups_total") * 1e6
    walk.say(f"{each_us:.0f} µs to look up who calls, {sum_of(lookups, 'meshd_caller_lookups_total'):.0f} times")


def labels(caller: str, service: str) -> tuple[str, ...]:
    """Of what came in by mutual TLS from one for the other."""
    who = f'client_id="spiffe://prod.example/ns/default/sa/{caller}"'
    return 'direction="inbound"', 'tls="true"', who, f'workload="default/{service}"'


def sum_of(found: Mapping[str, float], name: str) -> float:
    return sum(value for key, value in found.items() if key.startswith(name + "{"))


def away_with_it(walk: Walk, before: list[list[str]]) -> None:
    """By the page: units run as they did, and nothing is left of it."""
    walk.vm2.run("rm", "-r", "/etc/systemd/system/meshd.service.d")  # an operator's own
    for host in walk.hosts:
        walk.types(host, "Away with it")
        assert host.run("nft", "list", "tables") == ""
        assert host.runs("systemctl", "is-active", "meshed.slice").stdout.strip() == "inactive"
        found = host.run("systemctl", "show", "--property=ControlGroup", "--value", *units(host, walk))
        assert found.count("/system.slice/") == len(units(host, walk)), found
        assert "meshd" not in host.run("dpkg-query", "--show", "--showformat", "${Package}\\n")
    for host, was, now in zip(walk.hosts, before, listing(walk.hosts), strict=True):
        assert sorted(set(now) ^ set(was)) == [], f"{host.name} is not as it was before meshd was installed"
    walk.say("purged: nothing is left")


def units(host: Machine, walk: Walk) -> tuple[str, ...]:
    """Those that were in the mesh there."""
    own = ("nginx", "redis-server", "greeter", "api") if host is walk.ca else ("nginx",) if host is walk.vm2 else ()
    return (*own, *(each.unit for each in walk.callers if each.host is host))
