"""Three hosts on which Consul runs, from bare Debian to a mesh and back, by what docs/vm.md says to type: units of real
programs go into it by `meshd inject`, and call each other by names, while daemons restart, the root changes, and hosts
are cut off and lost. It prints how long the way to the first request is, and what is lost on others.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.e2e.guide import Guide
from tests.e2e.steps import HERE, Said, at_once, counted, listing, main_pid, page
from tests.e2e.walkers import API, CALLER, GREETER, Calls, Step, answered, has_consul, has_leader, step
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
MOST_LOST = 6
"""Of calls to web, which is on more hosts than one: each of three callers has one on its way when a host vanishes, and
may have another when an endpoint that was ejected is asked again, before the registry has dropped it."""
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

    def step(self, what: str) -> AbstractContextManager[Step]:
        """See `walkers.step`."""
        return step(what, self.callers, self.say)

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
        while_daemons_restart(walk)
        while_the_root_changes(walk)
        while_a_host_is_cut_off(walk)
        when_a_host_is_lost(walk)
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
    walk.types(ca, "A host without systemd-resolved")
    wait_until(lambda: ca.runs("getent", "ahostsv4", "web.mesh").stdout.startswith("2"), "ca resolves web.mesh", 60)
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
        said = host.run("meshd", "check", "--wait", "1m", timeout_s=120)
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


def while_daemons_restart(walk: Walk) -> None:
    """On the host of the callers, and on that of most services."""
    for host in (walk.vm1, walk.ca):
        with walk.step(f"systemctl restart meshd on {host.name}") as step:
            host.run("systemctl", "restart", "meshd")
        assert step.failed == {}
        before = main_pid(host, "meshd-proxy")
        with walk.step(f"systemctl reload meshd-proxy on {host.name}") as step:
            host.run("systemctl", "reload", "meshd-proxy")
            wait_until(lambda host=host, was=before: main_pid(host, "meshd-proxy") != was, "a new one", 60)  # type: ignore[misc]
        assert step.failed == {}
    with walk.step("systemctl restart meshd-proxy on vm1") as step:
        walk.vm1.run("systemctl", "restart", "meshd-proxy")
    assert step.failed == {}
    with walk.step("systemctl restart meshd-proxy on ca"):
        walk.ca.run("systemctl", "restart", "meshd-proxy")  # how long proxies elsewhere wait for it, policy says


def while_the_root_changes(walk: Walk) -> None:
    """In its stages, to the end."""
    ca = walk.ca
    before = ca.run("sha256sum", "/var/lib/meshd-ca/root.key")
    with walk.step("meshd ca rotate root") as step:
        ca.run("meshd", "ca", "rotate", "root", "--settle", "2s", "--renew-within", "5s")
        wait_until(lambda: stage(ca) == "done", "the old root is withdrawn", 120)
    assert step.failed == {}
    assert ca.run("sha256sum", "/var/lib/meshd-ca/root.key") != before


def stage(ca: Machine) -> str:
    """How far the rotation is."""
    return str(json.loads(ca.run("meshd", "ca", "rotate", "status", "-o", "json"))["stage"])


def while_a_host_is_cut_off(walk: Walk) -> None:
    """vm2's cable is out: its own caller goes on with its own service, and the others with the other one."""
    with walk.step("the network of vm2 is away") as step:
        walk.vm2.plugged(False)
        wait_until(lambda: addresses(walk.vm1) == {walk.ca.address}, "vm1 knows that it is away", 120)
        answered(walk.callers)
        walk.vm2.plugged(True)
        both = {walk.ca.address, walk.vm2.address}
        for host in (walk.vm1, walk.vm2):
            wait_until(lambda host=host: addresses(host) == both, f"{host.name} knows that it is back", 300)  # type: ignore[misc]
    assert step.lost <= MOST_LOST, step.failed


def when_a_host_is_lost(walk: Walk) -> None:
    """vm2 loses power."""
    del walk.callers[walk.shop]
    with walk.step("vm2 is lost") as step:
        walk.vm2.lose()
        wait_until(lambda: addresses(walk.vm1) == {walk.ca.address}, "vm1 knows that it is away", 120)
    assert step.lost <= MOST_LOST, step.failed


def addresses(host: Machine) -> set[str]:
    """Where web is, as a host knows."""
    (found,) = json.loads(host.run("meshd", "endpoints", "web.mesh", "-o", "json"))
    return {each["ip"] for each in found["endpoints"]}


def away_with_it(walk: Walk, before: list[list[str]]) -> None:
    """By the page: units run as they did, and nothing is left of it."""
    left = [host for host in walk.hosts if host is not walk.vm2]
    walk.ca.run("rm", "-r", "/etc/systemd/system/meshd.service.d")  # an operator's own
    for host in left:
        walk.types(host, "Away with it")
        assert host.run("nft", "list", "tables") == ""
        assert host.runs("systemctl", "is-active", "meshed.slice").stdout.strip() == "inactive"
        found = host.run("systemctl", "show", "--property=ControlGroup", "--value", *units(host, walk))
        assert found.count("/system.slice/") == len(units(host, walk)), found
        assert "meshd" not in host.run("dpkg-query", "--show", "--showformat", "${Package}\\n")
    for host, now in zip(left, listing(left), strict=True):
        was = before[walk.hosts.index(host)]
        assert sorted(set(now) ^ set(was)) == [], f"{host.name} is not as it was before meshd was installed"
    walk.say("purged: nothing is left")


def units(host: Machine, walk: Walk) -> tuple[str, ...]:
    """Those that were in the mesh there."""
    own = ("nginx", "redis-server", "greeter", "api") if host is walk.ca else ()
    return (*own, *(each.unit for each in walk.callers if each.host is host))
