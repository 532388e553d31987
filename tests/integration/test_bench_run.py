"""A benchmark run with everything real but its length: two proxies, the origin, the load."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import record


@pytest.mark.peer("nginx", "wrk", "taskset")
def test_a_short_run_measures_both_proxies(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bench", "http1", "--rounds", "1", "--seconds", "1", "--warm-up", "1"]
    argv += ["--body", "4096", "--only", "meshd", "--only", "nginx", "--results", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = record.read(tmp_path / "http1-4096.json")
    assert [each.name for each in shown.figures] == ["direct", "meshd", "nginx"]
    for each in shown.figures:
        assert each.failed == 0
        assert each.requests_per_s > 100
        assert each.cpu_us_per_request > 0
        assert each.rss_idle_mb > 1
        assert each.name in done.stdout
    assert "round 1 of 1, nginx" in done.stderr


def test_an_unknown_scenario_is_wrong_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "http9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no scenario http9: there are http1" in done.stderr
