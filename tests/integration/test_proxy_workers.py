"""`meshd-proxy --workers N` as real processes: the work shared, one page, workers that die, reload, drain, handover."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_proxy_handover import end, main_pid, managed, state
from tests.integration.test_proxy_process import NGINX, PROXY, Files, Load, application, get, inheriting, ready
from tests.support import peers
from tests.support.managers import Manager
from tests.support.meshed import children
from tests.support.ports import accepts, free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

WORKERS = ("--workers", "2")

CUT = ("RemoteDisconnected", "IncompleteRead", "ConnectionResetError", "BrokenPipeError")
"""What a caller says of a connection whose peer was killed: before the answer, within it, or as it was sending."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with application() as port:
        yield Files(tmp_path, port)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def value(admin: int, name: str) -> float:
    """The sum of all samples of that name."""
    page = get(admin, "/metrics", 10.0)[1]
    its = re.compile(re.escape(name) + r"[{ ]")
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if its.match(line))


def requests(admin: int) -> float:
    return value(admin, "request_total")


def ask(port: int, count: int) -> None:
    for number in range(count):
        assert get(port, f"/{number}")[0] == 200


def served(worker: int, port: int) -> int:
    """Connections that are open between the process and that port, on either side."""
    open_files = Path(f"/proc/{worker}/fd")
    inodes = {os.readlink(each) for each in open_files.iterdir() if each.exists()}
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(f"socket:[{each[9]}]" in inodes for each in fields if each[3] == "01" and each[1].endswith(wanted))


def test_all_workers_serve_and_the_page_is_the_sum(files: Files) -> None:
    with (
        files.started(files.api, files.api_admin, *WORKERS),
        files.started(files.web, files.web_admin, *WORKERS) as web,
    ):
        ask(files.upstream, 40)
        wait_until(lambda: requests(files.web_admin) == 40, "both have said")
        wait_until(lambda: requests(files.api_admin) == 40, "and those of api")
        assert value(files.web_admin, "response_latency_ms_count") == 40
        wait_until(lambda: value(files.web_admin, "meshd_proxy_worker_answered") == 2, "both answer")
        workers = children(web.pid)
        assert len(workers) == 2
        callers = [socket.create_connection(("127.0.0.1", files.upstream)) for _ in range(32)]
        try:
            wait_until(lambda: sum(served(each, files.upstream) for each in workers) == 32, "all are accepted")
            assert min(served(each, files.upstream) for each in workers) > 0
        finally:
            for caller in callers:
                caller.close()
        assert get(files.web_admin, "/live") == (200, "live\n")
        web.terminate()
        assert web.wait(60) == 0
        assert [state(each) for each in workers] == ["Z", "Z"]


def test_one_worker_is_one_process_as_ever(files: Files) -> None:
    with files.started(files.web, files.web_admin, "--workers", "1") as web:
        assert children(web.pid) == []
        assert "meshd_proxy_worker" not in get(files.web_admin, "/metrics")[1]


def test_a_worker_that_is_killed_is_replaced_and_takes_nothing_with_it(files: Files) -> None:
    log = files.web.with_suffix(".log")
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        ask(files.upstream, 20)
        wait_until(lambda: requests(files.web_admin) == 20, "all workers have said")
        before = children(web.pid)
        with Load(files.upstream, 8) as load:
            load.more()
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda: len(set(children(web.pid)) - set(before)) == 1, "another takes its place")
            wait_until(lambda: ready(files.web_admin), "it is ready")
            load.more()
        assert requests(files.web_admin) >= 20, "what it had counted stays"
        assert value(files.web_admin, "meshd_proxy_worker_deaths_total") == 1
        assert "worker 1 was killed by SIGKILL; another takes its place" in log.read_text()
        # A request that was on a connection of the killed one is lost with it; what waited in its queue is not.
        assert len(load.errors) <= 8
        assert all(each.startswith(CUT) for each in load.errors), load.errors
        seen = requests(files.web_admin)
        ask(files.upstream, 20)
        wait_until(lambda: requests(files.web_admin) == seen + 20, "all workers have said")


