"""`meshd demo` as a user starts it, and what it leaves behind: nothing."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from meshd.api.control import GetStatus, Status
from meshd.client.connection import ControlConnection
from meshd.demo.report import Report
from meshd.demo.stage import Stage
from tests.support import aio, meshed
from tests.support.waiting import eventually, wait_until


def processes(directory: Path) -> list[int]:
    """Those whose command line names something in the directory."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if str(directory) in meshed.command_line(pid)]


@contextmanager
def demo(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`meshd demo`, whose temporary files go to `directory`, and progress to directory.log."""
    with directory.with_suffix(".log").open("wb") as log:
        directory.mkdir()
        argv = [*meshed.MESHD, "demo", *options]
        environment = {**os.environ, "TMPDIR": str(directory)}
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def says(directory: Path, text: str) -> None:
    wait_until(lambda: text in directory.with_suffix(".log").read_text(), f"the demo says {text}")


def test_a_demo_shows_that_all_succeeds_over_mutual_tls_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "t"
    with demo(place, "--duration", "5s", "--rate", "50", "--json") as process:
        printed, _ = process.communicate(timeout=120)
    made = json.loads(printed)
    assert process.returncode == 0, made
    assert 25 <= made["requests"] <= 251  # of 250: fewer where the machine held it up
    assert made["success_rate"] == made["mtls_rate"] == 1.0
    assert 0 < made["p50_ms"] <= made["p99_ms"]
    assert {each["name"] for each in made["workloads"]} == {"api", "store", "web"}
    edges = {(each["source"], each["service"].split(".")[0], each["protocol"]) for each in made["edges"]}
    assert edges == {
        ("default/load", "web", "http"),
        ("default/web", "api", "http"),
        ("default/api", "store", "http"),
        ("default/api", "store", "tcp"),
    }
    assert all(each["requests"] > 0 and each["mtls_rate"] == 1.0 for each in made["edges"] + made["workloads"])
    assert list(place.iterdir()) == []
    assert processes(place) == []


@pytest.mark.parametrize(
    ("moment", "signum"), [("starting an agent", signal.SIGTERM), ("starting the workloads", signal.SIGINT)]
)
def test_a_signal_ends_all_of_it_at_any_time(tmp_path: Path, moment: str, signum: signal.Signals) -> None:
    place = tmp_path / "t"
    with demo(place) as process:
        says(place, moment)
        process.send_signal(signum)
        assert process.wait(60) == 128 + signum
    says(place, f"ended by {signum.name}")
    assert list(place.iterdir()) == []
    assert processes(place) == []


def test_a_part_that_fails_is_named_and_the_rest_is_ended(tmp_path: Path) -> None:
    place = tmp_path / "t"
    with demo(place) as process:
        says(place, "requests a second")
        (ca,) = [pid for pid in processes(place) if "ca serve" in meshed.command_line(pid)]
        os.kill(ca, signal.SIGKILL)
        assert process.wait(30) == 1
    says(place, "meshd: ca serve failed (killed by SIGKILL); its log ends with")
    assert list(place.iterdir()) == []
    assert processes(place) == []


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    place = tmp_path / "t"
    with demo(place) as process:
        says(place, "requests a second")
        process.kill()
        process.wait()
        wait_until(lambda: not processes(place), "all its processes have ended")


def test_traffic_goes_on_without_the_certificate_authority_and_the_status_says_so(tmp_path: Path) -> None:
    async def work() -> tuple[Report, Status]:
        stage = Stage(tmp_path, lambda _: None)
        try:
            await stage.start()
            file = stage.start_load(50, 3.0)
            while not sum(each.golden.requests for each in (await stage.status(1.0)).edges):
                await asyncio.sleep(0.05)
            (ca,) = [pid for pid in processes(tmp_path) if "ca serve" in meshed.command_line(pid)]
            os.kill(ca, signal.SIGKILL)
            await eventually(file.exists, "the load reports")
            report = msgspec.json.decode(file.read_bytes(), type=Report)
            with meshed.run("late", ["--socket", str(stage.socket)], ["true"], tmp_path):
                return report, await status_without_ca(stage.socket)
        finally:
            await stage.stop()

    report, status = aio.run(work(), deadline_s=150.0)
    assert report.requests > 10
    assert report.failures == 0, report.reasons
    assert status.ca.message
    assert {each.name for each in status.workloads if not each.waiting_for} == {"api", "load", "store", "web"}


async def status_without_ca(socket: Path) -> Status:
    """The status once the agent knows that the CA is away, which it does as soon as it needs a certificate."""
    connection = await ControlConnection.connect(socket)
    try:
        async with asyncio.timeout(60.0):
            while (status := await connection.call(GetStatus(), Status)).ca.healthy:
                await asyncio.sleep(0.05)
        return status
    finally:
        await connection.close()
