"""Benchmarks run with everything real but their length: proxies, origin, load."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import SCENARIOS, record


def bench(arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "bench", *arguments.split()]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.peer("nginx", "wrk", "curl", "taskset")
def test_a_short_run_measures_both_proxies(tmp_path: Path) -> None:
    done = bench(f"http1 --rounds 1 --seconds 1 --warm-up 0 --only meshd --only nginx --results {tmp_path}")
    assert done.returncode == 0, done.stderr
    [case] = record.read(tmp_path / "http1.json").cases
    assert [each.name for each in case.figures] == ["direct", "meshd", "nginx"]
    for each in case.figures:
        assert each.failed == 0
        assert each.value > 100
        assert each.cpu_us_each > 0
        assert each.rss_mb > 1
        assert each.name in done.stdout
    assert "round 1 of 1, nginx" in done.stderr


@pytest.mark.peer("nginx", "wrk", "h2load", "curl", "taskset")
def test_everything_starts_and_does_as_it_should() -> None:
    """Every contender passes the origin's answer on, by TLS and HTTP/2 where the scenario says so."""
    done = bench("--rounds 0")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(SCENARIOS)
    assert all("meshd, envoy" in line for line in done.stdout.splitlines())


@pytest.mark.peer("nginx", "h2load", "curl", "taskset")
def test_loads_of_every_kind_can_be_measured(tmp_path: Path) -> None:
    names = ("grpc", "tcp", "memory")
    done = bench(f"{' '.join(names)} --rounds 1 --seconds 0.2 --warm-up 0 --only meshd --results {tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in names:
        for case in record.read(tmp_path / f"{name}.json").cases:
            assert case.figures[-1].name == "meshd"
            assert all(each.value > 0 and not each.failed for each in case.figures)


def test_an_unknown_scenario_is_wrong_usage() -> None:
    done = bench("http9")
    assert done.returncode == 2
    assert "no scenario http9: there are http1" in done.stderr
