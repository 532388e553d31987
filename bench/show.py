"""A result as a person reads it: a table for the terminal, and a section of docs/performance.md."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.measure import DIRECT
from bench.report import UNDER_TEST, Figures, Result, Verdict


def headline(shown: Result) -> str:
    """What was done, in one line."""
    return f"{shown.title}: medians of {shown.rounds} rounds of {shown.seconds:g} s"


def sentences(shown: Result) -> list[str]:
    """What the figures say of the goals, and what is to be known of them."""
    several = len(shown.cases) > 1
    said = []
    for case in shown.cases:
        where = f"{case.name}: " if several else ""
        said += [f"{where}goal {_met(each)}: {each.goal}; it is {each.found}" for each in case.verdicts]
        said += [f"{where}{note}" for note in case.notes]
    return said


def table(shown: Result) -> Table:
    """For a terminal."""
    heads, rows = _cells(shown)
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        drawn.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def markdown(shown: Result) -> str:
    """For docs/performance.md."""
    heads, rows = _cells(shown)
    versions = ", ".join(f"{name} {version}" for name, version in shown.versions.items())
    lines = [f"{shown.about}", "", f"{headline(shown)}. {shown.machine}.", "", *_markdown(heads, rows), ""]
    return "\n".join([*lines, *(f"- {each}" for each in sentences(shown)), f"- versions: {versions}"])


def goals(results: Iterable[Result]) -> str:
    """The goals of all of them, for docs/performance.md."""
    rows = [
        (f"[{shown.title}](#{anchor(shown.title)})", case.name, each.goal, each.found, _met(each))
        for shown in results
        for case in shown.cases
        for each in case.verdicts
    ]
    return "\n".join(_markdown(("work", "load", "goal", "found", ""), rows, right=()))


def anchor(title: str) -> str:
    """What a heading is linked by, as GitHub has it."""
    kept = "".join(each for each in title.lower() if each.isalnum() or each in " -")
    return kept.replace(" ", "-")


def _met(verdict: Verdict) -> str:
    return "met" if verdict.met else "MISSED"


def _cells(shown: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heads of the columns, and the rows; columns that are empty for all are left out."""
    costs = (f"µs CPU/{shown.unit.each}", "RSS MB")
    heads = ("", "", shown.unit.name, "meshd is", "p50 ms", "p99 ms", "+p50", "+p99", "core", *costs)
    rows = [
        (case.name if first else "", *_row(each, shown))
        for case in shown.cases
        for first, each in zip((True, *(False for _ in case.figures[1:])), case.figures, strict=True)
    ]
    kept = [
        number for number in range(len(heads)) if any(row[number] for row in rows) and (number or len(shown.cases) > 1)
    ]
    return tuple(heads[number] for number in kept), [tuple(row[number] for number in kept) for row in rows]


def _row(each: Figures, shown: Result) -> tuple[str, ...]:
    def number(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    of_rates = shown.unit.more_is_better
    return (
        each.name,
        number(each.value, shown.unit.digits),
        "" if each.meshd_ratio is None or each.name == UNDER_TEST else f"{each.meshd_ratio:.2f} ×",
        number(each.p50_ms),
        number(each.p99_ms),
        number(each.p50_added_ms),
        number(each.p99_added_ms),
        f"{each.core_used:.0%}" if of_rates else "",
        number(each.cpu_us_each or None, 1 if each.cpu_us_each >= 10 else 2),
        number(each.rss_mb, 1) if of_rates and each.name != DIRECT else "",
    )


def _markdown(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: Iterable[int] | None = None) -> list[str]:
    texts = 1 if heads[1:] and heads[1] else 2
    to_the_right = set(range(texts, len(heads)) if right is None else right)
    under = tuple("---:" if number in to_the_right else "---" for number in range(len(heads)))
    return ["| " + " | ".join(row) + " |" for row in (heads, under, *rows)]
