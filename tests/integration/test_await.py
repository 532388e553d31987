"""`meshd-await` and a real proxy: who waits for whom, and what ends with what."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = [sys.executable, "-P", "-m", "proxy.main"]
AWAIT = [sys.executable, "-P", "-c", "from k8s.awaiting import main; main()"]


def ask(method: str, admin: int, path: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{admin}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


@contextlib.contextmanager
def proxy(
    directory: Path, *flags: str, env: dict[str, str] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """One that is ready, and its admin port."""
    (admin,) = free_ports(1)
    file = directory / "proxy.yaml"
    file.write_text(f"trustDomain: mesh.example\nadmin: 127.0.0.1:{admin}\n")
    argv = [*PROXY, "--config", str(file), *flags]
    environment = {**os.environ, **(env or {})}
    with running(argv, directory / "proxy.log", lambda: ask("GET", admin, "/ready") == 200, environment) as process:
        yield admin, process


def awaiting(admin: int, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*AWAIT, f"--port={admin}", *arguments],
        capture_output=True, text=True, timeout=90, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip


def test_the_command_runs_when_the_proxy_is_ready(tmp_path: Path) -> None:
    with proxy(tmp_path) as (admin, process):
        assert awaiting(admin).returncode == 0
        done = awaiting(admin, "--", "sh", "-c", "echo here; exit 7")
        assert (done.returncode, done.stdout) == (7, "here\n")
        assert process.poll() is None


def test_a_proxy_that_is_not_there_is_said_or_done_without(tmp_path: Path) -> None:
    (admin,) = free_ports(1)
    done = awaiting(admin, "--timeout=100ms", "--", "echo", "never")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"not ready after 0.1 s: nobody answers at its admin port {admin}" in done.stderr

    alone = awaiting(admin, "--shutdown", "--", "echo", "alone", env={"MESHD_AWAIT_DISABLED": ""})
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, "alone\n", "")


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_a_proxy_ends_after_the_command(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with proxy(tmp_path, *flags, "--shutdown-endpoint") as (admin, process):
        done = awaiting(admin, "--shutdown", "--", "sh", "-c", "echo done; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")
        assert process.wait(60) == 0


def test_a_command_that_is_ended_ends_the_proxy(tmp_path: Path) -> None:
    with proxy(tmp_path, env={"MESHD_PROXY_SHUTDOWN_ENDPOINT": "true"}) as (admin, process):
        begun = tmp_path / "begun"
        argv = [*AWAIT, f"--port={admin}", "--shutdown", "--", "sh", "-c", f"touch {begun}; exec sleep 100"]
        with subprocess.Popen(argv) as waiting:
            wait_until(begun.exists, "the command runs")
            waiting.send_signal(signal.SIGTERM)
            assert waiting.wait(60) == 128 + signal.SIGTERM
        assert process.wait(60) == 0


def test_who_is_ended_while_it_waits_ends_the_proxy_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as admin:
        argv = [*AWAIT, f"--port={admin.getsockname()[1]}", "--shutdown", "--", "true"]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as waiting:
            with admin.accept()[0] as asked:
                assert asked.recv(100).startswith(b"GET /ready ")
                waiting.send_signal(signal.SIGTERM)
                with admin.accept()[0] as told:
                    assert told.recv(100).startswith(b"POST /shutdown ")
            assert waiting.wait(60) == 128 + signal.SIGTERM


def test_there_is_no_such_command(tmp_path: Path) -> None:
    with proxy(tmp_path, "--shutdown-endpoint") as (admin, process):
        done = awaiting(admin, "--shutdown", "--", str(tmp_path / "nothing"))
        assert done.returncode == 127
        assert "cannot be run: No such file or directory" in done.stderr
        assert process.wait(60) == 0


def test_nobody_ends_a_proxy_that_was_not_started_so(tmp_path: Path) -> None:
    with proxy(tmp_path) as (admin, process):
        assert ask("POST", admin, "/shutdown") == 404
        done = awaiting(admin, "--shutdown", "--", "true")
        assert done.returncode == 0  # the command's
        assert "was not ended: this proxy was not started with --shutdown-endpoint" in done.stderr
        assert ask("POST", admin, "/ready") == 405
        assert ask("GET", admin, "/shutdown") == 404
        assert ask("GET", admin, "/ready") == 200
        assert process.poll() is None
