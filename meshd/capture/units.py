"""A unit of systemd, as `systemctl show` has it, and why it cannot be meshed; `meshd.agent.injecting` asks systemd, and
of the rest of the host only whose files are is looked at here."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, NamedTuple, Self

from meshd.capture import environments

OWN: Final = frozenset(("meshd.service", "meshd-proxy.service", "meshd-ca.service"))
USUAL_SLICE: Final = "system.slice"
EARLY: Final = frozenset(("network.target", "network-online.target", "sysinit.target", "basic.target"))
"""What the agent starts after: a unit that these wait for cannot wait for the agent."""

LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

PROPERTIES: Final = (
    "Id", "LoadState", "LoadError", "Transient", "Slice", "User", "PrivateNetwork", "NetworkNamespacePath",
    "IPAddressAllow", "IPAddressDeny", "RootDirectory", "RootDirectoryStartOnly", "RootImage", "DefaultDependencies",
    "Before", "ControlGroup", "Environment", "EnvironmentFiles",
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\-]*)?\.service")


class Unit(NamedTuple):
    """What systemd says of it, by property."""

    name: str
    said: dict[str, str]

    @classmethod
    def parse(cls, name: str, output: str) -> Self:
        """From the output of `systemctl show`. A property that has several lines has them here."""
        said: dict[str, str] = {}
        for key, _, value in (line.partition("=") for line in output.splitlines() if "=" in line):
            said[key] = f"{said[key]}\n{value}" if key in said else value
        return cls(name, said)

    def get(self, name: str) -> str:
        """What it is said to be; empty where nothing is."""
        return self.said.get(name, "")


def full_name(name: str) -> str:
    """As systemctl takes it: `web` is web.service."""
    return name if "." in name else f"{name}.service"


def misnamed(name: str) -> str:
    """Why nothing of such a name can be meshed; empty when that is to be seen."""
    if not name.endswith(".service"):
        return "only services can be meshed, as in web.service"
    if not _NAME.fullmatch(name) or len(name) > 200:
        return "that is not the name of a unit"
    if name.endswith("@.service"):
        return f"it is a template: name an instance of it, as in {name.replace('@.', '@1.')}"
    if name.startswith("user@"):
        return "it is a user's own manager, whose units the system's systemd does not know: mesh them by capture.users"
    if name in OWN:
        return "it is meshd's own"
    return ""


def usual_slice(name: str) -> str:
    """Where systemd puts a unit that says nothing of slices: instances of a template have one of their own, in whose
    name what is special in theirs is escaped (systemd.resource-control(5), systemd-escape(1))."""
    template, at, _ = name.removesuffix(".service").partition("@")
    if not at:
        return USUAL_SLICE
    escaped = "".join(each if each.isalnum() or each in ":_." else f"\\x{ord(each):02x}" for each in template)
    return f"system-{escaped}.slice"


def refusals(unit: Unit, slices: tuple[str, ...], exempt: tuple[str, ...]) -> Iterator[str]:
    """Why it cannot be meshed, each reason in words; `slices` are those that meshed units are in, `exempt` the users
    who are never captured."""
    if (load := unit.get("LoadState")) != "loaded":
        error = unit.get("LoadError").strip().strip('"')
        yield {
            "not-found": "there is no such unit; a unit of a user's own manager (systemctl --user) cannot be meshed",
            "masked": f"it is masked: `systemctl unmask {unit.name}` first",
        }.get(load, f"systemd could not load it ({load}): {error or 'see `systemctl status`'}")
        return
    if unit.get("Id") in OWN:
        yield f"it is {unit.get('Id')}, meshd's own"
    if unit.get("Id") != unit.name and unit.get("Id") not in OWN:
        yield f"it is another name of {unit.get('Id')}: use that one"
    if unit.get("Transient") == "yes":
        yield "it is transient: it is gone when it stops, and there is no file to add to"
    if unit.get("PrivateNetwork") == "yes" or unit.get("NetworkNamespacePath"):
        yield "it has a network namespace of its own (PrivateNetwork=, NetworkNamespacePath=), with rules of its own"
    if kept_off := list(_kept_off(unit)):
        yield (
            f"it may not speak with {' and '.join(kept_off)} (IPAddressDeny=), where the proxy is: with "
            "IPAddressAllow=localhost it may be meshed"
        )
    if unit.get("RootImage") or (
        unit.get("RootDirectory") not in ("", "/") and unit.get("RootDirectoryStartOnly") != "yes"
    ):
        yield (
            "it has a root directory of its own (RootDirectory=, RootImage=), where the program is not that waits for "
            "the mesh: with RootDirectoryStartOnly=yes it may be meshed"
        )
    if unit.get("User") in exempt:
        yield f"it runs as {unit.get('User')}, who is never captured (capture.exemptUsers)"
    if unit.get("Slice") not in ("", usual_slice(unit.name), *slices):
        yield f"it is in {unit.get('Slice')} by its own configuration, and would lose what is set there"
    early = EARLY & set(unit.get("Before").split())
    if unit.get("DefaultDependencies") == "no" or early:
        wait = ", ".join(sorted(early)) or "the rest of the system"
        yield f"it starts before {wait}, and so before the mesh can be ready"
    yield from environments.refusals(unit.get("EnvironmentFiles"), unit.get("Environment"))


def _kept_off(unit: Unit) -> Iterator[str]:
    """The addresses of the proxy, of those that captured connections are led to, which it may not speak with. What is
    allowed may be, whatever is denied (systemd.resource-control(5)); systemd says both as networks."""
    for address in LOOPBACK:
        denied, allowed = (_has(unit.get(each), address) for each in ("IPAddressDeny", "IPAddressAllow"))
        if denied and not allowed:
            yield str(address)


def _has(networks: str, address: IPv4Address | IPv6Address) -> bool:
    return any(address in ip_network(each, strict=False) for each in networks.split())
