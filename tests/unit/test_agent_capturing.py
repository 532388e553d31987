"""What a host captures, from settings and documents; control groups are directories of the test's own."""

import ipaddress
import os
from pathlib import Path

import pytest
import yaml

from meshd.agent.capturing import Unsafe, plan_of
from meshd.agent.documents import Captured
from meshd.agent.names.settings import NamesSettings
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.api.documents import Workload, WorkloadCapture
from meshd.api.loading import convert
from meshd.api.names import WorkloadName
from meshd.capture.plan import Group, Plan, Skips, networks

ME = str(os.getuid())
SETTINGS = CaptureSettings(exempt_users=(ME,))
WEB = WorkloadName("default", "web")


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "meshed.slice" / "meshed-default.slice" / "meshed-default-web.slice").mkdir(parents=True)
    return tmp_path


def planned(mount: Path, *captured: Captured, settings: CaptureSettings = SETTINGS) -> tuple[Plan, tuple[str, ...]]:
    return plan_of(settings, ProxySettings(), captured, mount=mount)


def group(mount: Path, path: str) -> Group:
    return Group(path, path.count("/") + 1, (mount / path).stat().st_ino)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (NamesSettings(), ["240.0.0.0/4", "fd"]),
        (NamesSettings(range6=""), ["240.0.0.0/4"]),
        (NamesSettings(range="198.18.0.0/15", range6="fd12:3456:789a::/64"), ["198.18.0.0/15", "fd12:3456:789a::/64"]),
    ],
)
def test_addresses_of_services_are_captured_whatever_is_skipped(
    mount: Path, settings: NamesSettings, expected: list[str]
) -> None:
    skipping = CaptureSettings(exempt_users=(ME,), skip_outbound_cidrs=("240.0.0.0/4", "fc00::/7"))
    virtual = settings.ranges("prod.example").networks
    plan, _ = plan_of(skipping, ProxySettings(), (), virtual=virtual, mount=mount)
    assert len(plan.virtual) == len(expected)
    assert all(str(found).startswith(each) for found, each in zip(plan.virtual, expected, strict=True))
    assert plan.skips.networks == networks(("240.0.0.0/4", "fc00::/7"), "")


def test_the_range_of_ipv6_is_the_trust_domains() -> None:
    one, other = (NamesSettings().ranges(each).networks[1] for each in ("prod.example", "test.example"))
    assert one != other
    assert all(each.subnet_of(ipaddress.ip_network("fd00::/8")) for each in (one, other))  # type: ignore[arg-type]


def test_workloads_give_ports_and_skip_lists(mount: Path) -> None:
    own = WorkloadCapture(skip_outbound_ports=(5432,), skip_outbound_cidrs=("192.0.2.0/24",))
    hidden = WorkloadCapture(inbound=False, skip_outbound_ports=(25,))
    plan, troubles = planned(
        mount,
        Captured(WEB, (8080, 443), own),
        Captured(WorkloadName("default", "api"), (9000,), hidden),  # which has no slice of its own
    )
    assert troubles == ()
    assert plan.group == group(mount, "meshed.slice")
    assert plan.ports == (443, 8080)
    skips = Skips((5432,), networks(("192.0.2.0/24",), ""))
    assert plan.by_group == ((group(mount, "meshed.slice/meshed-default.slice/meshed-default-web.slice"), skips),)


def test_who_is_not_there_is_said_and_left_out(mount: Path) -> None:
    settings = CaptureSettings(exempt_users=(ME, "no-such-user"), users=("no-such-person", "4711"))
    plan, troubles = planned(mount, settings=settings)
    assert troubles == ("capture.users: there is no user no-such-person",)
    assert (plan.uids, plan.exempt) == ((4711,), (int(ME),))


def test_where_the_proxy_would_be_captured_or_has_no_listener_nothing_is(mount: Path) -> None:
    with pytest.raises(Unsafe, match="there is no user no-such-user"):
        planned(mount, settings=CaptureSettings(exempt_users=("no-such-user",)))
    with pytest.raises(Unsafe, match=r"set proxy\.outbound"):
        plan_of(SETTINGS, ProxySettings(outbound=""), (), mount=mount)
    assert planned(mount, settings=CaptureSettings(enabled=False, exempt_users=()))[0].is_empty


@pytest.mark.parametrize(
    ("selectors", "is_said"),
    [
        ("[{unit: web.service, executable: /usr/bin/web}]", True),
        ("[{unit: web.service, executable: /usr/bin/web}, {user: www-data}]", False),
        ("[{unit: web.service}]", False),
        ("[]", False),
    ],
)
def test_a_workload_that_no_connection_can_be_of_is_said(mount: Path, selectors: str, is_said: bool) -> None:
    text = "{apiVersion: meshd.io/v1, kind: Workload, metadata: {name: web}, spec: {selectors: %s, capture: {}}}"
    read: Workload = convert(yaml.safe_load(text % selectors), Workload, "x")
    each = Captured.of(read)
    assert each is not None
    _, troubles = planned(mount, each)
    assert [trouble.startswith("default/web: each of its selectors asks for `executable`") for trouble in troubles] == (
        [True] if is_said else []
    )
