"""`meshd agent` as a process: how it starts, what it says when it cannot, signals, and a CA that comes and goes."""

import asyncio
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.api.control import (
    Attach,
    Certificate,
    GetStatus,
    ProxyConfiguration,
    Refused,
    Registered,
    RegisterWorkload,
    SignCertificate,
    Status,
)
from meshd.api.documents import WorkloadPort
from meshd.ca.authority import Authority
from meshd.client.sockets import answers
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.csr import csr
from tests.support.metrics import samples
from tests.support.peers import path as path_of
from tests.support.ports import accepts, free_port
from tests.support.processes import running
from tests.support.waiting import eventually, wait_until

MESHD = (sys.executable, "-m", "meshd.cli")

WEB = RegisterWorkload(
    instance="0123456789abcdef" * 2,
    namespace="default",
    name="web",
    ports=(WorkloadPort(8080),),
    upstreams=(),
    outbound="",
    inbound="127.0.0.1:40002",
    admin="",
    pid=1,
)


class Host:
    """What one host's agent is made of, in a directory of the test's: a CA's files, settings, documents."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca_port, self.admin, self.names = free_port(), "", ""
        self.ca, self.settings, self.documents = directory / "ca", directory / "meshd.yaml", directory / "conf.d"
        self.socket, self.log = directory / "meshd.sock", directory / "agent.log"
        Authority.create(self.ca, "prod.example", time.time(), "a token of the test").close()
        self.documents.mkdir()
        self.write_settings()

    def write_settings(self, more: str = "", inbound: str = "0.0.0.0:4143") -> None:
        self.settings.write_text(
            f"trustDomain: prod.example\nnode: vm1\nstateDir: {self.directory}/state\nsocket: {self.socket}\n"
            f'ca: {{url: "https://localhost:{self.ca_port}", bundle: {self.ca}/bundle.pem, '
            f"tokenFile: {self.ca}/agent.token}}\n"
            f"discovery: [{{file: {{path: {self.documents}}}}}]\n"
            f'proxy: {{inbound: "{inbound}"}}\nadmin: "{self.admin}"\n'
            f'names: {{listen: "{self.names}"}}\n{more}'
        )

    def serves_admin(self, port: int = 0) -> str:
        """Where its metrics are to be."""
        self.admin = f"127.0.0.1:{port or free_port()}"
        self.write_settings()
        return self.admin

    @contextmanager
    def agent(self) -> Iterator["subprocess.Popen[bytes]"]:
        argv = [*MESHD, "agent", "--config", str(self.settings)]
        with running(argv, self.log, lambda: answers(self.socket)) as process:
            yield process

    @contextmanager
    def ca_serves(self) -> Iterator["subprocess.Popen[bytes]"]:
        argv = [*MESHD, "ca", "serve", "--state-dir", str(self.ca), "--listen", f"127.0.0.1:{self.ca_port}"]
        with running(argv, self.directory / "ca.log", lambda: accepts(self.ca_port)) as process:
            yield process

    def logged(self) -> str:
        return self.log.read_text()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def agent(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """An agent that ends by itself."""
    argv = [*MESHD, "agent", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


async def status_of(path: Path) -> Status:
    client = await ControlClient.connect(path)
    status = await client.call(GetStatus())
    await client.close()
    assert isinstance(status, Status)
    return status


# --- the host's -------------------------------------------------------------------------------------------------


def test_a_ca_that_is_away_at_start_comes_and_goes(host: Host) -> None:
    async def main() -> None:
        run, proxy = await ControlClient.connect(host.socket), await ControlClient.connect(host.socket)
        assert isinstance(await run.call(WEB), Registered)
        assert isinstance(await proxy.call(Attach("0.1", WEB.instance)), ProxyConfiguration)
        away = await proxy.call(SignCertificate("default/web", csr()))
        assert isinstance(away, Refused)
        assert away.retry
        status = await status_of(host.socket)
        assert (status.node, status.mode, status.ca.healthy) == ("vm1", "host", False)
        assert f"localhost:{host.ca_port}" in status.ca.name
        with host.ca_serves():
            assert isinstance(await proxy.call(SignCertificate("default/web", csr())), Certificate)
            assert (await status_of(host.socket)).ca.healthy
        away = await proxy.call(SignCertificate("default/web", csr()))
        assert isinstance(away, Refused)
        for client in (run, proxy):
            await client.close()

    with host.agent():
        aio.run(main())
    assert host.logged().count("certificates in use stay good") == 2
    assert host.logged().count("is well again") == 1
    assert WEB.instance not in host.logged()


@pytest.mark.peer("curl")
def test_scrapers_and_supervisors_are_answered_and_change_nothing(host: Host) -> None:
    url = f"http://{host.serves_admin()}"

    def curl(path: str, *options: str) -> str:
        argv = [path_of("curl"), "-sS", "-w", "%{http_code} %{content_type}", *options, url + path]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    def metrics() -> dict[str, float]:
        page, _, status = curl("/metrics").rpartition("\n")
        assert status == "200 text/plain; version=0.0.4; charset=utf-8"
        return samples(page + "\n")

    async def serve() -> None:
        run, proxy = await ControlClient.connect(host.socket), await ControlClient.connect(host.socket)
        await run.call(WEB)
        await proxy.call(Attach("0.1", WEB.instance))
        for _ in range(2):
            assert isinstance(await proxy.call(SignCertificate("default/web", csr())), Certificate)
        said = await asyncio.to_thread(metrics)
        assert said["meshd_agent_certificates_issued_total"] == 2
        assert said["meshd_agent_certificates_renewed_total"] == 1
        assert said['meshd_agent_proxies_connected{workload="default/web"}'] == 1
        assert said["meshd_agent_control_connections"] == 2
        assert said["meshd_agent_workload_api_connections"] == 0
        for client in (run, proxy):
            await client.close()

    reachable = f'meshd_agent_ca_reachable{{url="https://localhost:{host.ca_port}"}}'
    with host.ca_serves(), host.agent() as process:
        wait_until(lambda: metrics().get(reachable) == 1, "the CA is reached")
        aio.run(serve())
        assert curl("/live") == "live\n200 text/plain; charset=utf-8"
        assert curl("/ready") == "ready\n200 text/plain; charset=utf-8"
        assert curl("/metrics", "--head").splitlines()[0] == "HTTP/1.1 200 OK"
        assert curl("/metrics", "-d", "x").endswith("405 text/plain; charset=utf-8")
        assert curl("/").endswith("404 text/plain; charset=utf-8")
        before = metrics()["meshd_agent_configuration_last_reload_timestamp_seconds"]
        host.write_settings("nonsense: 1\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: metrics()["meshd_agent_configuration_last_reload_successful"] == 0, "it is refused")
        said = metrics()
        assert said["meshd_agent_configuration_last_reload_timestamp_seconds"] > before
        assert said["meshd_agent_certificates_issued_total"] == 2


def test_an_admin_port_that_somebody_else_has_is_said_and_the_agent_runs(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host.serves_admin(taken.getsockname()[1])
        with host.agent():
            status = aio.run(status_of(host.socket))
    (trouble,) = status.configuration
    assert trouble == f"{host.admin}: no metrics: cannot listen: {os.strerror(errno.EADDRINUSE)}: choose another " + (
        "`admin`, and restart"
    )


def test_the_agent_looks_for_a_ca_that_is_away_by_itself(host: Host) -> None:
    async def heals() -> None:
        client = await ControlClient.connect(host.socket)
        async with asyncio.timeout(60.0):
            while True:
                status = await client.call(GetStatus())
                assert isinstance(status, Status)
                if status.ca.healthy:
                    break
                await asyncio.sleep(0.02)
        await client.close()

    with host.agent():
        wait_until(lambda: "certificates in use stay good" in host.logged(), "the CA is found to be away")
        with host.ca_serves():
            aio.run(heals())


def test_sighup_reads_settings_and_documents_again(host: Host) -> None:
    async def main(process: "subprocess.Popen[bytes]") -> None:
        proxy = await ControlClient.connect(host.socket)
        attached = proxy.say(Attach("0.1", ""))
        await proxy.answer(attached)
        host.write_settings(inbound="0.0.0.0:5143")
        process.send_signal(signal.SIGHUP)

        def told(inbound: str) -> bool:
            latest = proxy.heard[attached][-1]
            return isinstance(latest, ProxyConfiguration) and latest.inbound == inbound

        await eventually(lambda: told("0.0.0.0:5143"), "the proxy is told")

        host.write_settings(more="node2: x\n", inbound="0.0.0.0:6143")
        process.send_signal(signal.SIGHUP)
        await eventually(lambda: "unknown field `node2`" in host.logged(), "the finding")
        status = await status_of(host.socket)
        assert any("unknown field `node2` (the settings before stay in force)" in each for each in status.configuration)

        host.write_settings(inbound="0.0.0.0:7143")
        host.settings.write_text(host.settings.read_text().replace("vm1", "vm2"))
        process.send_signal(signal.SIGHUP)
        await eventually(lambda: told("0.0.0.0:7143"), "the proxy is told")
        status = await status_of(host.socket)
        assert status.node == "vm1"
        assert any("node has changed: restart the agent" in each for each in status.configuration)
        await proxy.close()

    with host.agent() as process:
        aio.run(main(process))


def test_documents_beside_the_settings_are_in_force(host: Host) -> None:
    host.write_settings(more="---\napiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\n")

    async def main() -> None:
        status = await status_of(host.socket)
        assert [workload.name for workload in status.workloads] == ["web"]
        assert status.configuration == ()

    with host.agent():
        aio.run(main())


def test_what_two_places_declare_is_reported_and_the_first_is_in_force(host: Host) -> None:
    document = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: web}}\nspec: {{ports: [{{port: {}}}]}}\n"
    host.write_settings(more="---\n" + document.format(1))
    (host.documents / "web.yaml").write_text(document.format(2))
    said = f"{host.documents}/web.yaml:1: Workload default/web is also in {host.settings}:"

    async def main() -> None:
        status = await status_of(host.socket)
        assert [workload.ports for workload in status.workloads] == [(1,)]
        assert any(said in each for each in status.configuration)

    assert said in agent("--config", host.settings, "--check").stderr
    with host.agent():
        aio.run(main())
    assert host.logged().count(said) == 1


def test_a_bad_document_does_not_keep_the_agent_from_starting(host: Host) -> None:
    (host.documents / "web.yaml").write_text("kind: Workload\n")

    async def main() -> None:
        status = await status_of(host.socket)
        assert any("conf.d/web.yaml: document 1 (Workload): missing" in each for each in status.configuration)
        assert any(not health.healthy for health in status.discovery)

    with host.agent():
        aio.run(main())


def test_it_ends_well_when_told_and_leaves_no_socket(host: Host) -> None:
    with host.agent() as process:
        process.terminate()
        assert process.wait(60) == 0
    assert not host.socket.exists()


def test_the_socket_of_an_agent_that_was_killed_is_taken_over(host: Host) -> None:
    with host.agent() as process:
        process.kill()
        process.wait()
    assert host.socket.exists()
    with host.agent():
        assert answers(host.socket)


def test_a_second_agent_is_told_of_the_first(host: Host, tmp_path: Path) -> None:
    with host.agent():
        second = agent("--config", host.settings)
        assert second.returncode == 1
        assert "one is already running with this directory" in second.stderr
        host.settings.write_text(host.settings.read_text().replace("/state", "/other"))
        third = agent("--config", host.settings)
        assert third.returncode == 1
        assert f"{host.socket}: an agent is already running there" in third.stderr


@pytest.mark.parametrize(
    ("was", "becomes", "status", "said"),
    [
        ("node: vm1", "node: [", 2, "meshd.yaml: line "),
        ("node: vm1", "nod: vm1", 2, "meshd.yaml: unknown field `nod`"),
        ("bundle.pem", "none.pem", 2, "meshd.yaml: ca.bundle: "),
        ("agent.token", "none", 2, "meshd.yaml: ca.tokenFile: "),
        ("/state", "/meshd.yaml/state", 1, "the state directory cannot be written by uid"),
        ("/meshd.sock", "/meshd.yaml", 1, "meshd.yaml: is in the way, and is not a socket"),
        ("/meshd.sock", "/meshd.yaml/meshd.sock", 1, "the control socket cannot be made: "),
        ("/meshd.sock", "/" + "x" * 120, 2, "a Unix socket's path has at most 107 bytes"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(
    host: Host, was: str, becomes: str, status: int, said: str
) -> None:
    host.settings.write_text(host.settings.read_text().replace(was, becomes))
    ended = agent("--config", host.settings)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (status, "", 1)
    assert said in ended.stderr


def test_settings_that_are_not_there(tmp_path: Path) -> None:
    ended = agent("--config", tmp_path / "none.yaml")
    assert ended.returncode == 2
    assert ended.stderr == f"meshd: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"


def test_check_says_all_that_is_wrong_and_starts_nothing(host: Host) -> None:
    good = agent("--config", host.settings, "--check")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == f"{host.settings}: good: 0 documents, trust domain prod.example\n"
    (host.documents / "a.yaml").write_text("kind: Workload\n")
    (host.documents / "b.yaml").write_text("- x\n")
    (host.ca / "agent.token").unlink()
    bad = agent("--config", host.settings, "--check")
    assert bad.returncode == 2
    for said in (
        "ca.tokenFile",
        "a.yaml: document 1 (Workload): missing the field `apiVersion`",
        "b.yaml: a document is",
    ):
        assert bad.stderr.count(said) == 1
    assert not host.socket.exists()


# --- the embedded one -------------------------------------------------------------------------------------------


@contextmanager
def embedded(directory: Path, linger: str = "30s") -> Iterator["subprocess.Popen[bytes]"]:
    argv = [*MESHD, "agent", "--embedded", "--state-dir", str(directory), "--linger", linger]
    with running(argv, directory.parent / "agent.log", lambda: answers(directory / "meshd.sock")) as process:
        yield process


def test_it_needs_nothing_and_keeps_to_its_user(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with embedded(directory):
        assert directory.stat().st_mode & 0o777 == 0o700
        status = aio.run(status_of(directory / "meshd.sock"))
        assert (status.mode, status.trust_domain, status.ca.healthy) == ("embedded", "mesh.local", True)


def test_a_second_one_leaves_the_first_alone(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with embedded(directory) as process:
        second = agent("--embedded", "--state-dir", directory)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
        assert process.poll() is None


def test_one_that_finds_its_predecessor_ending_takes_its_place(tmp_path: Path) -> None:
    """The moment between an agent's socket being gone and its lock being free."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    with (directory / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = [*MESHD, "agent", "--embedded", "--state-dir", str(directory)]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.7)
            fcntl.flock(lock, fcntl.LOCK_UN)
            wait_until(lambda: answers(directory / "meshd.sock"), "it answers")
            process.terminate()


