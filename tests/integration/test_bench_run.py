"""Benchmarks run with everything real but their length: proxies, origin, load."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench import SCENARIOS, record, start
from bench.configure import ca
from bench.contenders import MESHD_CA
from bench.loads.agents import Storm
from bench.loads.drain import Drain
from bench.loads.hold import Hold
from bench.origins import nginx
from bench.scenario import Contender, Target
from bench.start import Cores


def bench(arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "bench", *arguments.split()]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.peer("nginx", "wrk", "curl", "taskset")
def test_a_short_run_measures_both_proxies(tmp_path: Path) -> None:
    done = bench(f"http1 --rounds 1 --seconds 1 --warm-up 0 --only meshd --only nginx --results {tmp_path}")
    assert done.returncode == 0, done.stderr
    [case] = record.read(tmp_path / "http1.json").cases
    assert [each.name for each in case.figures] == ["direct", "meshd", "nginx"]
    for each in case.figures:
        assert each.failed == 0
        assert each.value > 0
        assert each.cpu_us_each > 0
        assert each.rss_mb > 1
        assert each.name in done.stdout
    assert "round 1 of 1, nginx" in done.stderr


@pytest.mark.peer("nginx", "wrk", "h2load", "curl", "taskset")
@pytest.mark.parametrize("names", [SCENARIOS[at : at + 4] for at in range(0, len(SCENARIOS), 4)])
def test_everything_starts_and_does_as_it_should(names: tuple[str, ...]) -> None:
    """Every contender passes the origin's answer on, by TLS and HTTP/2 where the scenario says so."""
    done = bench(f"{' '.join(names)} --rounds 0")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(names)
    alone = ("ca", "discovery", "controller", "inject")  # nobody else does that
    assert all("meshd, envoy" in line or line.startswith(alone) for line in done.stdout.splitlines())


@pytest.mark.peer("nginx", "h2load", "curl", "taskset")
def test_other_loads_can_be_measured_too(tmp_path: Path) -> None:
    done = bench(f"grpc tcp --rounds 1 --seconds 0.2 --warm-up 0 --only meshd --results {tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("grpc", "tcp"):
        [case] = record.read(tmp_path / f"{name}.json").cases
        assert [each.name for each in case.figures] == ["direct", "meshd"]
        assert all(each.value > 0 and not each.failed for each in case.figures)


@pytest.mark.peer("taskset")
def test_the_ca_is_asked_by_nodes_and_by_agents(tmp_path: Path) -> None:
    done = bench(f"ca --rounds 1 --seconds 0.5 --warm-up 0 --results {tmp_path}")
    assert done.returncode == 0, done.stderr
    for case in record.read(tmp_path / "ca.json").cases:
        assert [each.name for each in case.figures] == ["meshd", "signature"]
        assert all(each.value > 0 and not each.failed for each in case.figures)
    few = Contender(MESHD_CA, (ca.daemon(20),))
    with start.contender(few, 0, Cores.here().proxy, tmp_path / "contender") as running:
        stormed = Storm(20).drive(running.target, 0.0, Cores.here().load, tmp_path)
    assert (stormed.count, stormed.failed) == (20, 0)


@pytest.mark.peer("nginx", "taskset")
def test_held_connections_have_each_been_answered(tmp_path: Path) -> None:
    with start.origin(nginx.origin(), "origin", Cores.here().origin, tmp_path / "origin") as (port, origin):
        held = Hold(50).drive(Target(port, origin.target.pids), 0.0, 0, tmp_path)
    assert (held.count, held.failed) == (50, 0)
    assert held.value > 1


def test_an_origin_that_closes_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_the_first() -> None:
            server.accept()[0].close()

        closing = threading.Thread(target=close_the_first)
        closing.start()
        seen = Drain(1).drive(Target(server.getsockname()[1], ()), 5.0, Cores.here().load, tmp_path)
        closing.join()
    assert (seen.count, seen.failed) == (0, 1)


def test_an_unknown_scenario_is_wrong_usage() -> None:
    done = bench("http9")
    assert done.returncode == 2
    assert "no scenario http9: there are http1" in done.stderr
