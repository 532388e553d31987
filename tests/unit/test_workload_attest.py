"""Which workload a process is: what /proc says of a cgroup, what a selector fits, and who gets nothing."""

import pytest

from meshd.agent.workload.attest import Facts, NotAttested, attest, cgroup_of, matches, unit_of
from meshd.api.documents import Selector
from meshd.api.names import WorkloadName

WEB = Facts(7, 33, "www-data", "/system.slice/web.service", "/usr/bin/web")
A, B = WorkloadName("default", "a"), WorkloadName("default", "b")


@pytest.mark.parametrize(
    ("listing", "cgroup"),
    [
        ("0::/system.slice/web.service\n", "/system.slice/web.service"),
        ("12:pids:/p\n1:name=systemd:/system.slice/web.service\n0::/system.slice/web.service\n", WEB.cgroup),
        ("12:pids:/p\n1:name=systemd:/system.slice/web.service\n0::/\n", WEB.cgroup),
        ("12:pids:/p\n1:name=systemd:/system.slice/web.service\n", WEB.cgroup),
        ("1:name=systemd:/a\n0::/b\n", "/b"),
        ("12:cpu,cpuacct:/system.slice/web.service\n0::/\n", "/"),
        ("0::/a:b/c::d\n", "/a:b/c::d"),
        ("0::/../../web.service\n", ""),
        ("0::/a/..\n", ""),
        ("0::\n", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_cgroups(listing: str, cgroup: str) -> None:
    assert cgroup_of(listing) == cgroup


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/web.service", "web.service"),
        ("/system.slice/web.service/worker/deep.service", "web.service"),
        ("/system.slice/system-web.slice/web@1.service", "web@1.service"),
        ("/meshed.slice/web.service", "web.service"),
        ("/init.scope", "init.scope"),
        ("/web.service", "web.service"),
        ("/system.slice/__tmp.service", "_tmp.service"),
        # What a user's own manager calls web.service is not the system's.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-3.scope/web.service", "session-3.scope"),
        ("/docker/0123/web.service", ""),
        ("/system.slice", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_units(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (Selector(unit="web.service"), True),
        (Selector(unit="web@*.service"), False),
        (Selector(unit="w*.service"), True),
        (Selector(unit="eb.service"), False),
        (Selector(unit="webXservice"), False),
        (Selector(user="www-data"), True),
        (Selector(user="33"), True),
        (Selector(user="3"), False),
        (Selector(user="root"), False),
        (Selector(cgroup="/system.slice/web.service"), True),
        (Selector(cgroup="/system.slice"), True),
        (Selector(cgroup="/system.slice/*"), True),
        (Selector(cgroup="/system.slice/*/*"), False),
        (Selector(cgroup="/system.slice/we"), False),
        (Selector(cgroup="/*/web.service"), True),
        (Selector(user="33", executable="/usr/bin/web"), True),
        (Selector(user="33", executable="/usr/bin/we"), False),
        (Selector(user="0", executable="/usr/bin/web"), False),
        (Selector(unit="web.service", user="www-data", cgroup="/system.slice", executable="/usr/bin/web"), True),
        (Selector(unit="web.service", user="www-data", cgroup="/meshed.slice", executable="/usr/bin/web"), False),
    ],
)
def test_selectors(selector: Selector, fits: bool) -> None:
    assert matches(selector, WEB) is fits


@pytest.mark.parametrize("selector", [Selector(unit="*.service"), Selector(cgroup="/a/*"), Selector(user="nobody")])
def test_what_is_not_known_fits_nothing(selector: Selector) -> None:
    assert not matches(selector, Facts(7, 1234, "", "", ""))


def test_one_of_the_selectors_is_enough() -> None:
    assert attest(WEB, {A: [Selector(user="root"), Selector(unit="web.service")], B: [Selector(user="root")]}) == A


def test_a_stranger_is_told_what_it_is_seen_as() -> None:
    with pytest.raises(NotAttested, match=r"pid 7 \(user www-data, unit web.service, executable /usr/bin/web\)"):
        attest(WEB, {A: [Selector(user="root")], B: []})


def test_a_path_that_its_owner_chose_puts_nothing_into_the_log() -> None:
    evil = "/tmp/\n2026 error: all is lost\udcff\x1b[2J/" + "x" * 4000
    said = str(Facts(7, 33, "", evil, evil))
    assert said.isascii() is False  # the sign that it was cut
    assert said.isprintable()
    assert len(said.encode()) < 600


def test_two_workloads_at_once_are_none_and_only_the_log_names_them() -> None:
    with pytest.raises(NotAttested) as refused:
        attest(WEB, {A: [Selector(user="33")], B: [Selector(unit="web.service")]})
    assert "default/a" not in str(refused.value)
    assert "default/a, default/b all select" in refused.value.detail
