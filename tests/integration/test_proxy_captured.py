"""Connections that nftables redirects, in a network namespace of the test's own: one proxy, an agent, real processes in
control groups of their own."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from meshd.agent.settings import CaptureSettings, ProxySettings
from tests.support import aio
from tests.support.agents import local_agent
from tests.support.cgroups import cgroups, inside
from tests.support.processes import running

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace and control groups: needs root"),
    pytest.mark.peer("nft", "ip", "nsenter"),
]

CLONE_NEWNET = 0x40000000
NAMESPACE = f"meshd-captured-{os.getpid()}"
DOCUMENT = """
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: %s}
spec:
  ports: [%s]
  selectors: [{cgroup: %s}]
"""

CAPTURED = """
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: captured}
spec: {ports: [], capture: {}}
"""
"""As long as there is such a document, connections are told apart."""

APPLICATION = """
import http.server, json, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
Server((sys.argv[1], int(sys.argv[2])), Answer).serve_forever()
"""
"""Answers with the fields that it was asked with."""

GREETER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listening:
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"220 welcome\\r\\n")
            connection.sendall(b"heard " + connection.recv(100))
"""
"""Speaks first."""

ASK = """
import http.client, sys
source = (sys.argv[3], 0) if len(sys.argv) > 3 else None
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60, source_address=source)
connection.request("GET", "/", headers={"host": "elsewhere.example", "l5d-client-id": "spiffe://forged"})
print(connection.getresponse().read().decode())
"""

HEAR = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    heard = connection.recv(100)
    connection.sendall(b"me")
    while data := connection.recv(100):
        heard += data
print(heard)
"""

TUNNEL = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    connection.sendall(b"CONNECT there:1 HTTP/1.1\\r\\nhost: there:1\\r\\n\\r\\n")
    print(connection.recv(1000))
"""

TWICE = """
import http.client, socket
def connected(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", 50000))
    made.settimeout(60)
    made.connect(("127.0.0.1", port))
    return made
def ask(made, port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = made
    connection.request("GET", "/", headers={"host": "elsewhere.example"})
    print(connection.getresponse().read().decode())
first, second = connected(9001), connected(9000)
ask(first, 9001)
ask(second, 9000)
"""
"""Has two connections from one port."""

MANY = """
import os, pathlib, socket, ssl, sys
until, count = pathlib.Path(sys.argv[1]), 0
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["meshd/1"])
while not until.exists() or count < 20:
    with socket.create_connection(("127.0.0.1", 4140), timeout=60) as made:
        made.sendall(b"GET http://echo.mesh/ HTTP/1.1\\r\\nhost: echo.mesh\\r\\nconnection: close\\r\\n\\r\\n")
        answer = made.makefile("rb").readline()
        assert b" 403 " in answer, answer  # of several workloads none can be meant
    with socket.create_connection(("127.0.0.1", 4143), timeout=60) as made:
        with context.wrap_socket(made, server_hostname="echo.default.sa.mesh.local") as secured:
            assert secured.selected_alpn_protocol() == "meshd/1"
    count += 1
print(count)
"""
"""Connects to the listeners themselves, again and again until there is a file."""

SCRAPE = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 4191, timeout=60)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""

TABLE = """
table inet captured {
    chain output {
        type nat hook output priority -100;
        socket cgroupv2 level 1 "%s" meta l4proto tcp redirect to :4140
        ip saddr 10.77.0.2 tcp dport 9000-9010 redirect to :4143
    }
}
"""


def within(*argv: str) -> list[str]:
    """The command line that runs argv in the namespace, where /sys stays as it is (`ip netns exec` mounts another)."""
    return ["nsenter", f"--net=/run/netns/{NAMESPACE}", *argv]


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


