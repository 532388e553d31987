"""A short soak: all that a long one does, but for what only time can tell."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

SOAK = (sys.executable, "-m", "tests.soak", "--seed", "20", "--json")


def test_traffic_of_every_kind_survives_what_comes_and_goes(tmp_path: Path) -> None:
    argv = [*SOAK, "--duration", "20s", "--keep", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=170)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["violations"] == []
    assert done.returncode == 0
    kinds = {"GET", "POST", "POST in chunks", "events", "HTTP/2 POST", "gRPC unary", "gRPC both", "echo", "tunnel"}
    assert kinds <= found["done"].keys()
    assert {"WebSocket", "GET download", "PUT"} <= found["done"].keys()
    assert sum(found["events"].values()) >= 3
    assert all(survivor["requests"] > 100 for survivor in found["survivors"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_soak_that_is_interrupted_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*SOAK, "--duration", "60s", "--keep", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as soak:
        log = tmp_path / "web.proxy.log"
        wait_until(lambda: log.exists() and "in force" in log.read_text(), "web's proxy runs")
        soak.send_signal(number)
        assert soak.wait(60.0) == (-number if number is signal.SIGKILL else 130)
    wait_until(lambda: not _started(tmp_path), "its processes are gone")


def _started(directory: Path) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(directory).encode() in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
