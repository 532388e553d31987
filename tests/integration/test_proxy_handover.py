"""A new generation of the proxy takes the place of the one that runs: SIGUSR2 and what the service manager is told."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.test_proxy_process import PROXY, Files, Load, application, get, ready
from tests.support.managers import Manager
from tests.support.meshed import children
from tests.support.ports import accepts
from tests.support.processes import running
from tests.support.waiting import wait_until


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with application() as port:
        yield Files(tmp_path, port)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@contextmanager
def managed(files: Files, file: Path, admin: int, manager: Manager, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The program under a service manager, as `Files.started`; what took its place is ended too."""
    argv = [*PROXY, "--config", str(file), *flags]
    environment = {**os.environ, "NOTIFY_SOCKET": manager.path}
    try:
        with running(argv, file.with_suffix(".log"), lambda: ready(admin), environment) as process:
            yield process
    finally:
        for told in manager.told:
            for line in told:
                if line.startswith("MAINPID="):
                    end(int(line.partition("=")[2]))


def end(pid: int) -> None:
    """End a process that is nobody's child any more, and wait until it has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in state(pid), f"process {pid} ends")
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def main_pid(manager: Manager) -> int:
    told = manager.hears("MAINPID=")
    assert told[0] == "READY=1"
    return int(told[1].partition("=")[2])


@pytest.mark.parametrize("which", ["web", "api"])
def test_a_handover_under_load_loses_nothing(files: Files, manager: Manager, which: str) -> None:
    with files.started(files.api, files.api_admin) if which == "web" else files.started(files.web, files.web_admin):
        file, admin = (files.web, files.web_admin) if which == "web" else (files.api, files.api_admin)
        with managed(files, file, admin, manager) as first:
            manager.hears("READY=1")
            with Load(files.upstream, 6) as load:
                load.more()
                first.send_signal(signal.SIGUSR2)
                manager.hears("RELOADING=1")
                second = main_pid(manager)
                assert first.wait(60) == 0, file.with_suffix(".log").read_text()
                load.more()
                os.kill(second, signal.SIGUSR2)
                third = main_pid(manager)
                wait_until(lambda: state(second) == "Z", "the second generation ends")
                load.more()
            assert len({first.pid, second, third}) == 3
            assert load.errors == []
            assert ready(admin)
            os.kill(third, signal.SIGTERM)
            assert manager.hears("STOPPING=1")
            wait_until(lambda: state(third) == "Z", "the third generation ends")
            assert not accepts(files.upstream) or which == "api", "nobody holds the socket any more"
    assert [told for told in manager.told if "STOPPING=1" in told] == [["STOPPING=1"]], "handing over is no stop"


def test_a_generation_that_cannot_start_leaves_the_old_one(files: Files, manager: Manager) -> None:
    log = files.web.with_suffix(".log")
    with (
        files.started(files.api, files.api_admin),
        managed(files, files.web, files.web_admin, manager) as first,
    ):
        manager.hears("READY=1")
        good = files.web.read_text()
        files.web.write_text(good + "unknown: 1\n")
        first.send_signal(signal.SIGUSR2)
        manager.hears("RELOADING=1")
        assert manager.hears("READY=1") == ["READY=1"]
        assert "there is no new generation, and this one goes on: it ended with status 2" in log.read_text()
        assert get(files.upstream, "/still")[0] == 200
        files.write_web("other")
        first.send_signal(signal.SIGUSR2)
        main_pid(manager)
        assert first.wait(60) == 0
        assert get(files.outbound, "http://other/")[0] == 200, "the file of now is in force"


def test_a_proxy_that_is_told_to_end_meanwhile_is_followed_by_none(files: Files, manager: Manager) -> None:
    with (
        files.started(files.api, files.api_admin),
        managed(files, files.web, files.web_admin, manager) as first,
        socket.create_connection(("127.0.0.1", files.upstream)) as stuck,
    ):
        stuck.sendall(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhalf")
        wait_until(lambda: "request_total{" in get(files.web_admin, "/metrics")[1], "it is under way")
        first.send_signal(signal.SIGUSR2)
        manager.hears("RELOADING=1")
        (second,) = wait_until(lambda: children(first.pid), "the new generation starts")
        os.kill(second, signal.SIGSTOP)  # it is not to be ready before this one is told
        first.terminate()
        wait_until(lambda: "draining" in files.web.with_suffix(".log").read_text(), "this one is told")
        os.kill(second, signal.SIGCONT)
        wait_until(lambda: state(second) == "Z", "it is ended")
        assert first.poll() is None, "this one drains"
        wait_until(lambda: not accepts(files.upstream), "nobody accepts any more")
        first.terminate()
        assert first.wait(60) == 0
        assert not any(line.startswith("MAINPID=") for told in manager.told for line in told)


def test_meshd_run_s_proxy_is_not_followed_by_another(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [*PROXY, "--control", str(tmp_path / "no-agent.sock")]
    environment = {**os.environ, "MESHD_INSTANCE": "0123456789abcdef" * 2}
    with running(argv, log, lambda: "no agent answers" in log.read_text(), environment) as proxy:
        proxy.send_signal(signal.SIGUSR2)
        wait_until(lambda: "SIGUSR2: no new generation: `meshd run` watches" in log.read_text(), "it says why not")
        assert proxy.poll() is None
