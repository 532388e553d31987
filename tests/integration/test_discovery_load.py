"""A host on a registry that changes, goes away and comes back, while its proxy carries requests: none of them fails.

Agent, proxy, CA and registry are processes; the endpoints are applications that count what they are asked.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.test_agent_process import Host
from tests.integration.test_proxy_process import Load, get, ready
from tests.support.backends import Backend, Kind
from tests.support.meshed import status
from tests.support.ports import free_ports
from tests.support.processes import running
from tests.support.waiting import wait_until

PROXY = [sys.executable, "-m", "proxy.main"]

WITHIN_S = 90.0


class Application(ThreadingHTTPServer):
    """An endpoint. `answered` is how many requests it had."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.port = self.server_address[1]
        self.answered = 0

    def asked_again(self) -> None:
        """Wait until it had another request."""
        before = self.answered
        wait_until(lambda: self.answered > before, f"the application at {self.port} is asked", WITHIN_S)

    def asked_no_more(self) -> None:
        """Wait until it has had no request for a while."""
        seen = [self.answered, 0]

        def still() -> bool:
            seen[:] = [self.answered, seen[1] + 1 if seen[0] == self.answered else 0]
            return seen[1] > 100

        wait_until(still, f"the application at {self.port} is asked no more", WITHIN_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Application

    def do_GET(self) -> None:
        self.server.answered += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@contextmanager
def applications(count: int, address: str = "127.0.0.1") -> Iterator[list[Application]]:
    try:
        servers = [Application(address) for _ in range(count)]
    except OSError:
        pytest.skip("this machine has no address but those of loopback, which the registry refuses")
    threads = [threading.Thread(target=each.serve_forever, args=(0.01,)) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield servers
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class World:
    """A host whose services are the backend's, and its proxy, which serves the workload `caller`."""

    def __init__(self, directory: Path, backend: Backend) -> None:
        self.host = Host(directory)
        self._log = directory / "proxy.log"
        outbound, inbound, self._admin, self.upstream = free_ports(4)
        settings = self.host.settings.read_text()
        listens = f'outbound: "127.0.0.1:{outbound}", inbound: "127.0.0.1:{inbound}", admin: "127.0.0.1:{self._admin}"'
        settings = settings.replace('inbound: "0.0.0.0:4143"', listens)
        settings = settings.replace("discovery: [{", f"discovery: [{json.dumps(backend.settings)}, {{")
        self.host.settings.write_text(settings)
        self.host.documents.joinpath("caller.yaml").write_text(
            "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: caller}\n"
            f"spec: {{upstreams: [{{service: {backend.authority}, listen: '127.0.0.1:{self.upstream}'}}]}}\n"
        )
        self._agent = ExitStack()

    @contextmanager
    def runs(self) -> Iterator["World"]:
        with self._agent, self.host.ca_serves():
            self.start_agent()
            with self.proxy():
                yield self

    @contextmanager
    def proxy(self) -> Iterator[None]:
        argv = [*PROXY, "--control", str(self.host.socket)]
        with running(argv, self._log, lambda: ready(self._admin), deadline_s=WITHIN_S):
            yield

    def start_agent(self) -> None:
        self.process = self._agent.enter_context(self.host.agent())

    def kill_agent(self) -> None:
        self.process.kill()
        self.process.wait()
        self._agent.close()

    def stale(self, name: str) -> bool:
        """Whether the status says that a back end cannot be read."""
        return any(
            each["name"].startswith(name) and not each["healthy"] for each in status(self.host.socket)["discovery"]
        )


def test_no_request_fails_whatever_becomes_of_the_registry(backend: Backend, kind: Kind, tmp_path: Path) -> None:
    (name,) = backend.settings
    with applications(3, backend.address) as (one, two, three):
        backend.serve(one.port, two.port)
        with World(tmp_path, backend).runs() as world, Load(world.upstream, 4) as load:
            one.asked_again()
            two.asked_again()
            backend.serve(one.port, two.port, three.port)
            three.asked_again()
            backend.serve(two.port, three.port)
            one.asked_no_more()
            backend.goes()
            wait_until(lambda: world.stale(name), "the status says that it is away", WITHIN_S)
            load.more(200)
            if kind.doubts:
                world.kill_agent()
                load.more(200)
                world.start_agent()
                wait_until(lambda: world.stale(name), "the new one sees that it is away", WITHIN_S)
            two.asked_again()
            three.asked_again()
            backend.returns()
            backend.serve(one.port)
            one.asked_again()
            two.asked_no_more()
            three.asked_no_more()
            wait_until(lambda: not world.stale(name), "the status says that it is back", WITHIN_S)
            load.more(50)
            load.end()
            assert load.errors == []


def test_a_host_that_starts_while_the_registry_is_away_reaches_what_it_knew(
    backend: Backend, kind: Kind, tmp_path: Path
) -> None:
    with applications(1, backend.address) as (one,):
        backend.serve(one.port)
        world = World(tmp_path, backend)
        with world.runs():
            wait_until(lambda: get(world.upstream, "/")[0] == 200, "it is reached", WITHIN_S)
        backend.goes()
        with world.runs():
            if kind.doubts:
                wait_until(lambda: get(world.upstream, "/")[0] == 200, "it is reached", WITHIN_S)
            else:
                assert get(world.upstream, "/")[0] == 503, "what is at hand is not kept elsewhere"
