"""A proxy of several workers, and its agent: one instance, one row, the sum of all; and what follows it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshd.agent.calling import has_ipv6
from tests.integration.test_agent_process import Host
from tests.integration.test_proxy_handover import end, main_pid
from tests.integration.test_proxy_process import Load, application, get, ready
from tests.integration.test_proxy_workers import value
from tests.support import meshed
from tests.support.managers import Manager
from tests.support.meshed import children, status
from tests.support.ports import free_port, free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = [sys.executable, "-m", "proxy.main"]

LATE = meshed.program("late")
CALL = meshed.program("call")


class Mesh:
    """A host whose proxy serves web, with an upstream to api, and api, whose application is at `port`."""

    def __init__(self, directory: Path, port: int, workers: str) -> None:
        self.host = Host(directory)
        self.log = directory / "proxy.log"
        outbound, inbound, self.admin, self.upstream = free_ports(4)
        self._settings = self.host.settings.read_text().replace(
            'proxy: {inbound: "0.0.0.0:4143"}',
            f'proxy: {{outbound: "127.0.0.1:{outbound}", inbound: "127.0.0.1:{inbound}", '
            f'admin: "0.0.0.0:{self.admin}", workers: WORKERS}}',
        )
        assert "WORKERS" in self._settings
        self.set_workers(workers)
        head = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: NAME}\nspec: "
        upstreams = f"[{{service: api, listen: '127.0.0.1:{self.upstream}'}}]"
        self.host.documents.joinpath("all.yaml").write_text(
            head.replace("NAME", "web") + f"{{upstreams: {upstreams}}}\n---\n"
            + head.replace("NAME", "api") + f"{{ports: [{{port: {port}}}]}}\n"
        )  # fmt: skip

    def set_workers(self, workers: str) -> None:
        self.host.settings.write_text(self._settings.replace("WORKERS", workers))

    @contextmanager
    def proxy(self, *flags: str, manager: Manager | None = None) -> Iterator["subprocess.Popen[bytes]"]:
        environment = {**os.environ, "NOTIFY_SOCKET": manager.path} if manager is not None else None
        argv = [*PROXY, "--control", str(self.host.socket), *flags]
        with running(argv, self.log, lambda: ready(self.admin), environment) as process:
            yield process

    def status(self) -> dict[str, Any]:
        return status(self.host.socket)

    def counted(self) -> int:
        """How many requests the agent knows of, as the caller saw them."""
        return sum(edge["golden"]["requests"] for edge in self.status()["edges"] if edge["source"] == "default/web")

    def waiting(self) -> list[str | None]:
        """What each workload waits for first; None where nothing."""
        return [next(iter(each["waiting_for"]), None) for each in self.status()["workloads"]]

    def ask(self, count: int) -> None:
        for _ in range(count):
            assert get(self.upstream, "/")[0] == 200


@contextmanager
def mesh(directory: Path, workers: str) -> Iterator[Mesh]:
    with application() as port:
        made = Mesh(directory, port, workers)
        with made.host.ca_serves(), made.host.agent():
            yield made


@pytest.mark.parametrize(("setting", "flags"), [("2", ()), ("1", ("--workers", "2"))])
def test_workers_are_one_proxy_to_the_agent(tmp_path: Path, setting: str, flags: tuple[str, ...]) -> None:
    with mesh(tmp_path, setting) as made, made.proxy(*flags) as proxy:
        assert len(children(proxy.pid)) == 2, made.log.read_text()
        made.ask(40)
        wait_until(lambda: made.counted() == 40, "the agent knows of all requests")
        found = made.status()
        assert [(each["name"], each["pid"], each["waiting_for"]) for each in found["workloads"]] == [
            ("api", proxy.pid, []),
            ("web", proxy.pid, []),
        ]
        assert [each["golden"]["requests"] for each in found["workloads"] if each["name"] == "api"] == [40]
        (edge,) = found["edges"]
        assert edge["tls"]
        assert value(made.admin, "request_total") == 80, "each came out of it and into it"
        assert value(made.admin, "meshd_control_connected") == 1
        assert not has_ipv6() or get(made.admin, "/metrics", 60.0, "::1")[0] == 200

        killed = children(proxy.pid)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in children(proxy.pid) and ready(made.admin), "another takes its place")
        made.ask(10)
        wait_until(lambda: made.counted() == 50, "nothing is lost, nothing counted twice")
        assert made.waiting() == [None, None]


def test_a_handover_is_not_seen_in_the_status_but_by_the_pid(tmp_path: Path) -> None:
    """From one process to two and back, as the settings have it: each generation asks anew."""
    manager = Manager(tmp_path)
    try:
        with mesh(tmp_path, "1") as made, made.proxy(manager=manager) as first:
            assert children(first.pid) == []
            made.ask(10)
            wait_until(lambda: made.counted() == 10, "it is told")
            made.set_workers("2")
            os.kill(made.status()["pid"], signal.SIGHUP)
            wait_until(lambda: "2 workers: in force from the next start" in made.log.read_text(), "it says when")
            with Load(made.upstream, 4) as load:
                load.more()
                first.send_signal(signal.SIGUSR2)
                second = main_pid(manager)
                try:
                    assert first.wait(60) == 0, made.log.read_text()
                    load.more()
                    load.end()
                    assert load.errors == []
                    assert len(children(second)) == 2
                    wait_until(lambda: made.counted() == 10 + len(load.statuses), "all is counted, and once")
                    pids = {each["pid"] for each in made.status()["workloads"]}
                    assert pids == {second}
                    assert made.waiting() == [None, None]
                finally:
                    end(second)
            wait_until(lambda: None not in made.waiting(), "it is known to have ended")
    finally:
        manager.close()


def test_meshd_run_has_workers_too(tmp_path: Path) -> None:
    with meshed.embedded_agent(tmp_path / "state") as agent:
        options = ["--socket", str(agent)]
        port = free_port()
        web = [*options, "--port", str(port), "--workers", "2"]
        with meshed.run("web", web, [*LATE, str(port), "/"], tmp_path) as run:
            meshed.announced(agent, "web")
            assert len(children(run.child("meshd-proxy"))) == 2
            with meshed.run("me", options, [*CALL, "http://web/", "40"], tmp_path) as me:
                assert me.ends() == 0, me.text
                assert "200: 40" in me.text

            def counted() -> list[int]:
                return [each["golden"]["requests"] for each in status(agent)["workloads"] if each["name"] == "web"]

            wait_until(lambda: counted() == [40], "all are counted, in one row")
