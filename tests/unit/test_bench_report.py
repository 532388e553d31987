"""What the benchmark makes of its rounds, and that the page shows what was recorded."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import SCENARIOS, cost, record, scenario, show, start
from bench.loads.h2load import H2load
from bench.loads.wrk import Wrk
from bench.machine import Machine
from bench.measure import USUAL, Entrant, Round
from bench.report import Figures, Result, result
from bench.scenario import Case, Claim, Goal, Load, Promise, Scenario, Unit
from meshd.api.problems import Problem

MACHINE = Machine("a processor", 2, 24, "6.1", "3.11.2")
GOALS = (Goal("envoy", 1.5), Goal("envoy", 1.0, "p50_added_ms"))
LOAD = Wrk(connections=1)


def made(*goals: Goal | Promise, unit: Unit | None = None) -> Scenario:
    """A scenario with one case, `one`."""
    usual = scenario("http1")
    return Scenario(
        "http1", "A title", "About it.", usual.origin, usual.contenders, (Case("one", LOAD, goals),), unit or usual.unit
    )


def entrant(
    name: str,
    *rates: int,
    failed: int = 0,
    others: float = 0.0,
    cpu_s: float = 0.95,
    driver_s: float = 0.33,
    p50_ms: float = 0.4,
) -> Entrant:
    """One that answered so many requests in each round of a second."""
    rounds = [
        Round(Load(rate, rate, 1.0, failed, p50_ms, 5 * p50_ms), cpu_s, driver_s, others, 30_000_000) for rate in rates
    ]
    return Entrant(name, "1.0", {"one": rounds})


def run(*entrants: Entrant, of: Scenario | None = None) -> Result:
    return result(of or made(*GOALS), USUAL, MACHINE, list(entrants))


def figures(shown: Result, name: str) -> Figures:
    return next(each for each in shown.cases[0].figures if each.name == name)


def test_ratios_are_taken_within_a_round_and_then_their_median() -> None:
    # the machine was slow in the second round, for both: medians of each would say 3000 / 1000
    shown = run(
        entrant("direct", 9000, 9000, 9000), entrant("meshd", 3000, 400, 5000), entrant("envoy", 1000, 200, 5000)
    )
    assert figures(shown, "meshd").value == 3000
    assert figures(shown, "envoy").value == 1000
    assert figures(shown, "envoy").meshd_ratio_rounds == (3.0, 2.0, 1.0)
    assert figures(shown, "envoy").meshd_ratio == 2.0
    assert figures(shown, "meshd").cpu_us_each == 316.67


@pytest.mark.parametrize(
    ("envoy", "sentence"),
    [
        (2000, "goal met: at least 1.5 × envoy's requests/s; it is 1.50 ×"),
        (2100, "goal MISSED: at least 1.5 × envoy's requests/s; it is 1.43 ×"),
    ],
)
def test_a_goal_is_met_or_missed(envoy: int, sentence: str) -> None:
    shown = run(entrant("direct", 9000), entrant("meshd", 3000), entrant("envoy", envoy))
    assert sentence in show.sentences(shown)


def test_where_less_is_better_the_ratio_must_stay_below() -> None:
    scenario_ = made(Goal("envoy", 0.5), unit=Unit("MB", "MB", more_is_better=False))
    shown = run(entrant("meshd", 40), entrant("envoy", 70), of=scenario_)
    assert show.sentences(shown) == ["goal MISSED: at most 0.5 × envoy's MB; it is 0.57 ×"]
    assert "| core |" not in show.markdown(shown)


@pytest.mark.parametrize(
    ("promise", "sentence"),
    [
        (Promise(2500), "goal met: at least 2500 requests/s; it is 3,000"),
        (Promise(3500), "goal MISSED: at least 3500 requests/s; it is 3,000"),
        (Promise(2.5, "p99_ms"), "goal met: at most 2.5 ms p99; it is 2.0"),
        (Promise(1.5, "p99_ms"), "goal MISSED: at most 1.5 ms p99; it is 2.0"),
    ],
)
def test_a_promise_is_compared_with_nobody(promise: Promise, sentence: str) -> None:
    assert sentence in show.sentences(run(entrant("meshd", 3000), of=made(promise)))


def test_of_what_less_is_better_a_promise_is_the_most() -> None:
    scenario_ = made(Promise(35), unit=Unit("MB", "MB", more_is_better=False, digits=1))
    assert show.sentences(run(entrant("meshd", 40), of=scenario_)) == ["goal MISSED: at most 35 MB; it is 40.0"]


def test_added_latency_is_over_the_origin_s() -> None:
    shown = run(
        entrant("direct", 9000, p50_ms=0.1), entrant("meshd", 3000, p50_ms=0.3), entrant("envoy", 2000, p50_ms=0.5)
    )
    assert figures(shown, "meshd").p50_added_ms == 0.2
    assert figures(shown, "direct").p50_added_ms is None
    assert "goal met: at most 1 × envoy's added p50; it is 0.50 × (0.20 and 0.40 ms)" in show.sentences(shown)


def test_where_the_load_is_at_its_limit_processor_time_decides() -> None:
    slow = entrant("envoy", 2500, cpu_s=0.9, driver_s=0.8)
    held_back = run(entrant("direct", 9000), entrant("meshd", 3000, cpu_s=0.5, driver_s=0.98), slow)
    [verdict] = [each for each in held_back.cases[0].verdicts if "requests" in each.goal]
    assert (verdict.met, verdict.ratio) == (True, 2.16)
    assert verdict.found == "2.16 × by processor time each (1.20 × as measured, where the load was at its limit)"
    waiting = run(entrant("direct", 9000), entrant("meshd", 3000, cpu_s=0.5, driver_s=0.6), slow)
    [verdict] = [each for each in waiting.cases[0].verdicts if "requests" in each.goal]
    assert (verdict.met, verdict.ratio) == (False, 1.2)


def test_a_load_generator_at_its_limit_is_said() -> None:
    said = show.sentences(run(entrant("direct", 4000), entrant("meshd", 3000, cpu_s=0.33)))
    assert any("the origin alone is only 1.33 times as fast as meshd, which used 33%" in each for each in said)
    quick = show.sentences(run(entrant("direct", 4500), entrant("meshd", 3000)))
    assert not any("the origin alone" in each for each in quick)


def test_a_busy_machine_is_said() -> None:
    quiet = show.sentences(run(entrant("direct", 9000), entrant("meshd", 3000, others=0.04)))
    assert not any("other programs" in each for each in quiet)
    busy = show.sentences(run(entrant("direct", 9000), entrant("meshd", 3000, others=0.4)))
    assert "other programs used up to 40% of a core in a round: run it again on a quiet machine" in busy


def test_failed_requests_are_said() -> None:
    shown = run(entrant("direct", 9000), entrant("meshd", 3000), entrant("envoy", 2000, failed=7))
    assert "envoy failed 7 times: its figures are not comparable" in show.sentences(shown)


def test_without_meshd_there_are_no_ratios() -> None:
    assert figures(run(entrant("direct", 9000), entrant("nginx", 3000)), "nginx").meshd_ratio is None


OUTPUT = (
    "Running 1s test\n  99.00% of 3\n\n"
    '{"requests": 3, "bytes": 6000000, "duration_us": 1500000, "p50_us": 1, "p99_us": 2, "failed": 4}\n'
)


def test_the_last_line_of_wrk_is_what_counts() -> None:
    seen = Wrk(1).parse(OUTPUT)
    assert (seen.value, seen.count, seen.failed, seen.p99_ms) == (2.0, 3, 4, 0.002)
    assert Wrk(1, counts="megabytes").parse(OUTPUT).value == 4.0


def test_h2load_tells_its_rate_and_what_succeeded() -> None:
    output = (
        "starting benchmark...\n\nfinished in 2.00s, 1000.50 req/s, 1.10MB/s\n"
        "requests: 2003 total, 2035 started, 2003 done, 2001 succeeded, 2 failed, 0 errored, 0 timeout\n"
    )
    seen = H2load(1, 1, per_request=100).parse(output)
    assert (seen.value, seen.count, seen.failed) == (100_050.0, 200_100, 2)
    assert seen.duration_s == pytest.approx(2.0)
    with pytest.raises(Problem, match="something else than usual: no rate"):
        H2load(1, 1).parse("no rate\n")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("\n  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ("HAProxy version 2.6.12-1+deb12u3 2025/10/03 - https://haproxy.org/\n", "2.6.12"),
        ("nginx version: nginx/1.22.1\n", "1.22.1"),
        ("something else", "of unknown version"),
    ],
)
def test_a_version_is_the_first_dotted_number(said: str, version: str) -> None:
    assert start.version_in(said) == version


def test_a_path_is_no_version(tmp_path: Path) -> None:
    """As with envoy, which begins with its own path."""
    program = tmp_path / "python3.11" / "said"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$0 version: 9e55/1.40.0/Clean"\n')
    program.chmod(0o755)
    found = scenario("http1").contenders[1].program
    assert start.version(replace(found, find=lambda: str(program))) == "1.40.0"


@pytest.mark.parametrize(
    ("counters", "borne_out"),
    [
        ("other: 1\nssl.handshake: 3\n", True),
        ("ssl.handshake: 0\n", False),
        ("ssl.handshake: 0\nssl.handshake: 2\n", True),
        ("a.ssl.handshake: 3\n", False),
        ("", False),
    ],
)
def test_a_claim_needs_a_counter_above_zero(counters: str, borne_out: bool) -> None:
    assert start.holds(Claim(0, r"^ssl\.handshake: "), counters) is borne_out


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


def test_only_the_sections_of_what_was_run_are_replaced() -> None:
    shown = run(entrant("direct", 9000), entrant("meshd", 3000), entrant("envoy", 1000))
    page = "before\n<!-- bench http1 -->\nold\n<!-- end -->\nbetween\n<!-- bench other -->\nkept\n<!-- end -->\n"
    page += "<!-- bench goals -->\n<!-- end -->\n"
    wanted = page.replace("old", show.markdown(shown)).replace("goals -->\n", f"goals -->\n{show.goals([shown])}\n")
    assert record.page(page, {"http1": shown}) == wanted
    assert record.page(wanted, {"http1": shown}) == wanted
    assert "| [A title](#a-title) | one | at least 1.5 × envoy's requests/s | 3.00 × | met |" in wanted


def test_the_page_shows_what_was_recorded() -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    assert record.page(page, record.recorded()) == page


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_its_place_on_the_page(name: str) -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    shown = scenario(name)
    assert shown.name == name
    assert f"\n## {shown.title}\n\n<!-- bench {name} -->\n" in page
