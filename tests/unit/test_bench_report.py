"""What the benchmark makes of its rounds, and that the page shows what was recorded."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import SCENARIOS, cost, load, record, scenario
from bench.load import Load
from bench.machine import Machine
from bench.measure import USUAL, Entrant, Round
from bench.report import Figures, Result, markdown, result

MACHINE = Machine("a processor", 2, 24, "6.1", "3.11.2")


def entrant(name: str, *rates: int, failed: int = 0, others: float = 0.0) -> Entrant:
    """One that answered so many requests in each round of a second, with a third of its core."""
    rounds = [Round(Load(rate, 1_000_000, 400, 2000, failed, 0), 0.33, others) for rate in rates]
    return Entrant(name, "1.0", 1, 1, 20_000_000, 30_000_000, rounds)


def run(*entrants: Entrant) -> Result:
    return result(scenario("http1"), USUAL, MACHINE, list(entrants))


def of(shown: Result, name: str) -> Figures:
    return next(each for each in shown.figures if each.name == name)


def test_ratios_are_taken_within_a_round_and_then_their_median() -> None:
    # the machine was slow in the second round, for both: medians of each would say 3000 / 1000
    shown = run(
        entrant("direct", 9000, 9000, 9000), entrant("meshd", 3000, 400, 5000), entrant("envoy", 1000, 200, 5000)
    )
    assert of(shown, "meshd").requests_per_s == 3000
    assert of(shown, "envoy").requests_per_s == 1000
    assert of(shown, "envoy").meshd_ratio_rounds == (3.0, 2.0, 1.0)
    assert of(shown, "envoy").meshd_ratio == 2.0
    assert of(shown, "meshd").cpu_us_per_request == 110.0


@pytest.mark.parametrize(
    ("envoy", "verdict"),
    [
        (2000, "goal met: 1.5 times envoy's requests per second; it is 1.50 times"),
        (2100, "goal MISSED: 1.5 times envoy's requests per second; it is 1.43 times"),
    ],
)
def test_a_goal_is_met_or_missed(envoy: int, verdict: str) -> None:
    assert verdict in run(entrant("direct", 9000), entrant("meshd", 3000), entrant("envoy", envoy)).verdicts


def test_memory_has_a_goal_too() -> None:
    heavy = entrant("meshd", 3000)
    heavy.rss_idle_bytes = 35_100_000
    assert (
        "goal MISSED: at most 35 MB resident when idle; it is 35.1 MB" in run(entrant("direct", 9000), heavy).verdicts
    )


def test_a_load_generator_at_its_limit_is_said() -> None:
    verdicts = run(entrant("direct", 4000), entrant("meshd", 3000)).verdicts
    assert any("the origin alone is only 1.33 times as fast as meshd, which used 33%" in each for each in verdicts)
    assert not any("the origin alone" in each for each in run(entrant("direct", 4500), entrant("meshd", 3000)).verdicts)


def test_a_busy_machine_is_said() -> None:
    quiet = run(entrant("direct", 9000), entrant("meshd", 3000, others=0.04)).verdicts
    assert not any("other programs" in each for each in quiet)
    busy = run(entrant("direct", 9000), entrant("meshd", 3000, others=0.4)).verdicts
    assert "other programs used up to 40% of a core in a round: run it again on a quiet machine" in busy


def test_failed_requests_are_said() -> None:
    verdicts = run(entrant("direct", 9000), entrant("meshd", 3000), entrant("envoy", 2000, failed=7)).verdicts
    assert "envoy failed 7 requests: its figures are not comparable" in verdicts


def test_without_meshd_there_are_no_ratios() -> None:
    assert of(run(entrant("direct", 9000), entrant("nginx", 3000)), "nginx").meshd_ratio is None


def test_the_last_line_of_wrk_is_what_counts() -> None:
    output = (
        "Running 1s test\n  99.00% of 3\n\n"
        '{"requests": 3, "duration_us": 1500000, "p50_us": 1, "p99_us": 2, "bad_statuses": 1, "broken": 4}\n'
    )
    seen = load.parse(output)
    assert (seen.per_second, seen.failed) == (2.0, 5)


def test_a_process_costs_what_its_children_do_too() -> None:
    argv = [sys.executable, "-S", "-c", "print(1, flush=True); input()"]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(cost.tree(os.getpid()))
        assert cost.rss_bytes(os.getpid()) > cost.rss_bytes(child.pid) > 1_000_000
        assert cost.cpu_s(os.getpid()) > 0
    finally:
        child.communicate(b"\n")


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    shown = run(entrant("direct", 9000), entrant("meshd", 3000))
    assert record.read(record.write(shown, tmp_path)) == shown
    assert record.write(replace(shown, body_bytes=10_240), tmp_path).name == "http1-10240.json"


def test_only_its_own_section_of_the_page_is_replaced() -> None:
    shown = run(entrant("direct", 9000), entrant("meshd", 3000))
    page = "before\n<!-- bench http1 -->\nold\n<!-- end -->\nbetween\n<!-- bench other -->\nkept\n<!-- end -->\n"
    wanted = page.replace("old", markdown(shown))
    assert record.with_section(page, shown) == wanted
    assert record.with_section(wanted, shown) == wanted


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_page_shows_what_was_recorded(name: str) -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    kept = record.read(record.RESULTS / f"{name}.json")
    assert record.with_section(page, kept) == page
    assert f"<!-- bench {name} -->" in page
