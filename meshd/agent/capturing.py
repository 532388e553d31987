"""What this host captures, from its settings and documents: `plan_of`, as `meshd.capture` has it.

The counterpart is `meshd.capture.keeper`, which has it done, and asks again when something may have changed. What is
wrong and can be done without (a user that is not there) is said and left out; where capture would do harm it is not
begun (`Unsafe`).
"""

import ipaddress
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from meshd.agent.documents import Captured
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.api.problems import Problem
from meshd.capture import slices
from meshd.capture.plan import VIRTUAL_RANGES, Group, Network, Plan, Skips, listener, networks


class Unsafe(Problem):
    """Capture would do harm; the message says which."""


class Planned(NamedTuple):
    """The plan, and what is wrong all the same."""

    plan: Plan
    troubles: tuple[str, ...]


VIRTUAL: tuple[Network, ...] = tuple(map(ipaddress.ip_network, VIRTUAL_RANGES))


def plan_of(
    settings: CaptureSettings,
    proxy: ProxySettings,
    captured: Iterable[Captured],
    *,
    is_open: bool = False,
    virtual: tuple[Network, ...] = VIRTUAL,
    mount: Path = slices.MOUNT,
) -> Planned:
    """What is to be captured now; Unsafe where it must not be. `virtual` are the addresses of services. Looks up users,
    and control groups of slices."""
    if not settings.enabled:
        return Planned(Plan(listener(""), listener("")), ())
    exempt = {uid for name in settings.exempt_users if (uid := _uid(name)) is not None}
    users = {name: _uid(name) for name in settings.users}
    troubles = [f"capture.users: there is no user {name}" for name, uid in users.items() if uid is None]
    captured = list(captured)
    troubles += [
        f"{each.workload}: each of its selectors asks for `executable`, which the kernel does not say of a connection: "
        "what its processes begin is captured, and is nobody's (`capture.unknown`); select them by unit, cgroup or user"
        for each in captured
        if each.is_unseen
    ]
    if captured and slices.top(mount) is None:
        troubles.append(f"there are no control groups of version 2 at {mount}: no unit is captured")
    plan = Plan(
        outbound=listener(proxy.outbound),
        inbound=listener(proxy.inbound),
        group=slices.find(settings.slice, mount),
        uids=tuple(sorted({uid for uid in users.values() if uid is not None})),
        exempt=tuple(sorted(exempt)),
        ports=tuple(sorted({port for each in captured if each.capture.inbound for port in each.ports})),
        virtual=virtual,
        skips=Skips(tuple(sorted(set(settings.skip_outbound_ports))), settings.skip_networks),
        by_group=tuple(_own(settings.slice, captured, mount)),
        is_open=is_open,
    )
    if not exempt and not plan.is_empty:
        names = " or ".join(settings.exempt_users)
        raise Unsafe(f"there is no user {names} (capture.exemptUsers): as whom the proxy runs must be known")
    if not proxy.outbound and not plan.is_empty:
        raise Unsafe("the proxy has no listener for what is captured: set proxy.outbound")
    return Planned(plan, tuple(troubles))


def _own(slice_: str, captured: Iterable[Captured], mount: Path) -> Iterable[tuple[Group, Skips]]:
    """The slices of workloads with skip lists of their own, as far as they are there."""
    for each in sorted(captured, key=lambda each: each.workload):
        skips = Skips(
            tuple(sorted(set(each.capture.skip_outbound_ports))),
            networks(each.capture.skip_outbound_cidrs, "skipOutboundCidrs"),
        )
        group = slices.find(slices.own_slice(slice_, each.workload), mount) if skips else None
        if group is not None:
            yield group, skips


def _uid(name: str) -> int | None:
    """The uid that a name or digits stand for; None where there is no such user."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
