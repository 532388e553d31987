"""What `meshd check` looks at for capture: before meshd is installed (`--pre`), and while it is in force.

The kernel is asked whether it would take a table like ours, and is not made to. Whoever may not ask it is told so.
"""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meshd.agent.capturing import VIRTUAL, plan_of
from meshd.agent.checks import Check, Result
from meshd.agent.documents import Captured
from meshd.agent.health.probes import SYSTEMD
from meshd.agent.injecting import Manager, Places, injected
from meshd.agent.settings import ProxySettings, Settings
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.capture import nft, slices, table
from meshd.capture.nft import NotFiltering
from meshd.capture.plan import Group, Plan, listener

PRE: Final = "pre-meshd"
CAPTURE: Final = "meshd-capture"

DAEMONS: Final = ("127.0.0.1:4192",)
"""What listens besides the proxy: the agent's admin port."""


# --- before there is anything ---------------------------------------------------------------------------------------


def before_install(systemd: Path = Path(SYSTEMD), mount: Path = slices.MOUNT) -> Iterator[Check]:
    """Whether meshd could run here, with the usual settings."""
    what = PRE, "this host was booted with systemd"
    if systemd.is_dir():
        yield Check(*what)
    else:
        yield Check(*what, "warning", "units cannot be meshed", "`meshd run` is for commands, with no capture")
    what = PRE, "control groups of version 2 are mounted"
    top = slices.top(mount)
    if top is not None:
        yield Check(*what)
        yield _kernel(top, mount)
    else:
        message = f"there are none at {mount} nor at {mount}/{slices.BESIDE_V1}: who calls cannot be told"
        yield Check(*what, "error", message, "boot with systemd.unified_cgroup_hierarchy=1")
    proxy = ProxySettings()
    for listen in (proxy.outbound, proxy.inbound, proxy.admin, *DAEMONS):
        yield _port(Address.parse(listen))
    yield _route()


def _kernel(top: Path, mount: Path) -> Check:
    """Whether the kernel would take a table with all that ours has in it, for a group that is there."""
    what = PRE, "nftables is here, and the kernel takes what capture needs"
    there = next((each for each in sorted(top.iterdir()) if each.is_dir()), None)
    group = None if there is None else Group(str(there.relative_to(mount)), 1)
    plan = Plan(listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), group, (1,), (2,), (1,), VIRTUAL)
    try:
        nft.apply(table.render(plan), check=True)
    except NotFiltering as error:
        if nft.program() is not None and os.geteuid():
            return Check(*what, "warning", str(error), "run this as root: others may not ask the kernel")
        hint = "a kernel of 5.13 or newer with nft_socket, nft_nat, nft_redir, nft_reject_inet and nft_fib_inet"
        return Check(*what, "error", str(error), "install nftables" if nft.program() is None else hint)
    return Check(*what)


def _port(address: Address) -> Check:
    what = PRE, f"the port {address.port} is free"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = "something listens there" if error.errno == errno.EADDRINUSE else str(error.strerror)
            hint = f"`ss -lntp sport = {address.port}` says who; or have meshd listen elsewhere, in its settings"
            return Check(*what, "error", f"{address}: {reason}", hint)
    return Check(*what)


def _route() -> Check:
    """Addresses of services are nobody's; a connection to one must get as far as the rules all the same."""
    what = PRE, f"addresses of services ({VIRTUAL[0]}) have a route"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(VIRTUAL[0].network_address + 1), 9))
        except OSError as error:
            hint = f"add a default route, or `ip route add {VIRTUAL[0]} dev INTERFACE`"
            return Check(*what, "warning", str(error.strerror), hint)
    return Check(*what)


# --- while it is in force -------------------------------------------------------------------------------------------


def capture(settings: Settings, captured: tuple[Captured, ...], places: Places, manager: Manager) -> Iterator[Check]:
    """Whether what is configured is in force, and whether the units that were meshed are. Nothing where there is nobody
    to capture."""
    if not settings.capture.enabled:
        return
    meshed = injected(places)
    what = CAPTURE, "what is to be captured is known"
    try:
        virtual = settings.names.ranges(settings.trust_domain).networks
        planned = plan_of(settings.capture, settings.proxy, captured, virtual=virtual)
    except Problem as problem:
        yield Check(*what, "error", str(problem), "see `capture` in the settings")
        return
    plan, troubles = planned
    if plan.is_empty and not meshed:
        return
    yield Check(*what, "warning", "\n".join(troubles), "see `capture` in the settings") if troubles else Check(*what)
    what = CAPTURE, f"the slice {settings.capture.slice} is there"
    if plan.group is None:
        yield Check(
            *what,
            "error" if meshed else "warning",
            "no unit is captured",
            f"`systemctl start {settings.capture.slice}`",
        )
    else:
        yield Check(*what)
    yield _in_force(settings, plan)
    for unit in meshed:
        yield from _unit(unit, settings.capture.slice, manager)


def _in_force(settings: Settings, plan: Plan) -> Check:
    what = CAPTURE, "the rules in force are those that are configured"
    hint = "start the agent, or see its log: it keeps them in force (`meshd capture show`)"
    try:
        found = nft.in_force()
    except NotFiltering as error:
        result: Result = "warning" if os.geteuid() else "error"
        return Check(*what, result, str(error), "run this as root" if os.geteuid() else "install nftables")
    if found is None:
        return Check(*what) if plan.is_empty else Check(*what, "error", f"there is no table {table.TABLE}", hint)
    if found.digest not in table.digests(plan, or_open=settings.capture.fail_open):
        return Check(*what, "error", f"the table {table.TABLE} is another one", hint)
    if found.digest != table.digest(plan):
        return Check(*what, "warning", "the proxy is away, and connections go on in plain text (failOpen)", "start it")
    return Check(*what)


def _unit(unit: str, slice_: str, manager: Manager) -> Iterator[Check]:
    what = CAPTURE, f"{unit} runs in the mesh"
    try:
        found = manager.show(unit)
    except Problem as problem:
        yield Check(*what, "warning", str(problem))
        return
    group, place = found.get("ControlGroup"), f"/{slices.path_of(slice_)}/"
    if found.get("LoadState") != "loaded":
        message = f"there is no such unit any more ({found.get('LoadState')})"
        yield Check(*what, "warning", message, f"`meshd uninject {unit}`, and `meshd inject` under its new name")
    elif group and not group.startswith(place):
        yield Check(*what, "error", f"it runs in {group}, and is not captured", f"`systemctl restart {unit}`")
    else:
        yield Check(*what)