@contextmanager
def namespace(slice_: Path) -> Iterator[None]:
    """A network of its own, in which what processes of the slice send is redirected."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    made = subprocess.run(["ip", "netns", "add", NAMESPACE], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr}")
    try:
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        ip("-n", NAMESPACE, "address", "add", "10.77.0.1/32", "dev", "lo")
        ip("-n", NAMESPACE, "address", "add", "10.77.0.2/32", "dev", "lo")
        ip("-n", NAMESPACE, "route", "add", "240.0.0.0/4", "dev", "lo")
        path = str(slice_.relative_to("/sys/fs/cgroup"))
        table = TABLE % path
        loaded = subprocess.run(within("nft", "-f", "-"), input=table, capture_output=True, text=True, check=False)
        if loaded.returncode:
            pytest.skip(f"connections cannot be redirected by control group here: {loaded.stderr}")
        yield
    finally:
        enter(before)
        os.close(before)
        ip("netns", "delete", NAMESPACE)


class World:
    """The processes of a test; `groups` are control groups by name."""

    def __init__(self, directory: Path, groups: dict[str, Path]) -> None:
        self.directory, self.groups = directory, groups

    async def run(self, group: str, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A program, as a process of that group; of none where it is empty."""
        argv = within(sys.executable, "-P", "-c", program, *arguments)
        if group:
            argv = inside(self.groups[group], *argv)
        return await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, check=False, timeout=90, cwd="/"
        )

    async def asked(self, group: str, *arguments: str) -> dict[str, str]:
        """The fields that an application got of a request."""
        done = await self.run(group, ASK, *arguments)
        assert done.returncode == 0, done.stderr
        fields: dict[str, str] = json.loads(done.stdout)
        return fields

    async def broken(self, group: str, *arguments: str) -> str:
        """How a request ended that got no answer."""
        done = await self.run(group, ASK, *arguments)
        assert done.returncode == 1, done.stdout
        return done.stderr.splitlines()[-1]

    async def metrics(self) -> str:
        return (await self.run("", SCRAPE)).stdout


@asynccontextmanager
async def world(directory: Path, capture: CaptureSettings, groups: dict[str, Path]) -> AsyncIterator[World]:
    """One proxy, for `web`, `jobs` and `echo`, and applications: two of `echo`, and others outside the mesh."""
    settings = ProxySettings(outbound="127.0.0.1:4140", inbound="0.0.0.0:4143", admin="127.0.0.1:4191")
    started = World(directory, groups)
    async with local_agent(directory, settings, capture=capture):
        enter_the_namespace()  # the agent asks what is tracked there
        with ExitStack() as processes:
            for name, program, where in (
                ("echo", APPLICATION, ("0.0.0.0", "9000")),
                ("echo-local", APPLICATION, ("127.0.0.1", "9001")),
                ("outside", APPLICATION, ("10.77.0.1", "9100")),
                ("outside6", APPLICATION, ("::1", "9100")),
                ("greeter", GREETER, ("10.77.0.1", "25")),
            ):
                argv = within(sys.executable, "-P", "-c", program, *where)
                await asyncio.to_thread(
                    processes.enter_context, running(argv, directory / f"{name}.log", lambda: True, cwd=Path("/"))
                )
            argv = within(sys.executable, "-P", "-m", "proxy.main", "--control", str(directory / "meshd.sock"))
            ready = within(sys.executable, "-P", "-c", READY)
            await asyncio.to_thread(
                processes.enter_context,
                running(argv, directory / "proxy.log", lambda: subprocess.run(ready, check=False).returncode == 0),
            )
            yield started


def enter(network: int) -> None:
    """Be in the network namespace of that descriptor from now on: this thread, and those that it starts."""
    if ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def enter_the_namespace() -> None:
    with open(f"/run/netns/{NAMESPACE}", "rb") as network:
        enter(network.fileno())


READY = """
import http.client, sys
try:
    connection = http.client.HTTPConnection("127.0.0.1", 4191, timeout=60)
    connection.request("GET", "/ready")
    sys.exit(connection.getresponse().status != 200)
except OSError:
    sys.exit(1)
"""


@contextmanager
def stage(directory: Path) -> Iterator[dict[str, Path]]:
    """The namespace, the control groups and the documents."""
    names = ("web.service", "jobs.service", "echo.service", "other.service")
    with cgroups(*names) as made, namespace(made[0].parent):
        groups = {group.name.removesuffix(".service"): group for group in made}
        documents = directory / "conf.d"
        documents.mkdir()
        (documents / "captured.yaml").write_text(CAPTURED)
        for name in ("web", "jobs", "echo"):
            ports = "{port: 9000}, {port: 9001}" if name == "echo" else ""
            path = f"/{groups[name].parent.name}/{groups[name].name}"
            (documents / f"{name}.yaml").write_text(DOCUMENT % (name, ports, path))
        yield groups


def identity(name: str) -> str:
    return f"spiffe://mesh.local/ns/default/sa/{name}"


