"""Listeners for every address, by both families: daemons' sockets, and what the kernel shows of who connects."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from k8s.init.checking import check
from k8s.init.plan import PodPlan
from meshd.agent.calling import has_ipv6
from meshd.api.names import Address
from meshd.api.problems import Problem
from meshd.ca.listening import listen_at
from tests.support import aio, situations
from tests.support.machines.network import network
from tests.support.pods import ROOT
from tests.support.processes import running
from tests.support.waiting import wait_until

EVERYWHERE = Address("0.0.0.0", 0)
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")

LISTENING = """
import asyncio, json
from meshd.admin.page import Page
from meshd.admin.server import AdminServer
from meshd.api.names import Address
from meshd.ca.listening import listen_at

class Nothing:
    def collect(self):
        return iter(())

async def main():
    admin = AdminServer(Address("0.0.0.0", 0), Page(Nothing()), lambda: ())
    await admin.start()
    found = await listen_at(Address("0.0.0.0", 0), 1)
    print(json.dumps([admin.trouble, [each.getsockname()[0] for each in found]]))
    await admin.close()

asyncio.run(main())
"""

REDIRECTED = '''
import json, socket, subprocess
from proxy.capture.original import original_destination, plain

rules = """
table inet t {
    chain out {
        type nat hook output priority -100
        tcp dport 81 redirect to :4140
    }
}
"""
subprocess.run(["nft", "--file", "-"], input=rules, text=True, check=True)
listener = socket.create_server(("::", 4140), family=socket.AF_INET6, dualstack_ipv6=True)
found = []
for host, port in (("127.0.0.1", 81), ("::1", 81), ("127.0.0.1", 4140)):
    caller = socket.create_connection((host, port))
    accepted, _ = listener.accept()
    where = original_destination(accepted)
    is_caller = plain(accepted.getpeername()) == tuple(caller.getsockname()[:2])
    found.append([None if where is None else str(where), is_caller])
print(json.dumps(found))
'''


HOST = """
import asyncio, sys
from pathlib import Path
from meshd.agent.settings import ProxySettings
from tests.support.agents import local_agent

async def main():
    async with local_agent(Path(sys.argv[1]), ProxySettings(inbound="0.0.0.0:4143", admin="0.0.0.0:4191")):
        await asyncio.Event().wait()

asyncio.run(main())
"""


def sockets() -> set[str]:
    """This process's own."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that by which this is read
            found.add(os.readlink(each))
    return {each for each in found if each.startswith("socket:")}


def program(text: str, *within: str) -> list[object]:
    argv = [*within, sys.executable, "-P", "-c", text]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said: list[object] = json.loads(done.stdout)
    return said


@needs_ipv6
def test_each_family_has_a_socket_of_its_own_at_one_port() -> None:
    async def main() -> None:
        first, second = listeners = await listen_at(EVERYWHERE, 8)
        port = first.getsockname()[1]
        assert [each.getsockname()[:2] for each in listeners] == [("0.0.0.0", port), ("::", port)]
        assert second.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        loop = asyncio.get_running_loop()
        for host, listener in (("127.0.0.1", first), ("::1", second)):
            with socket.create_connection((host, port)):
                accepted, peer = await loop.sock_accept(listener)
                assert peer[0] == host  # and not ::ffff:127.0.0.1
                accepted.close()
        with pytest.raises(OSError, match="Address already in use"):
            await listen_at(Address("0.0.0.0", port), 8)
        for each in listeners:
            each.close()

    aio.run(main())


@needs_ipv6
def test_a_port_that_is_taken_in_the_other_family_is_not_half_listened_at() -> None:
    async def main() -> None:
        with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
            port = taken.getsockname()[1]
            before = sockets()
            with pytest.raises(OSError, match="Address already in use"):
                await listen_at(Address("0.0.0.0", port), 8)
            assert sockets() <= before, "that of IPv4 was let go of"

    aio.run(main())


@needs_ipv6
def test_one_address_is_listened_at_alone() -> None:
    async def main() -> None:
        for host in ("127.0.0.1", "::1", "::"):
            (only,) = await listen_at(Address(host, 0), 8)
            assert only.getsockname()[0] == host
            only.close()

    aio.run(main())


@needs_ipv6
def test_without_ipv6_it_is_ipv4_alone() -> None:
    assert program(LISTENING, *situations.denying("inet6")) == ["", ["0.0.0.0"]]
    assert program(LISTENING) == ["", ["0.0.0.0", "::"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace: needs root")
@pytest.mark.peer("nft", "ip", "nsenter")
def test_what_was_captured_is_known_by_a_listener_of_both_families() -> None:
    """One that was inherited may be such."""
    with network() as file:
        found = program(REDIRECTED, "nsenter", f"--net={file}")
    assert found == [["127.0.0.1:81", True], ["[::1]:81", True], [None, True]]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace: needs root")
@pytest.mark.peer("ip", "nsenter", "curl")
def test_a_host_that_gets_ipv6_later_is_called_by_it(tmp_path: Path) -> None:
    def answers(*url: str) -> bool:
        argv = [*within, "curl", "-sf", "--noproxy", "*", "--max-time", "10", *url]
        return subprocess.run(argv, capture_output=True, check=False, timeout=60).returncode == 0

    def switch(off: int) -> None:
        command = f"echo {off} > /proc/sys/net/ipv6/conf/all/disable_ipv6"
        subprocess.run([*within, "sh", "-c", command], check=True, timeout=60)

    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "web.yaml").write_text(
        "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\nspec: {ports: [{port: 8080}]}\n"
    )
    control = tmp_path / "meshd.sock"
    with network() as file, ExitStack() as held:
        within = ["nsenter", f"--net={file}"]
        switch(1)
        agent = [*within, sys.executable, "-c", HOST, str(tmp_path)]
        held.enter_context(running(agent, tmp_path / "agent.log", control.exists, cwd=ROOT))
        proxy = [*within, sys.executable, "-P", "-m", "proxy.main", "--control", str(control)]
        by_ipv4 = ("http://127.0.0.1:4191/ready",)
        held.enter_context(running(proxy, tmp_path / "proxy.log", lambda: answers(*by_ipv4)))
        assert not answers("http://[::1]:4191/ready")
        switch(0)
        wait_until(lambda: answers("http://[::1]:4191/ready"), "the admin port answers by IPv6", 60.0)
        peer = ("--insecure", "--output", "/dev/null", "telnet://[::1]:4143", "--max-time", "5")
        listening = subprocess.run(
            [*within, "curl", "-sv", *peer], capture_output=True, text=True, check=False, timeout=60
        )
        assert "Connected to" in listening.stderr
        assert answers(*by_ipv4)


@needs_ipv6
def test_somebody_at_the_port_by_ipv6_is_not_taken_for_there_being_none() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Problem, match=rf"whether connections are led to ::1:{port}: Address already in use"):
            check(PodPlan(outbound_port=port), 0.0)