def test_connections_wait_for_the_successor_of_a_worker_that_died(files: Files) -> None:
    """Both are stopped, so that what comes waits in their queues; then both die."""
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        ask(files.upstream, 1)
        workers = children(web.pid)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        callers = [socket.create_connection(("127.0.0.1", files.upstream), timeout=60.0) for _ in range(8)]
        for caller in callers:
            caller.sendall(b"GET /waited HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        for caller in callers:
            assert caller.recv(64).startswith(b"HTTP/1.1 200 OK\r\n")
            caller.close()


def test_a_worker_that_does_not_answer_is_shown_as_it_was(files: Files) -> None:
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        ask(files.upstream, 10)
        wait_until(lambda: requests(files.web_admin) == 10, "both have said")
        worker = children(web.pid)[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            wait_until(lambda: value(files.web_admin, "meshd_proxy_worker_answered") == 1, "the other one answers")
            assert requests(files.web_admin) == 10
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: value(files.web_admin, "meshd_proxy_worker_answered") == 2, "it answers again")


def test_a_bad_file_changes_nothing_and_a_good_one_all(files: Files) -> None:
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        log = files.web.with_suffix(".log")
        good = files.web.read_text()
        for bad in ("]", good.replace("web.key", "api.key")):
            before = log.read_text().count("not reloaded")
            files.web.write_text(bad.replace(str(files.upstream), "1"))
            web.send_signal(signal.SIGHUP)
            wait_until(lambda: log.read_text().count("not reloaded") > before, "it says so")  # noqa: B023 - waited for here
            ask(files.upstream, 4)
        assert log.read_text().count("not reloaded") == 2, "it is looked at once, not by every worker"
        files.write_web("other")
        web.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("was read again") == 2, "it is in force in both")
        for _ in range(8):
            assert get(files.outbound, "http://other/")[0] == 200


def test_an_address_that_is_left_is_free_and_a_new_one_is_shared(files: Files) -> None:
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        log = files.web.with_suffix(".log")
        old, old_admin = files.upstream, files.web_admin
        files.upstream, files.web_admin = free_ports(2)
        files.write_web()
        web.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("was read again") == 2, "it is in force in both")
        wait_until(lambda: ready(files.web_admin), "the admin port has moved")
        ask(files.upstream, 16)
        wait_until(lambda: not accepts(old), "the old address is free")
        assert not accepts(old_admin)


