"""`meshd capture show`: what is captured, for a person and as data."""

import pwd
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from meshd.agent.settings import CaptureSettings
from meshd.capture import table
from meshd.capture.nft import InForce
from meshd.capture.plan import Listener, Plan, Skips
from meshd.view.tables import table as laid_out


class Shown(NamedTuple):
    """What is to be captured, what is wrong with that, what is in force, and connections by counter."""

    settings: CaptureSettings
    plan: Plan
    troubles: tuple[str, ...]
    found: InForce | None
    counted: Mapping[str, int]

    @property
    def is_as_configured(self) -> bool:
        if self.plan.is_empty:
            return self.found is None
        return self.found is not None and self.found.digest in table.digests(self.plan, or_open=self.settings.fail_open)

    @property
    def state(self) -> str:
        if not self.settings.enabled:
            return "disabled" if self.found is None else "disabled, and yet in force"
        if self.plan.is_empty:
            return "nobody to capture" if self.found is None else "nobody to capture, and yet in force"
        if self.found is None:
            return "not in force"
        if not self.is_as_configured:
            return "in force, but not as configured"
        return "in force" if self.found.digest == table.digest(self.plan) else "in force, and open: the proxy is away"


def as_text(shown: Shown) -> str:
    """Lines of what is so, then the counters."""
    lines = [f"{name + ':':<12}{value}" for name, value in _said(shown)]
    rows = [(name, str(shown.counted.get(name, 0)), meaning) for name, meaning in table.COUNTERS.items()]
    counters = ["", *laid_out(("COUNTER", "CONNECTIONS", "WHICH"), rows)] if shown.found is not None else []
    return "".join(f"{line.rstrip()}\n" for line in (*lines, *counters))


def _said(shown: Shown) -> Iterator[tuple[str, str]]:
    plan, settings = shown.plan, shown.settings
    yield "state", shown.state
    yield "slice", settings.slice + ("" if plan.group is not None else " (no such control group)")
    if plan.uids:
        yield "users", _users(plan.uids)
    yield "exempt", _users(plan.exempt) or "-"
    yield "outbound", f"TCP to {_listener(plan.outbound)}"
    yield (
        "inbound",
        f"ports {', '.join(map(str, plan.ports))} to {_listener(plan.inbound)}" if plan.ports else "no port",
    )
    yield "skipped", _skips(plan.skips)
    for group, skips in plan.by_group:
        yield "", f"from {group.path}: {_skips(skips)}"
    yield "proxy away", "passes in plain text (failOpen)" if settings.fail_open else "waits or is refused"
    yield from (("trouble", each) for each in shown.troubles)


def _listener(listener: Listener) -> str:
    return " and ".join(str(each) for each in listener_addresses(listener)) or "no listener"


def listener_addresses(listener: Listener) -> list[str]:
    return [str(each) for each in (listener.v4, listener.v6) if each is not None]


def _skips(skips: Skips) -> str:
    parts = [f"port {each}" for each in skips.ports] + [str(each) for each in skips.networks]
    return ", ".join(parts) or "nothing"


def _users(uids: Iterable[int]) -> str:
    return ", ".join(map(_user, uids))


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except (KeyError, OverflowError):
        return str(uid)


def as_data(shown: Shown) -> dict[str, Any]:
    """It as JSON's own types."""
    plan = shown.plan

    def skips(these: Skips) -> dict[str, Any]:
        return {"ports": list(these.ports), "networks": [str(each) for each in these.networks]}

    return {
        "state": shown.state,
        "enabled": shown.settings.enabled,
        "in_force": shown.found is not None,
        "as_configured": shown.is_as_configured,
        "slice": shown.settings.slice,
        "cgroup": plan.group.path if plan.group is not None else None,
        "uids": list(plan.uids),
        "exempt_uids": list(plan.exempt),
        "inbound_ports": list(plan.ports),
        "outbound": listener_addresses(plan.outbound),
        "inbound": listener_addresses(plan.inbound),
        "skipped": skips(plan.skips),
        "skipped_by_cgroup": {group.path: skips(these) for group, these in plan.by_group},
        "fail_open": shown.settings.fail_open,
        "connections": {name: shown.counted.get(name, 0) for name in table.COUNTERS} if shown.found else {},
        "troubles": list(shown.troubles),
    }
