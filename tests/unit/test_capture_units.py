"""What systemd says of a unit, and why it cannot be meshed."""

import pytest

from meshd.capture.units import Unit, full_name, misnamed, refusals, usual_slice

GOOD = (
    "Id=web.service\nLoadState=loaded\nLoadError=\nTransient=no\nSlice=system.slice\nUser=www-data\nPrivateNetwork=no\n"
    "NetworkNamespacePath=\nIPAddressAllow=\nIPAddressDeny=\nRootDirectory=\nRootDirectoryStartOnly=no\nRootImage=\n"
    "DefaultDependencies=yes\nBefore=shutdown.target multi-user.target\n"
)


def reasons(output: str, name: str = "web.service") -> list[str]:
    return list(refusals(Unit.parse(name, output), ("meshed.slice",), ("meshd-proxy", "meshd")))


def test_a_service_of_the_usual_kind_may_be() -> None:
    assert reasons(GOOD) == []
    assert reasons(GOOD.replace("Slice=system.slice", "Slice=meshed.slice")) == []
    assert reasons(GOOD.replace("Slice=system.slice", "Slice=")) == []


def test_what_waits_for_the_mesh_has_the_host_s_root_all_the_same() -> None:
    started = GOOD.replace("RootDirectory=", "RootDirectory=/srv/web")
    assert reasons(started.replace("StartOnly=no", "StartOnly=yes")) == []
    assert reasons(GOOD.replace("RootDirectory=", "RootDirectory=/")) == []


def test_what_may_speak_with_the_proxy_may_be_kept_from_others() -> None:
    kept = GOOD.replace("IPAddressDeny=", "IPAddressDeny=::/0 0.0.0.0/0")
    assert reasons(kept.replace("Allow=", "Allow=127.0.0.0/8 ::1/128 10.0.0.0/8")) == []
    assert "with ::1 (" in reasons(kept.replace("Allow=", "Allow=127.0.0.1/32"))[0]
    assert reasons(GOOD.replace("IPAddressDeny=", "IPAddressDeny=192.0.2.0/24 2001:db8::/32")) == []


@pytest.mark.parametrize(
    ("unit", "slice_"),
    [
        ("web@1.service", "system-web.slice"),
        ("web@.service", "system-web.slice"),
        ("my-web@a-b.service", r"system-my\x2dweb.slice"),
        (r"dev-sda\x2d1@x.service", r"system-dev\x2dsda\x5cx2d1.slice"),
    ],
)
def test_where_systemd_puts_instances(unit: str, slice_: str) -> None:
    assert usual_slice(unit) == slice_
    assert reasons(GOOD.replace("web.service", unit).replace("system.slice", slice_), unit) == []
    assert "by its own configuration" in reasons(GOOD.replace("web.service", unit), unit)[0]


@pytest.mark.parametrize(
    ("was", "said", "reason"),
    [
        ("LoadState=loaded", "LoadState=not-found", "there is no such unit"),
        ("LoadState=loaded", "LoadState=masked", "unmask web.service"),
        ("LoadState=loaded\nLoadError=", 'LoadState=bad-setting\nLoadError=x.y "no"', "(bad-setting): x.y"),
        ("Id=web.service", "Id=meshd-proxy.service", "meshd's own"),
        ("Id=web.service", "Id=nginx.service", "another name of nginx.service"),
        ("Transient=no", "Transient=yes", "transient"),
        ("PrivateNetwork=no", "PrivateNetwork=yes", "network namespace of its own"),
        ("NetworkNamespacePath=", "NetworkNamespacePath=/run/netns/x", "network namespace of its own"),
        ("IPAddressDeny=", "IPAddressDeny=::/0 0.0.0.0/0", "speak with 127.0.0.1 and ::1"),
        ("IPAddressDeny=", "IPAddressDeny=127.0.0.0/8", "speak with 127.0.0.1 (IPAddressDeny=)"),
        ("User=www-data", "User=meshd-proxy", "never captured"),
        ("RootDirectory=", "RootDirectory=/srv/web", "root directory of its own"),
        ("RootImage=", "RootImage=/srv/web.raw", "root directory of its own"),
        ("Slice=system.slice", "Slice=shop.slice", "is in shop.slice by its own configuration"),
        ("DefaultDependencies=yes", "DefaultDependencies=no", "before the mesh can be ready"),
        ("Before=shutdown.target", "Before=network-online.target", "starts before network-online.target"),
    ],
)
def test_why_one_may_not(was: str, said: str, reason: str) -> None:
    assert was in GOOD
    found = reasons(GOOD.replace(was, said))
    assert len(found) == 1
    assert reason in found[0]


def test_all_reasons_are_said_at_once() -> None:
    assert len(reasons(GOOD.replace("Transient=no", "Transient=yes").replace("User=www-data", "User=meshd"))) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("web.socket", "only services"),
        ("web.timer", "only services"),
        ("web@.service", "template: name an instance of it, as in web@1.service"),
        ("user@1000.service", "a user's own manager"),
        ("meshd.service", "meshd's own"),
        ("../../etc/x.service", "not the name of a unit"),
        ("a b.service", "not the name of a unit"),
        ("-.service/../x.service", "not the name of a unit"),
    ],
)
def test_names_that_cannot_be(name: str, reason: str) -> None:
    assert reason in misnamed(name)


def test_names_that_can() -> None:
    for name in ("web.service", "web@1.service", r"dev-sda\x2d1.service"):
        assert misnamed(name) == ""
    assert full_name("web") == "web.service"
    assert full_name("web.socket") == "web.socket"