def test_it_ends_by_itself_when_nobody_uses_it(tmp_path: Path) -> None:
    directory = tmp_path / "state"

    async def use() -> float:
        client = await ControlClient.connect(directory / "meshd.sock")
        assert isinstance(await client.call(WEB), Registered)
        await asyncio.sleep(2.5)  # longer than it lingers: it is in use
        assert isinstance(await client.call(GetStatus()), Status)
        await client.close()
        return time.monotonic()

    with embedded(directory, "2s") as process:
        left = aio.run(use())
        assert process.wait(60) == 0
        assert time.monotonic() - left > 1.5
    assert not (directory / "meshd.sock").exists()


def test_identities_outlive_it(tmp_path: Path) -> None:
    directory = tmp_path / "state"

    with embedded(directory):
        first = (directory / "ca" / "bundle.pem").read_text()
    with embedded(directory):
        assert (directory / "ca" / "bundle.pem").read_text() == first


@pytest.mark.parametrize(
    "arguments",
    [("--embedded",), ("--state-dir", "x"), ("--embedded", "--state-dir", "x", "--check"), ("--linger", "5")],
)
def test_flags_that_do_not_go_together(arguments: tuple[str, ...]) -> None:
    assert agent(*arguments).returncode == 2


def test_a_state_directory_whose_path_is_too_long(tmp_path: Path) -> None:
    ended = agent("--embedded", "--state-dir", tmp_path / ("x" * 120))
    assert ended.returncode == 2
    assert "at most 107 bytes" in ended.stderr