def test_each_process_calls_as_the_workload_that_it_is(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True), groups) as running_:
            web = await running_.asked("web", "127.0.0.1", "9000")
            assert web["l5d-client-id"] == identity("web")
            assert web["host"] == "elsewhere.example"  # which decides nothing
            jobs = await running_.asked("jobs", "127.0.0.1", "9000")
            assert jobs["l5d-client-id"] == identity("jobs")
            assert "reset" in await running_.broken("other", "127.0.0.1", "9000")

            outside = await running_.asked("web", "10.77.0.1", "9100")
            assert outside["host"] == "elsewhere.example"
            assert "l5d-client-id" not in outside
            assert "l5d-client-id" not in await running_.asked("web", "::1", "9100")
            heard = await running_.run("web", HEAR, "10.77.0.1", "25")
            assert heard.stdout == "b'220 welcome\\r\\nheard me'\n", heard.stderr
            tunnel = await running_.run("web", TUNNEL, "10.77.0.1", "9100")
            assert "501" in tunnel.stdout, tunnel.stderr  # the server's own answer, which is no proxy

            page = await running_.metrics()
            assert 'outbound_tcp_errors_total{error="unknown caller"} 1' in page
            assert 'meshd_caller_lookups_total{result="found"}' in page
            assert 'meshd_caller_lookups_total{result="failed"} 0' in page
            assert 'workload="default/web"' in page
            assert 'workload="default/jobs"' in page

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_connections_are_told_apart_while_there_is_somebody_to_capture_and_none_is_lost(tmp_path: Path) -> None:
    captured, put_by, enough = tmp_path / "conf.d" / "captured.yaml", tmp_path / "captured", tmp_path / "enough"

    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True), groups) as running_:

            async def told_apart() -> bool:
                return identity("web") in (await running_.run("web", ASK, "127.0.0.1", "9000")).stdout

            many = asyncio.get_running_loop().create_task(running_.run("", MANY, str(enough)))
            assert await told_apart()
            for _ in range(3):
                captured.rename(put_by)
                while await told_apart():
                    assert not many.done(), many.result()
                put_by.rename(captured)
                while not await told_apart():
                    assert not many.done(), many.result()
            enough.touch()
            done = await many
            assert done.returncode == 0, done.stderr
            assert int(done.stdout) >= 20

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_two_connections_from_one_port_are_told_apart(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True), groups) as running_:
            done = await running_.run("web", TWICE)
            assert done.returncode == 0, done.stderr
            assert [json.loads(line)["l5d-client-id"] for line in done.stdout.splitlines()] == [identity("web")] * 2
            page = await running_.metrics()
            assert 'meshd_caller_lookups_total{result="unknown"} 1' in page  # at first

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_the_proxys_own_listener_is_no_place_to_go(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True), groups) as running_:
            for where in (("127.0.0.1", "4140"), ("127.0.0.1", "4143"), ("10.77.0.1", "4143")):
                done = await running_.run("web", ASK, *where)
                assert identity("web") not in done.stdout
                assert "elsewhere" not in done.stdout
            assert (await running_.asked("web", "127.0.0.1", "9000"))["l5d-client-id"] == identity("web")

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_who_is_no_workload_is_passed_on_in_plain_text_where_that_is_set(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True, unknown="pass"), groups) as running_:
            other = await running_.asked("other", "127.0.0.1", "9000")
            assert other["l5d-client-id"] == "spiffe://forged"  # nothing of it was looked at
            assert "reset" in await running_.broken("other", "240.0.0.1", "80")
            assert (await running_.asked("web", "127.0.0.1", "9000"))["l5d-client-id"] == identity("web")

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_callers_outside_the_mesh_reach_what_they_would_without_it(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True), groups) as running_:
            plain = await running_.asked("", "10.77.0.1", "9000", "10.77.0.2")
            assert plain["host"] == "elsewhere.example"
            assert "l5d-client-id" not in plain
            loopback = await running_.run("", ASK, "10.77.0.1", "9001", "10.77.0.2")  # where nobody listens
            assert "elsewhere.example" not in loopback.stdout
            assert (await running_.asked("", "127.0.0.1", "9001"))["host"] == "elsewhere.example"
            await running_.broken("", "10.77.0.1", "9002", "10.77.0.2")  # which nobody declares
            page = await running_.metrics()
            assert 'no_tls_reason="no_tls_from_remote"' in page
            counted = [
                line for line in page.splitlines() if line.startswith("request_total{") and "no_tls_from" in line
            ]
            assert counted

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)


def test_callers_outside_the_mesh_are_denied_where_that_is_set(tmp_path: Path) -> None:
    async def main(groups: dict[str, Path]) -> None:
        async with world(tmp_path, CaptureSettings(enabled=True, unmeshed="deny"), groups) as running_:
            assert "reset" in await running_.broken("", "10.77.0.1", "9000", "10.77.0.2")
            assert (await running_.asked("web", "127.0.0.1", "9000"))["l5d-client-id"] == identity("web")
            assert 'inbound_tcp_errors_total{error="unmeshed caller"} 1' in await running_.metrics()

    with stage(tmp_path) as groups:
        aio.run(main(groups), deadline_s=300)