@pytest.mark.parametrize("second", [False, True])
def test_a_drain_finishes_what_is_under_way_and_a_second_signal_does_not(files: Files, second: bool) -> None:
    with (
        files.started(files.api, files.api_admin),
        files.started(files.web, files.web_admin, *WORKERS, "--drain-timeout", "120" if second else "0.5") as web,
        socket.create_connection(("127.0.0.1", files.upstream)) as stuck,
    ):
        stuck.sendall(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhalf")
        wait_until(lambda: requests(files.web_admin) == 1, "it is under way")
        web.terminate()
        wait_until(lambda: not accepts(files.upstream), "it drains")
        if second:
            assert web.poll() is None
            web.terminate()
        assert web.wait(100) == 0


def test_signals_to_all_processes_are_the_master_s_to_obey(files: Files) -> None:
    """As a service manager sends them: to each process of the unit."""
    with (
        files.started(files.api, files.api_admin),
        files.started(files.web, files.web_admin, *WORKERS) as web,
        socket.create_connection(("127.0.0.1", files.outbound), timeout=60.0) as caller,
    ):
        caller.sendall(b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n")
        assert caller.recv(1024).startswith(b"HTTP/1.1 200")
        for pid in (*children(web.pid), web.pid, *children(web.pid)):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not accepts(files.upstream), "it drains")
        caller.sendall(b"GET /late HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        assert caller.recv(1024).startswith(b"HTTP/1.1 200"), "what is under way goes on"
        caller.close()
        assert web.wait(60) == 0


def test_what_a_successor_does_not_ask_for_is_left_to_the_others(files: Files) -> None:
    """The file has changed when a worker dies: at the address before only the other one accepts, and nothing waits."""
    with files.started(files.api, files.api_admin), files.started(files.web, files.web_admin, *WORKERS) as web:
        before = children(web.pid)
        old, (files.upstream,) = files.upstream, free_ports(1)
        files.write_web()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: accepts(files.upstream) and ready(files.web_admin), "another has read the file")
        ask(old, 16)
        ask(files.upstream, 4)


def test_workers_do_not_outlive_a_master_that_is_killed(files: Files) -> None:
    with files.started(files.web, files.web_admin, *WORKERS) as web:
        workers = children(web.pid)
        web.kill()
        web.wait(30)
        wait_until(lambda: all(state(each) == "Z" for each in workers), "they end")
        assert not accepts(files.upstream)


def test_a_port_of_another_proxy_is_refused_though_it_is_shared_by_workers(files: Files) -> None:
    with files.started(files.web, files.web_admin, *WORKERS):
        for flags in (WORKERS, ()):
            ended = subprocess.run(
                [*PROXY, "--config", str(files.web), *flags], capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 1
            taken = f"{files.web}: cannot listen at 127.0.0.1:{files.outbound}: Address already in use"
            assert ended.stderr.count(taken) == 1, ended.stderr
            assert "Traceback" not in ended.stderr


def test_a_bad_file_ends_the_start_with_its_status(files: Files) -> None:
    files.web.write_text(files.web.read_text() + "unknown: 1\n")
    argv = [*PROXY, "--config", str(files.web), *WORKERS]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("unknown field `unknown`") == 1
    assert "worker 1 ended with status 2 before it was ready" in ended.stderr


def test_a_worker_that_cannot_start_any_more_ends_all_with_the_reason(files: Files) -> None:
    with files.started(files.web, files.web_admin, *WORKERS) as web:
        files.web.write_text("]")
        os.kill(children(web.pid)[0], signal.SIGKILL)
        assert web.wait(30) == 1
    said = files.web.with_suffix(".log").read_text()
    assert "meshd-proxy: worker 1 could not be started 5 times in a row" in said
    assert f"{files.web}: line" in said


def test_sockets_that_are_inherited_are_shared_by_all(files: Files) -> None:
    with (
        files.started(files.api, files.api_admin),
        socket.create_server(("127.0.0.1", files.upstream)) as listener,
    ):
        proxy = inheriting(files.web, listener, *WORKERS)
        try:
            wait_until(lambda: ready(files.web_admin), "ready")
            ask(files.upstream, 10)
            assert requests(files.web_admin) == 10
        finally:
            proxy.terminate()
            assert proxy.wait(60) == 0


@pytest.mark.parametrize("which", ["web", "api"])
def test_a_handover_under_load_loses_nothing(files: Files, manager: Manager, which: str) -> None:
    with files.started(files.api, files.api_admin) if which == "web" else files.started(files.web, files.web_admin):
        file, admin = (files.web, files.web_admin) if which == "web" else (files.api, files.api_admin)
        with managed(files, file, admin, manager, *WORKERS) as first:
            manager.hears("READY=1")
            workers = children(first.pid)
            with Load(files.upstream, 6) as load:
                load.more()
                first.send_signal(signal.SIGUSR2)
                second = main_pid(manager)
                assert first.wait(60) == 0, file.with_suffix(".log").read_text()
                load.more()
            assert set(children(second)).isdisjoint(workers)
            assert len(children(second)) == 2
            assert load.errors == []
            assert ready(admin)
            end(second)
            assert not accepts(files.upstream if which == "web" else files.inbound)


@pytest.mark.peer("wrk", "nginx")
def test_wrk_sees_no_error_in_a_handover(tmp_path: Path, manager: Manager) -> None:
    (port,) = free_ports(1)
    files = Files(tmp_path, port)
    (tmp_path / "nginx.conf").write_text(NGINX.format(directory=tmp_path, port=port))
    nginx = [peers.path("nginx"), "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
    with (
        running(nginx, tmp_path / "nginx.log", lambda: accepts(port)),
        files.started(files.api, files.api_admin),
        managed(files, files.web, files.web_admin, manager, *WORKERS) as first,
        subprocess.Popen(
            [peers.path("wrk"), "-t1", "-c16", "-d120", "--timeout", "60s", f"http://127.0.0.1:{files.upstream}/"],
            stdout=subprocess.PIPE,
            text=True,
        ) as wrk,
    ):
        wait_until(lambda: requests(files.web_admin) > 100, "load")
        first.send_signal(signal.SIGUSR2)
        main_pid(manager)
        assert first.wait(60) == 0
        assert wrk.poll() is None, "it was under load to the end"
        wrk.send_signal(signal.SIGINT)  # it says what it saw until now
        said = wrk.communicate(timeout=60)[0]
        assert "requests in" in said
        assert "Socket errors" not in said, said
        assert "Non-2xx" not in said, said


def test_a_generation_that_cannot_start_leaves_the_old_one(files: Files, manager: Manager) -> None:
    log = files.web.with_suffix(".log")
    with (
        files.started(files.api, files.api_admin),
        managed(files, files.web, files.web_admin, manager, *WORKERS) as first,
    ):
        good = files.web.read_text()
        files.web.write_text(good + "unknown: 1\n")
        first.send_signal(signal.SIGUSR2)
        manager.hears("RELOADING=1")
        assert manager.hears("READY=1") == ["READY=1"]
        assert "there is no new generation, and this one goes on: it ended with status 2" in log.read_text()
        ask(files.upstream, 8)


def test_ctrl_c_drains_the_whole(files: Files) -> None:
    """The terminal sends it to the process group: the workers are not of it."""
    of_a_group = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
    argv = [sys.executable, "-c", of_a_group, *PROXY, "--config", str(files.web), *WORKERS]
    with running(argv, files.web.with_suffix(".log"), lambda: ready(files.web_admin)) as master:
        os.killpg(master.pid, signal.SIGINT)
        assert master.wait(60) == 0
    assert files.web.with_suffix(".log").read_text().count("draining for") == 2
