"""Checks of workloads against real servers: which are found well, and what becomes of those that are not."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meshd.agent.agent import Agent
from meshd.agent.health import probes
from meshd.agent.health.grpc import serves
from meshd.agent.health.monitor import MAX_PORTS_AT_ONCE, Check, Monitor
from meshd.agent.health.probes import MAX_HEAD_BYTES, SYSTEMD, accepts, answers, is_active
from meshd.agent.registry import Registry
from meshd.agent.settings import ProxySettings
from meshd.api.control import Attach, Destination, GetStatus, ProxyConfiguration, ReportState, Status, WatchDestination
from meshd.api.health import HttpCheck, PortHealth
from meshd.api.names import Address, WorkloadName
from tests.support.agents import local_agent
from tests.support.aio import run
from tests.support.control import ControlClient
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.waiting import eventually

needs_nginx = pytest.mark.peer("nginx")


@pytest.fixture(name="nginx")
def _nginx(tmp_path: Path) -> Nginx:
    directory = tmp_path / "nginx"
    directory.mkdir()
    return Nginx(directory)


# --- one look -----------------------------------------------------------------------------------------------------


@needs_nginx
def test_a_get_is_judged_by_its_status(nginx: Nginx) -> None:
    (nginx.files / "well").write_text("yes")
    (nginx.files / "large").write_bytes(b"x" * (1 << 20))

    async def main() -> None:
        address = Address("127.0.0.1", nginx.port)
        for path, expect, failure in (
            ("/well", "200-399", ""),
            ("/large", "200", ""),
            ("/moved", "200-399", ""),
            ("/moved", "200-299", "answered 302, expected 200-299"),
            ("/busy", "200-399", "answered 503, expected 200-399"),
            ("/busy", "200,503", ""),
            ("/none", "200-399", "answered 404, expected 200-399"),
        ):
            assert await answers(address, HttpCheck(path, expect)) == failure
        assert await answers(address, HttpCheck("/host", "200-299", "web.example:81")) == ""
        assert await answers(address, HttpCheck("/host", "200-299")) == "answered 421, expected 200-299"
        assert await accepts(address) == ""
        assert await serves(address, "") == "what it answers is not HTTP/2"

    with nginx.running():
        run(main())
    run(refused(nginx.port))


async def refused(port: int) -> None:
    address = Address("127.0.0.1", port)
    assert await answers(address, HttpCheck()) == "Connection refused"
    assert await accepts(address) == "Connection refused"
    assert await serves(address, "") == "Connection refused"


@asynccontextmanager
async def saying(data: bytes) -> AsyncIterator[Address]:
    """A server that says the same to everybody, and hangs up."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield Address(*server.sockets[0].getsockname())
    finally:
        server.close()


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\n", ""),
        (b"HTTP/1.0 204\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 500 No\r\n\r\n", "answered 500, expected 200-399"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered 101, expected 200-399"),
        (b"", "what it answers is not HTTP/1.1"),
        (b"HTTP/1.1 200", "what it answers is not HTTP/1.1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "what it answers is not HTTP/1.1"),
        (b"HTTP/2 200 OK\r\n\r\n", "what it answers is not HTTP/1.1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what it answers is not HTTP/1.1"),
        (b"HTTP/1.1 " + b"1" * MAX_HEAD_BYTES * 2 + b"\r\n\r\n", "what it answers is not HTTP/1.1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + b"HTTP/1.1 200 OK\r\n\r\n", "what it answers is not HTTP/1.1"),
    ],
)
def test_an_answer_that_is_none(data: bytes, failure: str) -> None:
    async def main() -> None:
        async with saying(data) as address:
            assert await answers(address, HttpCheck()) == failure

    run(main())


@pytest.fixture(name="servicer")
def _servicer() -> health.HealthServicer:
    return health.HealthServicer()


@pytest.fixture(name="grpc_port")
def _grpc_port(servicer: health.HealthServicer) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def test_a_grpc_server_says_how_its_services_are(servicer: health.HealthServicer, grpc_port: int) -> None:
    status = health_pb2.HealthCheckResponse

    async def main() -> None:
        address = Address("127.0.0.1", grpc_port)
        servicer.set("", status.SERVING)
        servicer.set("shop.Web", status.NOT_SERVING)
        assert await serves(address, "") == ""
        assert await serves(address, "shop.Web") == "answered NOT_SERVING"
        assert await serves(address, "x" * 255) == "answered NOT_FOUND"
        servicer.set("shop.Web", status.SERVING)
        assert await serves(address, "shop.Web") == ""
        servicer.set("shop.Web", status.UNKNOWN)
        assert await serves(address, "shop.Web") == "answered UNKNOWN"
        assert await answers(address, HttpCheck()) == "what it answers is not HTTP/1.1"

    run(main())


def test_a_grpc_server_without_the_service() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def main() -> None:
        assert (await serves(Address("127.0.0.1", port), "")).startswith("answered UNIMPLEMENTED")

    try:
        run(main())
    finally:
        server.stop(None).wait()


@pytest.mark.skipif(os.path.isdir(SYSTEMD), reason="this host was booted with systemd")
def test_a_host_without_systemd_has_no_units() -> None:
    assert run(is_active("web.service")) == "this host was not booted with systemd, so it has no units"


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program in the place of systemctl, on a host that is taken for one with systemd."""
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(probes, "SYSTEMCTL", str(program))
    monkeypatch.setattr(probes, "SYSTEMD", str(directory))


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ('[ "$5" = web.service ] && printf "LoadState=loaded\\nActiveState=active\\nSubState=running\\n"', ""),
        ('printf "LoadState=loaded\\nActiveState=failed\\nSubState=failed\\n"', "it is failed (failed)"),
        ("exit 1", "systemctl ended with status 1"),
        ("yes A=b | head -c 1000000", "systemctl does not say in what state it is"),
    ],
)
def test_what_systemctl_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, failure: str) -> None:
    stand_in(tmp_path, monkeypatch, script)
    assert run(is_active("web.service")) == failure


def test_systemctl_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid\nexec sleep 600")

    async def main() -> None:
        looking = asyncio.get_running_loop().create_task(is_active("web.service"))
        pid = await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it runs")
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        await eventually(lambda: not os.path.exists(f"/proc/{int(pid)}"), "it is no more")

    run(main())


def test_systemctl_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "")
    (tmp_path / "systemctl").unlink()
    assert run(is_active("web.service")) == "systemctl cannot be run: No such file or directory"


@pytest.mark.host
def test_the_state_of_a_unit() -> None:
    assert run(is_active("systemd-journald.service")) == ""
    assert run(is_active("meshd-no-such.service")) == "the unit is not-found"


# --- in an agent --------------------------------------------------------------------------------------------------

WEB = """\
apiVersion: meshd.io/v1
kind: Workload
metadata: {{name: web}}
spec:
  ports: [{{port: {port}, health: {{{check}, interval: 100ms, timeout: 50ms, unhealthyAfter: 2}}}}]
"""

BARE = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: web}}\nspec: {{ports: [{{port: {port}}}]}}\n"


class Watched:
    """An agent whose host's proxy is ready, and what it is told of `web`."""

    def __init__(self, agent: Agent, directory: Path, client: ControlClient) -> None:
        self.agent, self._documents, self._client = agent, directory / "conf.d", client
        self._watch = client.say(WatchDestination("web", "default"))

    @classmethod
    @asynccontextmanager
    async def over(cls, directory: Path, document: str) -> "AsyncIterator[Watched]":
        (directory / "conf.d").mkdir()
        (directory / "conf.d" / "web.yaml").write_text(document)
        async with local_agent(directory, ProxySettings(inbound="127.0.0.1:4143")) as agent:
            client = await ControlClient.connect(directory / "meshd.sock")
            assert isinstance(await client.call(Attach("")), ProxyConfiguration)
            client.say(ReportState(1, ()))
            yield cls(agent, directory, client)
            await client.close()

    def write(self, document: str) -> None:
        (self._documents / "web.yaml").write_text(document)

    @property
    def endpoints(self) -> int | None:
        """How many there are now; None: nothing was said yet."""
        heard = self._client.heard.get(self._watch)
        if not heard:
            return None
        answer = heard[-1]
        assert isinstance(answer, Destination)
        return None if answer.found is None else len(answer.found.endpoints)

    @property
    def said(self) -> list[int]:
        """How many there were, each time that something was said."""
        answers = self._client.heard.get(self._watch, [])
        return [len(each.found.endpoints) for each in answers if isinstance(each, Destination) and each.found]

    async def waits_for(self) -> tuple[str, ...]:
        status = await self._client.call(GetStatus())
        assert isinstance(status, Status)
        (workload,) = status.workloads
        return workload.waiting_for

    async def becomes(self, endpoints: int, waits_for: str = "") -> None:
        await eventually(lambda: self.endpoints == endpoints, f"{endpoints} endpoints")
        end = asyncio.get_running_loop().time() + 30.0
        while (said := await self.waits_for()) != ((waits_for,) if waits_for else ()):
            assert asyncio.get_running_loop().time() < end, said


@needs_nginx
def test_a_workload_is_announced_while_its_page_is_there(nginx: Nginx, tmp_path: Path) -> None:
    page, what = nginx.files / "well", f"GET http://127.0.0.1:{nginx.port}/well"

    async def main() -> None:
        async with Watched.over(tmp_path, WEB.format(port=nginx.port, check="http: {path: /well}")) as web:
            await web.becomes(0, f"{what} (Connection refused)")
            with nginx.running() as process:
                await web.becomes(0, f"{what} (answered 404, expected 200-399)")
                assert 1 not in web.said, "not before it is known to be well"
                page.write_text("yes")
                await web.becomes(1)
                page.unlink()
                await web.becomes(0, f"{what} (answered 404, expected 200-399)")
                page.write_text("yes")
                await web.becomes(1)
                process.send_signal(signal.SIGSTOP)
                try:
                    await web.becomes(0, f"{what} (no answer within 50ms)")
                    assert await accepts(Address("127.0.0.1", nginx.port)) == "", "the kernel does that for it"
                finally:
                    process.send_signal(signal.SIGCONT)
                await web.becomes(1)
            await web.becomes(0, f"{what} (Connection refused)")
            web.write(BARE.format(port=nginx.port))
            await web.becomes(1)
            (verdicts,) = [list(web.agent.health.verdicts())]
            assert verdicts == []

    run(main(), 240.0)


def test_the_kernel_accepts_for_a_process_and_grpc_is_asked(
    servicer: health.HealthServicer, grpc_port: int, tmp_path: Path
) -> None:
    status = health_pb2.HealthCheckResponse
    servicer.set("shop.Web", status.SERVING)
    what = f"gRPC health of 127.0.0.1:{grpc_port} shop.Web"

    async def main() -> None:
        document = WEB.format(port=grpc_port, check="grpc: {service: shop.Web}").replace("50ms", "100ms")
        async with Watched.over(tmp_path, document) as web:
            await web.becomes(1)
            servicer.set("shop.Web", status.NOT_SERVING)
            await web.becomes(0, f"{what} (answered NOT_SERVING)")
            web.write(WEB.format(port=grpc_port, check="tcp: {}"))
            await web.becomes(1)

    run(main(), 120.0)


def test_a_check_that_is_added_takes_nothing_out_before_it_fails(tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        async with Watched.over(tmp_path, BARE.format(port=port)) as web:
            await web.becomes(1)
            before = len(web.said)
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
            web.write(WEB.format(port=port, check="tcp: {}").replace("After: 2", "After: 20"))
            await eventually(lambda: [each.looks > 2 for each in web.agent.health.verdicts()] == [True], "looks")
            assert web.said[before:] == []
            server.close()
            await server.wait_closed()
            await web.becomes(0, f"connection to 127.0.0.1:{port} (Connection refused)")

    run(main(), 120.0)


class Silent:
    """A server that says nothing; how many are connected to it, and were at most."""

    def __init__(self) -> None:
        self.connected = self.most = 0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        self.most = max(self.most, self.connected)
        await reader.read()  # to its end
        self.connected -= 1
        writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Address]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        yield Address(*server.sockets[0].getsockname())
        server.close()


def test_not_everything_is_looked_at_at_once() -> None:
    """Each of many has its turn. A connection is seen to end a moment after the next began."""

    async def main() -> None:
        silent, monitor = Silent(), Monitor(Registry())
        async with silent.running() as address:
            health = PortHealth(http=HttpCheck(), interval="1h", timeout="300ms")
            names = (WorkloadName("default", f"w{number}") for number in range(4 * MAX_PORTS_AT_ONCE))
            monitor.use(Check(name, health, address) for name in names)
            await eventually(lambda: all(each.failures for each in monitor.verdicts()), "each was looked at", 60.0)
            await monitor.close()
        assert silent.most <= 3 * MAX_PORTS_AT_ONCE

    run(main())


def test_a_check_that_is_no_more_ends_at_once() -> None:
    async def main() -> None:
        silent, monitor = Silent(), Monitor(Registry())
        async with silent.running() as address:
            health = PortHealth(http=HttpCheck(), interval="1h", timeout="1h")
            monitor.use([Check(WorkloadName("default", "web"), health, address)])
            await eventually(lambda: silent.connected == 1, "it looks")
            monitor.use([])
            await eventually(lambda: silent.connected == 0, "it looks no more")
            await monitor.close()

    run(main())


@pytest.mark.skipif(os.path.isdir(SYSTEMD), reason="this host was booted with systemd")
def test_a_unit_on_a_host_without_systemd(tmp_path: Path) -> None:
    document = BARE.format(port=80).replace("spec: {", "spec: {health: {unit: web.service}, ")

    async def main() -> None:
        async with Watched.over(tmp_path, document) as web:
            await web.becomes(0, "unit web.service (this host was not booted with systemd, so it has no units)")

    run(main())
