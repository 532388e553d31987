"""From rounds to figures: medians, ratios within a round, and what they say of the goals."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.machine import Machine
from bench.measure import DIRECT, Entrant, Options, Round
from bench.scenario import Case, Goal, Promise, Scenario, Unit

UNDER_TEST = "meshd"
HEADROOM = 1.5
"""How many times the fastest proxy's rate the origin alone should reach; below that it is part of what is measured."""

BUSY = 0.9
"""How much of its core a proxy uses that is measured at its limit; and what drives it, when that is at its own."""

QUIET = 0.05
"""How much of a core programs beside the benchmark may use in a round before its figures are in doubt."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One entrant in one case. Medians over the rounds, except `used_by_others` (of a core) and `rss_mb`, which are
    those of the worst round, and `failed`, which is of all. `driver_used`: what origin and generator used of their
    core. `p50_added_ms`: over the origin's, within each round. `meshd_ratio`: meshd's value over this one's, within
    each round; `meshd_cpu_ratio`: this one's processor time over meshd's."""

    name: str
    value: float
    value_rounds: tuple[float, ...]
    p50_ms: float | None
    p99_ms: float | None
    p50_added_ms: float | None
    p99_added_ms: float | None
    cpu_us_each: float
    core_used: float
    driver_used: float
    used_by_others: float
    rss_mb: float
    failed: int
    meshd_ratio: float | None
    meshd_ratio_rounds: tuple[float, ...]
    meshd_cpu_ratio: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal is met. `goal` and `found` are sentences without an end; `ratio` is what was found."""

    case: str
    goal: str
    found: str
    ratio: float
    met: bool


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The figures of one load. `notes`: what keeps them from being taken at their word."""

    name: str
    figures: tuple[Figures, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's run: what `bench/results/NAME.json` holds."""

    scenario: str
    title: str
    about: str
    unit: Unit
    rounds: int
    seconds: float
    machine: Machine
    versions: dict[str, str]
    cases: tuple[CaseResult, ...]


def result(scenario: Scenario, options: Options, machine: Machine, entrants: list[Entrant]) -> Result:
    """The figures of a run, and what they say of the scenario's goals."""
    return Result(
        scenario=scenario.name,
        title=scenario.title,
        about=scenario.about,
        unit=scenario.unit,
        rounds=options.rounds,
        seconds=options.seconds,
        machine=machine,
        versions={each.name: each.version for each in entrants if each.name != DIRECT},
        cases=tuple(_case(scenario, case, entrants) for case in scenario.cases),
    )


def _case(scenario: Scenario, case: Case, entrants: list[Entrant]) -> CaseResult:
    rounds = {each.name: each.rounds[case.name] for each in entrants}
    figures = {name: _figures(name, rounds) for name in rounds}
    verdicts = [_verdict(goal, case.name, figures, scenario.unit) for goal in case.goals]
    return CaseResult(
        name=case.name,
        figures=tuple(figures.values()),
        verdicts=tuple(each for each in verdicts if each is not None),
        notes=tuple(_notes(figures, scenario)),
    )


def _figures(name: str, all_rounds: dict[str, list[Round]]) -> Figures:
    rounds = all_rounds[name]
    ours = all_rounds.get(UNDER_TEST, [])
    direct = all_rounds.get(DIRECT, [])
    ratios = _quotients(_values(ours), _values(rounds)) if ours else ()
    cpu_ratios = _quotients(_cpu_each(rounds), _cpu_each(ours)) if ours else ()
    return Figures(
        name=name,
        value=round(median(_values(rounds)), 3),
        value_rounds=tuple(round(each, 3) for each in _values(rounds)),
        p50_ms=_median([each.load.p50_ms for each in rounds]),
        p99_ms=_median([each.load.p99_ms for each in rounds]),
        p50_added_ms=_added(rounds, direct, lambda each: each.load.p50_ms),
        p99_added_ms=_added(rounds, direct, lambda each: each.load.p99_ms),
        cpu_us_each=round(median(_cpu_each(rounds)), 2),
        core_used=round(median(each.cpu_s / each.load.duration_s for each in rounds), 2),
        driver_used=round(median(each.driver_s / each.load.duration_s for each in rounds), 2),
        used_by_others=round(max(each.others_s / each.load.duration_s for each in rounds), 2),
        rss_mb=round(max(each.rss_bytes for each in rounds) / 1e6, 1),
        failed=sum(each.load.failed for each in rounds),
        meshd_ratio=round(median(ratios), 2) if ratios else None,
        meshd_ratio_rounds=tuple(round(each, 2) for each in ratios),
        meshd_cpu_ratio=round(median(cpu_ratios), 2) if cpu_ratios else None,
    )


def _values(rounds: Iterable[Round]) -> list[float]:
    return [each.load.value for each in rounds]


def _cpu_each(rounds: Iterable[Round]) -> list[float]:
    return [each.cpu_s * 1e6 / each.load.count if each.load.count else 0.0 for each in rounds]


def _quotients(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    return tuple(one / other if other else 0.0 for one, other in zip(above, below, strict=True))


def _median(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return round(median(known), 3) if known else None


def _added(rounds: list[Round], direct: list[Round], of: Callable[[Round], float | None]) -> float | None:
    if rounds is direct or not direct:
        return None
    pairs = [(of(one), of(other)) for one, other in zip(rounds, direct, strict=True)]
    return _median([one - other for one, other in pairs if one is not None and other is not None])


# --- goals ----------------------------------------------------------------------------------------------------------

_OF = {"p50_added_ms": "added p50", "p99_added_ms": "added p99"}


def _verdict(goal: Goal | Promise, case: str, figures: dict[str, Figures], unit: Unit) -> Verdict | None:
    """None where one of the two was not measured."""
    if isinstance(goal, Promise):
        return _kept(goal, case, figures.get(UNDER_TEST), unit)
    ours, other = figures.get(UNDER_TEST), figures.get(goal.against)
    if ours is None or other is None or ours is other:
        return None
    if goal.of != "value":
        own, theirs = getattr(ours, goal.of), getattr(other, goal.of)
        if own is None or theirs is None or theirs <= 0:
            return None
        ratio = round(own / theirs, 2)
        sentence = f"at most {goal.ratio:g} × {goal.against}'s {_OF[goal.of]}"
        return Verdict(case, sentence, f"{ratio:.2f} × ({own:.2f} and {theirs:.2f} ms)", ratio, ratio <= goal.ratio)
    ratio = other.meshd_ratio or 0.0
    if not unit.more_is_better:
        sentence = f"at most {goal.ratio:g} × {goal.against}'s {unit.name}"
        return Verdict(case, sentence, f"{ratio:.2f} ×", ratio, ratio <= goal.ratio)
    sentence = f"at least {goal.ratio:g} × {goal.against}'s {unit.name}"
    if not _held_back(ours):
        return Verdict(case, sentence, f"{ratio:.2f} ×", ratio, ratio >= goal.ratio)
    by_cpu = other.meshd_cpu_ratio or 0.0
    found = f"{by_cpu:.2f} × by processor time each ({ratio:.2f} × as measured, where the load was at its limit)"
    return Verdict(case, sentence, found, by_cpu, by_cpu >= goal.ratio)


def _kept(promise: Promise, case: str, ours: Figures | None, unit: Unit) -> Verdict | None:
    found = None if ours is None else ours.value if promise.of == "value" else ours.p99_ms
    if found is None:
        return None
    more_is_better = promise.of == "value" and unit.more_is_better
    what, digits = (unit.name, unit.digits) if promise.of == "value" else ("ms p99", 1)
    ratio = round(found / promise.limit, 2)
    met = ratio >= 1 if more_is_better else ratio <= 1
    sentence = f"{'at least' if more_is_better else 'at most'} {promise.limit:g} {what}"
    return Verdict(case, sentence, f"{found:,.{digits}f}", ratio, met)


def _held_back(ours: Figures) -> bool:
    """Whether the load was at its limit and meshd was not: then its value is that of the load."""
    return ours.core_used < BUSY <= ours.driver_used


def _notes(figures: dict[str, Figures], scenario: Scenario) -> Iterable[str]:
    for each in figures.values():
        if each.failed:
            yield f"{each.name} failed {each.failed} times: its figures are not comparable"
    direct = figures.get(DIRECT)
    proxies = [each for name, each in figures.items() if name != DIRECT]
    fastest = max(proxies, key=lambda each: each.value, default=None)
    if direct is not None and fastest is not None and direct.value < HEADROOM * fastest.value:
        yield (
            f"the origin alone is only {direct.value / fastest.value:.2f} times as fast as {fastest.name}, which used "
            f"{fastest.core_used:.0%} of its core: compare the processor time per {scenario.unit.each} too"
        )
    disturbed = max(each.used_by_others for each in figures.values())
    if disturbed > QUIET:
        yield f"other programs used up to {disturbed:.0%} of a core in a round: run it again on a quiet machine"
