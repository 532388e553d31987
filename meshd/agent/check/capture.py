"""The checks of capture: whether what is configured is in force, and whether it is there for the units that were meshed
and for those that documents name."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from meshd.agent.capturing import plan_of
from meshd.agent.check import kinds
from meshd.agent.check.host import not_filtering
from meshd.agent.check.kinds import Check
from meshd.agent.documents import Captured
from meshd.agent.injecting import Manager, Places, injected
from meshd.agent.settings import Settings
from meshd.agent.workload.attest import Facts, matches
from meshd.api.documents import Selector
from meshd.api.names import WorkloadName
from meshd.api.problems import Problem
from meshd.capture import nft, slices, table
from meshd.capture.nft import NotFiltering
from meshd.capture.plan import Plan

Selectors = Mapping[WorkloadName, tuple[Selector, ...]]

MAX_NAMED = 10


class Units(NamedTuple):
    """What has to do with units of systemd: those that `meshd inject` meshed, and what documents select."""

    injected: tuple[str, ...]
    selectors: Selectors

    @classmethod
    def of(cls, places: Places, selectors: Selectors) -> "Units":
        return cls(tuple(injected(places)), selectors)

    @property
    def selected(self) -> list[tuple[WorkloadName, str]]:
        """The units that documents name, as they name them."""
        pairs = ((name, each.unit) for name, alternatives in self.selectors.items() for each in alternatives)
        return sorted({(name, unit) for name, unit in pairs if unit is not None})

    def __bool__(self) -> bool:
        return bool(self.injected or self.selected)


def capture(
    settings: Settings,
    captured: tuple[Captured, ...],
    units: Units,
    manager: Manager | None,
    mount: Path = slices.MOUNT,
) -> Iterator[Check]:
    """Whether what is configured is in force, and whether the units are in it. Nothing where there is nobody to
    capture. `manager` is None where there is no systemd."""
    if not settings.capture.enabled:
        return
    try:
        virtual = settings.names.ranges(settings.trust_domain).networks
        plan, troubles = plan_of(settings.capture, settings.proxy, captured, virtual=virtual, mount=mount)
    except Problem as problem:
        yield kinds.CAPTURE_KNOWN.error(str(problem), "see `capture` in the settings")
        return
    if plan.is_empty and not units.injected:
        return
    if troubles:
        yield kinds.CAPTURE_KNOWN.warning("\n".join(troubles), "see `capture` in the settings and in documents")
    else:
        yield kinds.CAPTURE_KNOWN.well()
    if slices.top(mount) is not None:  # or there can be none, which is said elsewhere
        yield _slice(settings, plan, units)
    yield _in_force(settings, plan)
    if plan.group is not None:
        yield _strangers(settings.capture.slice, units.selectors, mount)
    for unit in units.injected if manager is not None else ():
        assert manager is not None
        yield unit_in_mesh(unit, settings.capture.slice, manager)


def _slice(settings: Settings, plan: Plan, units: Units) -> Check:
    name = settings.capture.slice
    if plan.group is not None:
        return kinds.SLICE.well(name)
    result: kinds.Result = "error" if units.injected else "warning"
    return kinds.SLICE.found(result, "no unit is captured", f"`systemctl start {name}`", name)


def _in_force(settings: Settings, plan: Plan) -> Check:
    hint = "start the agent, or see its log: it keeps them in force (`meshd capture show`)"
    try:
        found = nft.in_force()
    except NotFiltering as error:
        return not_filtering(kinds.RULES, error, plan.group)
    if found is None and plan.is_empty:
        return kinds.RULES.well()
    if found is None or found.digest not in table.digests(plan, or_open=settings.capture.fail_open):
        message = f"there is no table {table.TABLE}" if found is None else f"the table {table.TABLE} is another one"
        try:
            nft.apply(table.render(plan), check=True)
        except NotFiltering as error:  # nobody could put it in force here
            return not_filtering(kinds.RULES, error, plan.group)
        return kinds.RULES.error(message, hint)
    if found.digest != table.digest(plan):
        message = "the proxy is away, and connections go on in plain text (failOpen)"
        return kinds.RULES.warning(
            message, "`systemctl start meshd-proxy`; `journalctl -u meshd-proxy` says why it went"
        )
    return kinds.RULES.well()


# --- units ------------------------------------------------------------------------------------------------------------


def unit_in_mesh(unit: str, slice_: str, manager: Manager) -> Check:
    """Whether a unit that was meshed is there, under that name, and runs in the slice."""
    anew = f"`meshd uninject {unit}`, and `meshd inject` under its new name"
    try:
        found = manager.show(unit)
    except Problem as problem:
        return kinds.UNIT.warning(str(problem), "systemd has to answer for it to be known", unit)
    group, place = found.get("ControlGroup"), f"/{slices.path_of(slice_)}/"
    if found.get("LoadState") != "loaded":
        return kinds.UNIT.warning(f"there is no such unit any more ({found.get('LoadState')})", anew, unit)
    if found.get("Id") not in ("", unit):
        return kinds.UNIT.warning(f"it is {found.get('Id')} now, which is no workload's", anew, unit)
    if group and not group.startswith(place):
        return kinds.UNIT.error(f"it runs in {group}, and is not captured", f"`systemctl restart {unit}`", unit)
    return kinds.UNIT.well(unit)


def selected(units: Units, manager: Manager) -> Iterator[Check]:
    """Whether the units are there that documents name: one that is called otherwise now is no workload."""
    if not units.selected:
        return
    wrong = []
    for name, unit in units.selected:
        try:
            found = manager.show(unit)
        except Problem as problem:
            yield kinds.SELECTED.warning(str(problem), "systemd has to answer for it to be known")
            return
        load, real = found.get("LoadState"), found.get("Id")
        if "*" in unit:
            wrong += [] if load else [f"{name}: no unit is called {unit}"]
        elif load != "loaded":
            wrong.append(f"{name}: there is no {unit} ({load})")
        elif real not in ("", unit):
            wrong.append(f"{name}: {unit} is {real} now")
    if wrong:
        hint = "correct `selectors` of the document: the processes of such a unit have no identity, and no certificate"
        yield kinds.SELECTED.warning(_some(wrong), hint)
    else:
        yield kinds.SELECTED.well()


def _strangers(slice_: str, selectors: Selectors, mount: Path) -> Check:
    """Whether what runs in the slice is selected by a document: what is not is captured, and refused."""
    top = slices.top(mount)
    assert top is not None  # there is a group of the slice
    found = [path for path in _units_below(top, top / slices.path_of(slice_)) if not _is_selected(path, selectors)]
    if not found:
        return kinds.STRANGERS.well(slice_)
    lines = [f"{path}: its connections are captured, and no document says which workload it is" for path in found]
    hint = "a unit that was renamed: `meshd uninject OLD`, `meshd inject NEW`; else a `Workload` that selects it"
    return kinds.STRANGERS.warning(_some(lines), hint, slice_)


def _units_below(top: Path, directory: Path) -> Iterator[str]:
    """The control groups of units in a slice and those below it, as paths below `top`, where processes are in them."""
    try:
        entries = sorted(each for each in directory.iterdir() if each.is_dir())
    except OSError:  # it went while it was looked at
        return
    for each in entries:
        if each.name.endswith(".slice"):
            yield from _units_below(top, each)
        elif "populated 1" in _events(each):
            yield f"/{each.relative_to(top)}"


def _events(group: Path) -> str:
    try:
        return (group / "cgroup.events").read_text()
    except OSError:
        return ""


def _is_selected(path: str, selectors: Selectors) -> bool:
    """By its unit and place alone: who runs in it may be selected by more."""
    facts = Facts(0, 0, "", path, "")
    alternatives = (each for several in selectors.values() for each in several)
    return any(
        matches(msgspec.structs.replace(each, user=None, executable=None), facts) for each in _placed(alternatives)
    )


def _placed(selectors: Iterable[Selector]) -> Iterator[Selector]:
    """Those that say something of the place; one that does not may be any unit's, and then nothing is to be said."""
    for each in selectors:
        yield each if each.unit or each.cgroup else Selector(cgroup="/")


def _some(lines: list[str]) -> str:
    more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    return "\n".join(lines[:MAX_NAMED] + more)
