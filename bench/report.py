"""From rounds to figures: medians, ratios within a round, and the three places where they are shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.machine import Machine
from bench.measure import DIRECT, Entrant, Options
from bench.scenario import Scenario

UNDER_TEST = "meshd"
HEADROOM = 1.5
"""How many times the fastest proxy's rate the origin alone should reach; below that it is part of what is measured."""

QUIET = 0.05
"""How much of a core programs beside the benchmark may use in a round before its figures are in doubt."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds, except `used_by_others` (of a core), which is that of the worst round.
    `meshd_ratio`: meshd's requests per second over this one's, within each round."""

    name: str
    version: str
    requests_per_s: float
    requests_per_s_rounds: tuple[float, ...]
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    core_used: float
    used_by_others: float
    rss_idle_mb: float
    rss_loaded_mb: float
    failed: int
    meshd_ratio: float | None
    meshd_ratio_rounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's run: what `bench/results/NAME.json` holds."""

    scenario: str
    title: str
    connections: int
    rounds: int
    seconds: float
    body_bytes: int
    machine: Machine
    figures: tuple[Figures, ...]
    verdicts: tuple[str, ...]


def result(scenario: Scenario, options: Options, machine: Machine, entrants: list[Entrant]) -> Result:
    """The figures of a run, and what they say of the scenario's goals."""
    figures = tuple(_figures(entrant, entrants) for entrant in entrants)
    return Result(
        scenario=scenario.name,
        title=scenario.title,
        connections=scenario.connections,
        rounds=options.rounds,
        seconds=options.seconds,
        body_bytes=options.body_bytes,
        machine=machine,
        figures=figures,
        verdicts=tuple(_verdicts(scenario, {each.name: each for each in figures})),
    )


def _figures(entrant: Entrant, all_of_them: list[Entrant]) -> Figures:
    rounds = entrant.rounds
    rates = tuple(each.load.per_second for each in rounds)
    ours = [each.load.per_second for other in all_of_them if other.name == UNDER_TEST for each in other.rounds]
    ratios = tuple(our / rate for our, rate in zip(ours, rates, strict=True)) if ours else ()
    return Figures(
        name=entrant.name,
        version=entrant.version,
        requests_per_s=round(median(rates)),
        requests_per_s_rounds=tuple(round(rate) for rate in rates),
        p50_ms=median(each.load.p50_us for each in rounds) / 1000,
        p99_ms=median(each.load.p99_us for each in rounds) / 1000,
        cpu_us_per_request=round(median(each.cpu_s * 1e6 / max(1, each.load.requests) for each in rounds), 1),
        core_used=round(median(each.cpu_s * 1e6 / each.load.duration_us for each in rounds), 2),
        used_by_others=round(max(each.others_s * 1e6 / each.load.duration_us for each in rounds), 2),
        rss_idle_mb=round(entrant.rss_idle_bytes / 1e6, 1),
        rss_loaded_mb=round(entrant.rss_loaded_bytes / 1e6, 1),
        failed=sum(each.load.failed for each in rounds),
        meshd_ratio=round(median(ratios), 2) if ratios else None,
        meshd_ratio_rounds=tuple(round(ratio, 2) for ratio in ratios),
    )


def _verdicts(scenario: Scenario, by_name: dict[str, Figures]) -> Iterable[str]:
    for each in by_name.values():
        if each.failed:
            yield f"{each.name} failed {each.failed} requests: its figures are not comparable"
    proxies = [each for name, each in by_name.items() if name != DIRECT]
    fastest = max(proxies, key=lambda each: each.requests_per_s, default=None)
    if fastest is not None and by_name[DIRECT].requests_per_s < HEADROOM * fastest.requests_per_s:
        headroom = by_name[DIRECT].requests_per_s / fastest.requests_per_s
        yield (
            f"the origin alone is only {headroom:.2f} times as fast as {fastest.name}, which used "
            f"{fastest.core_used:.0%} of its core: compare the processor time per request too"
        )
    disturbed = max(each.used_by_others for each in by_name.values())
    if disturbed > QUIET:
        yield f"other programs used up to {disturbed:.0%} of a core in a round: run it again on a quiet machine"
    for name, goal in scenario.goals.items():
        other = by_name.get(name)
        if other is not None and other.meshd_ratio is not None:
            word = "met" if other.meshd_ratio >= goal else "MISSED"
            yield f"goal {word}: {goal:g} times {name}'s requests per second; it is {other.meshd_ratio:.2f} times"
    meshd = by_name.get(UNDER_TEST)
    if meshd is not None and scenario.rss_idle_goal_mb is not None:
        goal = scenario.rss_idle_goal_mb
        word = "met" if meshd.rss_idle_mb <= goal else "MISSED"
        yield f"goal {word}: at most {goal:g} MB resident when idle; it is {meshd.rss_idle_mb:.1f} MB"


# --- where they are shown -------------------------------------------------------------------------------------------

COLUMNS = ("", "requests/s", "meshd is", "p50 ms", "p99 ms", "core", "µs CPU each", "idle MB", "after MB")


def _cells(each: Figures) -> tuple[str, ...]:
    return (
        each.name,
        f"{each.requests_per_s:,.0f}",
        "" if each.meshd_ratio is None or each.name == UNDER_TEST else f"{each.meshd_ratio:.2f} ×",
        f"{each.p50_ms:.2f}",
        f"{each.p99_ms:.2f}",
        f"{each.core_used:.0%}",
        f"{each.cpu_us_per_request:.1f}",
        f"{each.rss_idle_mb:.1f}",
        f"{each.rss_loaded_mb:.1f}",
    )


def headline(shown: Result) -> str:
    """What was done, in one line."""
    return (
        f"{shown.title}: {shown.connections} connections, answers of {shown.body_bytes:,} bytes, "
        f"medians of {shown.rounds} rounds of {shown.seconds:g} s"
    )


def table(shown: Result) -> Table:
    """For a terminal."""
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(COLUMNS):
        drawn.add_column(column, justify="right" if number else "left", no_wrap=True)
    for each in shown.figures:
        drawn.add_row(*_cells(each))
    return drawn


def markdown(shown: Result) -> str:
    """For docs/performance.md."""
    rows = [COLUMNS, ("---", *("---:" for _ in COLUMNS[1:])), *(_cells(each) for each in shown.figures)]
    versions = ", ".join(f"{each.name} {each.version}" for each in shown.figures if each.name != DIRECT)
    lines = [f"{headline(shown)}. {shown.machine}.", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {verdict}" for verdict in shown.verdicts), f"- versions: {versions}"]
    return "\n".join(lines)
