"""`meshd run` with real commands: environment, exit statuses, signals, and what cannot be started."""

import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import meshed
from tests.support.ports import free_port
from tests.support.waiting import wait_until

NOTE = meshed.program("note")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with meshed.embedded_agent(tmp_path_factory.mktemp("run")) as path:
        yield path


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["/nowhere/to/be/found"], 127),
        (["no-such-program"], 127),
        (["/etc/hostname"], 126),
    ],
)
def test_the_exit_status_is_the_commands(agent: Path, tmp_path: Path, command: list[str], status: int) -> None:
    with meshed.run("web", ["--socket", str(agent)], command, tmp_path) as run:
        assert run.ends() == status
    if status in (126, 127):
        assert f"meshd: {command[0]}" in run.text


def test_the_command_finds_the_mesh_in_its_environment_and_no_secret(agent: Path, tmp_path: Path) -> None:
    options = ["--socket", str(agent), "--namespace", "shop", "--upstream", "api=127.0.0.1:0", "-q"]
    with meshed.run("web", options, ["env"], tmp_path) as run:
        assert run.ends() == 0
    found = dict(line.split("=", 1) for line in run.text.splitlines() if "=" in line)
    assert found["MESHD_WORKLOAD"] == "shop/web"
    assert found["MESHD_IDENTITY"] == "spiffe://mesh.local/ns/shop/sa/web"
    assert found["http_proxy"] == f"http://{found['MESHD_OUTBOUND']}"
    assert found["MESHD_UPSTREAM_API"].startswith("127.0.0.1:")
    assert {name for name in found if name.startswith("MESHD_")} == {
        "MESHD_ADMIN", "MESHD_IDENTITY", "MESHD_OUTBOUND", "MESHD_TRUST_DOMAIN", "MESHD_UPSTREAM_API", "MESHD_WORKLOAD"
    }  # fmt: skip
    assert "meshd:" not in run.text


def test_each_signal_is_passed_on_once(agent: Path, tmp_path: Path) -> None:
    with meshed.run("web", ["--socket", str(agent)], NOTE, tmp_path) as run:
        run.says("ready")
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            run.process.send_signal(signum)
            run.says(f"got {signum.name}")
        assert run.ends() == 7
    assert run.text.count("got ") == 6


def test_what_nohup_ignores_stays_ignored(agent: Path, tmp_path: Path) -> None:
    command = ["grep", "SigIgn", "/proc/self/status"]
    argv = ["nohup", *meshed.MESHD, "run", "--name", "web", "--socket", str(agent), "-q", "--", *command]
    printed = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    assert int(printed.split()[1], 16) & 1 << signal.SIGHUP - 1


def test_ctrl_c_reaches_the_command_once(agent: Path) -> None:
    argv = [*meshed.MESHD, "run", "--name", "web", "--socket", str(agent), "-q", "--", *NOTE]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        shown += os.read(terminal, 4096)
        return text in shown

    with os.fdopen(terminal, "wb", buffering=0):
        wait_until(lambda: shows(b"ready"), "the command runs")
        os.write(terminal, b"\x03")
        wait_until(lambda: shows(b"got SIGINT"), "the command got SIGINT")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: shows(b"got SIGTERM"), "the command got SIGTERM")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert shown.count(b"SIGINT") == 1


def test_on_sigterm_the_workload_is_withdrawn_before_the_command_hears_of_it(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = [*meshed.MESHD, "status", "-o", "json", "--socket", str(agent)]
    monkeypatch.setenv("NOTE_ON_TERM", " ".join(look))
    with meshed.run("web", ["--socket", str(agent)], NOTE, tmp_path) as run:
        meshed.announced(agent, "web")
        run.says("ready")
        run.process.terminate()
        assert run.ends() == 7
    assert '"withdrawn"' in run.text.partition("got SIGTERM")[2]
    assert meshed.waits_for(agent, "web") is None, "nothing of it is left in the agent"


def test_the_proxy_drains_after_the_command_and_a_second_signal_ends_that(agent: Path, tmp_path: Path) -> None:
    outbound = f"127.0.0.1:{free_port()}"
    options = ["--socket", str(agent), "--outbound", outbound, "--drain-timeout", "5m"]
    with socket.create_server(("127.0.0.1", 0)) as server, meshed.run("web", options, NOTE, tmp_path) as run:
        run.says("ready")
        with socket.create_connection(("127.0.0.1", int(outbound.rpartition(":")[2])), timeout=60) as tunnel:
            tunnel.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\n" % server.getsockname()[1])
            far, _ = server.accept()
            with far:
                assert tunnel.recv(4096).startswith(b"HTTP/1.1 200")
                run.process.terminate()
                wait_until(lambda: len(meshed.children(run.process.pid)) == 1, "only the proxy is left")
                tunnel.sendall(b"still here")
                assert far.recv(10) == b"still here"
                assert run.process.poll() is None
                run.process.terminate()
                assert run.ends() == 7


def test_a_killed_run_leaves_neither_proxy_nor_command(agent: Path, tmp_path: Path) -> None:
    with meshed.run("web", ["--socket", str(agent)], ["sleep", "600"], tmp_path) as run:
        command, proxy = run.child("sleep"), run.child("meshd-proxy")
        run.process.kill()
        run.ends()
        wait_until(lambda: not meshed.is_alive(command), "the command has ended")
        wait_until(lambda: not meshed.is_alive(proxy), "the proxy has ended")
    wait_until(lambda: meshed.waits_for(agent, "web") is None, "the agent knows it no more")


def test_no_agent_at_the_socket_is_a_problem(tmp_path: Path) -> None:
    with meshed.run("web", ["--socket", str(tmp_path / "none")], ["true"], tmp_path) as run:
        assert run.ends() == 1
    assert run.text.startswith(f"meshd: no agent answers at {tmp_path}/none: start it")


def test_an_address_in_use_is_a_problem(agent: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with meshed.run("web", ["--socket", str(agent), "--outbound", address], ["true"], tmp_path) as run:
            assert run.ends() == 1
    assert f"--outbound: cannot listen on {address}: Address already in use" in run.text


def test_a_signal_ends_a_start_that_takes_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with meshed.run("web", ["--socket", str(tmp_path / "s")], ["true"], tmp_path) as run:
            connection, _ = silent.accept()  # is_listening looked first, and has gone again
            connection.close()
            connection, _ = silent.accept()
            with connection:
                assert b"register-workload" in connection.recv(65536)
                run.process.terminate()
                assert run.ends() == 143


def test_the_users_own_agent_is_started_and_shared(tmp_path: Path) -> None:
    options = ["--state-dir", str(tmp_path / "state")]
    with meshed.run("web", options, NOTE, tmp_path) as web:
        web.says("ready")
        known = meshed.status(tmp_path / "state" / "meshd.sock")
        assert known["mode"] == "embedded"
        try:
            with meshed.run("me", options, NOTE, tmp_path) as me:
                me.says("ready")
                again = meshed.status(tmp_path / "state" / "meshd.sock")
                assert again["pid"] == known["pid"]
                assert [each["name"] for each in again["workloads"]] == ["me", "web"]
        finally:
            os.kill(known["pid"], signal.SIGTERM)
