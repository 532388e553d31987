"""What daemons tell the service manager that started them, and what their units in packaging/systemd hold them to."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.client.sockets import answers
from proxy.kept import address_of
from tests.integration.test_agent_process import Host
from tests.integration.test_proxy_handover import main_pid, managed
from tests.integration.test_proxy_process import PROXY, Files, application
from tests.support.managers import Manager
from tests.support.meshed import MESHD
from tests.support.peers import path
from tests.support.ports import accepts, free_port
from tests.support.processes import running
from tests.support.waiting import wait_until

WEB = """\
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: web}
spec:
  ports: [{port: 8080}]
"""
UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@pytest.fixture
def environment(manager: Manager) -> dict[str, str]:
    """What the manager starts its services with; it waits half a second for each sign of life."""
    return {**os.environ, "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "500000"}


def test_the_agent_is_ready_reads_again_lives_and_ends(
    tmp_path: Path, manager: Manager, environment: dict[str, str]
) -> None:
    host = Host(tmp_path)
    argv = [*MESHD, "agent", "--config", str(host.settings)]
    with running(argv, host.log, lambda: answers(host.socket), environment) as process:
        manager.hears("READY=1")
        manager.hears("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        manager.hears("RELOADING=1")
        manager.hears("READY=1")
        process.terminate()
        manager.hears("STOPPING=1")
        assert process.wait(30) == 0


def test_the_ca_is_ready_lives_and_ends(tmp_path: Path, manager: Manager, environment: dict[str, str]) -> None:
    ca, settings = tmp_path / "ca", tmp_path / "ca.yaml"
    settings.write_text(f'admin: "127.0.0.1:{free_port()}"\n')
    subprocess.run([*MESHD, "ca", "init", "--trust-domain", "prod.example", "--state-dir", str(ca)], check=True)
    argv = [*MESHD, "ca", "serve", "--state-dir", str(ca), "--listen", "127.0.0.1:0", "--config", str(settings)]
    log = tmp_path / "log"
    with running(argv, log, lambda: "answers at" in log.read_text(), environment) as process:
        manager.hears("READY=1")
        manager.hears("WATCHDOG=1")
        process.terminate()
        manager.hears("STOPPING=1")
        assert process.wait(30) == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_the_proxy_of_a_host_without_a_workload_is_ready_for_the_first(
    tmp_path: Path, manager: Manager, environment: dict[str, str], flags: tuple[str, ...]
) -> None:
    host = Host(tmp_path)
    inbound, admin = free_port(), free_port()
    settings = host.settings.read_text().replace("0.0.0.0:4143", f"127.0.0.1:{inbound}")
    host.settings.write_text(settings.replace("proxy: {", f'proxy: {{outbound: "", admin: "127.0.0.1:{admin}", '))
    argv = [*PROXY, "--control", str(host.socket), *flags]
    with host.ca_serves(), host.agent(), running(argv, tmp_path / "log", lambda: accepts(admin), environment):
        manager.hears("READY=1")
        (host.documents / "web.yaml").write_text(WEB)
        wait_until(lambda: accepts(inbound), "peers are let in once there is somebody whom they may ask for")


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_new_generation_of_the_proxy_lives_on_for_the_manager(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "500000")
    with application() as port:
        files = Files(tmp_path, port)
        with managed(files, files.web, files.web_admin, manager, *flags) as first:
            manager.hears("WATCHDOG=1")
            first.send_signal(signal.SIGUSR2)
            main_pid(manager)
            assert first.wait(30) == 0
            manager.hears("WATCHDOG=1")


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_what_the_proxy_bound_is_kept_for_the_next_and_let_go_when_it_is_not_needed(
    tmp_path: Path, manager: Manager, flags: tuple[str, ...]
) -> None:
    with application() as port:
        files = Files(tmp_path, port)
        with managed(files, files.web, files.web_admin, manager, *flags) as first:
            manager.hears("READY=1")
            kept = stored(manager, "FDSTORE=1")
            addresses = [address_of(name) for name in kept]
            workers = 2 if flags else 1
            assert addresses.count(f"127.0.0.1:{files.upstream}") == workers
            assert len(kept) == len(set(kept)), "each has a name of its own"
            upstreams = re.search(r"(?m)^ *upstreams:.*$", files.web.read_text())
            assert upstreams is not None
            files.web.write_text(files.web.read_text().replace(upstreams[0], ""))
            first.send_signal(signal.SIGHUP)
            for _ in range(workers):
                gone = manager.hears("FDSTOREREMOVE=1")[1].removeprefix("FDNAME=")
                assert address_of(gone) == f"127.0.0.1:{files.upstream}"
                assert gone in kept
            wait_until(lambda: not accepts(files.upstream), "nobody listens any more")
            told = len(manager.told)
            first.terminate()
            manager.hears("STOPPING=1")
        assert stored(manager, "FDSTOREREMOVE=1", since=told) == [], "the rest is for the process that comes next"


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_proxy_that_waits_for_its_agent_says_so_and_lets_units_that_wait_for_it_start(
    tmp_path: Path, manager: Manager, flags: tuple[str, ...]
) -> None:
    host = Host(tmp_path)
    argv = [sys.executable, "-P", "-m", "proxy.main", "--control", str(host.socket), *flags]
    with running(argv, tmp_path / "proxy.log", lambda: True, {**os.environ, "NOTIFY_SOCKET": manager.path}) as process:
        ready, status = manager.hears("READY=1")
        assert ready == "READY=1"
        assert status.startswith("STATUS=not ready yet: waiting for ")
        assert "configuration" in status
        process.terminate()
        manager.hears("STOPPING=1")


def stored(manager: Manager, verb: str, since: int = 0) -> list[str]:
    """The names of what the manager was handed, or told to close."""
    return [told[1].removeprefix("FDNAME=") for told in manager.told[since:] if told[0] == verb]


@pytest.mark.peer("systemd-analyze")
@pytest.mark.parametrize("unit", ["meshd-proxy", "meshd-ca", "meshd"])
def test_a_unit_may_do_little(unit: str) -> None:
    argv = [path("systemd-analyze"), "security", "--offline=true", str(UNITS / f"{unit}.service")]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    score = re.search(r"exposure level for \S+ ([0-9.]+)", found.stdout)
    assert score is not None, found.stderr
    assert float(score[1]) <= 2.0
