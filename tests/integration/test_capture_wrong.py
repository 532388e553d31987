"""Capture on hosts that lack something for it, or where something happens to it midway, each made for real: the agent
says so in one line, rules are whole or not there, `meshd check` says what to do, and the next start puts it right."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from meshd.ca.local import LocalCa
from tests.integration.test_capture_agent import WORKLOAD, written
from tests.support import situations
from tests.support.captures import Host, host
from tests.support.joined import PROXY, Checks, checked, wrong
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")

MESHD = (sys.executable, "-P", "-m", "meshd.cli")

SLOW = r"""#!/bin/sh
# The real program, which waits before it changes anything for as long as there is no file `go`.
case "$*" in
*--check*) ;;
*--file*)
    cat >DIRECTORY/text && touch DIRECTORY/begun
    until [ -e DIRECTORY/go ]; do sleep 0.05; done
    exec DIRECTORY/real-nft "$@" <DIRECTORY/text ;;
esac
exec DIRECTORY/real-nft "$@"
"""


class World(NamedTuple):
    """A host, and an agent's settings whose CA is away, with the workload web."""

    here: Host
    config: Path

    def argv(self, *within: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.here.inside}/ns/net", *within]

    @contextmanager
    def agent(self, *within: str) -> Iterator["subprocess.Popen[bytes]"]:
        log = self.config.with_suffix(".log")
        before = self.log().count("answers at")
        argv = self.argv(*within, *MESHD, "agent", "--config", str(self.config))
        with running(argv, log, lambda: self.log().count("answers at") > before) as process:
            yield process

    def log(self) -> str:
        file = self.config.with_suffix(".log")
        return file.read_text() if file.exists() else ""

    def said(self) -> list[str]:
        """What the agent complains of, but for the CA."""
        lines = (line for line in self.log().splitlines() if " error " in line or " warning " in line)
        return [line for line in lines if "capture" in line]

    def check(self, *within: str) -> Checks:
        return checked(*self.argv(*within, *MESHD, "check", "--config", str(self.config)))[1]

    def captures(self, port: int) -> None:
        (self.config.parent / "conf.d" / "web.yaml").write_text(WORKLOAD.format(port=port))

    def shows(self) -> str:
        argv = self.argv(*MESHD, "capture", "show", "--config", str(self.config))
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100).stdout.split("\n")[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with host(tmp_path) as here:
        LocalCa.at(tmp_path / "ca", "mesh.local").close()
        (tmp_path / "token").write_text("token\n")
        (tmp_path / "conf.d").mkdir()
        made = World(here, written(here, tmp_path))
        made.captures(8080)
        yield made


class Lack(NamedTuple):
    made: Callable[[Path], tuple[str, ...]]
    message: str
    hint: str


LACKS = {
    "no nft": Lack(lambda _: situations.no_nft(), "there is no program `nft` here", "apt install nftables"),
    "no netfilter": Lack(lambda _: situations.no_netfilter(), "Protocol not supported", "a kernel of 5.13"),
    "no socket match": Lack(situations.no_socket_match, "Could not process rule", "a kernel of 5.13"),
    "nft may not be run": Lack(lambda _: situations.nft_denied(), "cannot be run: Permission denied", "journalctl -k"),
}


@pytest.mark.parametrize("lack", LACKS.values(), ids=LACKS.keys())
def test_what_the_kernel_does_not_take_is_said_once_and_nothing_is_half_there(
    world: World, tmp_path: Path, lack: Lack
) -> None:
    within, before = lack.made(tmp_path), world.here.ruleset()
    with world.agent(*within):
        wait_until(world.said, "the agent has said so")
        world.captures(8081)
        checks = world.check(*within)
        assert world.here.ruleset() == before
        assert len(world.said()) == 1, world.said()
    assert lack.message in world.said()[0]
    assert lack.message in wrong(checks)["rules"]
    assert lack.hint in checks["rules"]["hint"]
    assert lack.message in wrong(checks)["agent-complaints"]
    with world.agent():
        assert world.shows() == "state:      in force"


def test_control_groups_of_version_1_alone(world: World) -> None:
    within = situations.cgroups_of_version_1_alone()
    with world.agent(*within):
        checks = world.check(*within)
        said = world.said()
    assert len(said) == 1, said
    assert "no control groups of version 2" in said[0]
    assert "there are none at /sys/fs/cgroup" in wrong(checks)["cgroups"]
    assert "systemd.unified_cgroup_hierarchy=1" in checks["cgroups"]["hint"]
    assert "slice" not in checks  # which nobody could start


def test_a_host_whose_ipv6_is_off(world: World) -> None:
    world.here.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    within = situations.denying("inet6")
    argv = world.argv(*within, *PROXY, "--control", str(world.config.parent / "meshd.sock"))
    (world.config.parent / "conf.d" / "web.yaml").unlink()  # it could have no certificate
    with world.agent(*within), running(argv, world.config.with_name("proxy.log"), lambda: True):
        wait_until(lambda: world.check(*within).get("proxy-ready", {}).get("result") == "success", "the proxy is ready")
        assert world.shows() == "state:      in force"
        assert world.said() == []


@pytest.mark.parametrize("goes_on", [False, True], ids=["with its nft", "alone"])
def test_an_agent_that_is_killed_while_it_changes_rules(world: World, tmp_path: Path, goes_on: bool) -> None:
    """The kernel has the table of before, or the one of after when nft outlives it; the next agent has it right."""
    within, go, begun = slow(tmp_path), tmp_path / "go", tmp_path / "begun"
    go.touch()
    with world.agent(*within) as agent:
        before = world.here.ruleset()
        assert "dport 8080 " in before
        begun.unlink()
        go.unlink()
        world.captures(8081)
        wait_until(begun.exists, "it changes the rules")
        (nft,) = children(agent.pid)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        assert world.here.ruleset() == before
        if goes_on:
            go.touch()
            wait_until(lambda: "dport 8081 " in world.here.ruleset(), "nft has done it")
            assert "dport 8080 " not in world.here.ruleset()
            assert world.shows() == "state:      in force"
        else:
            subprocess.run(["kill", "-KILL", str(nft)], check=True)
            assert world.here.ruleset() == before
            assert world.shows() == "state:      in force, but not as configured"
            found = wrong(world.check())
            assert found["rules"] == "the table inet meshd is another one"
    with world.agent():
        assert world.shows() == "state:      in force"
        assert "dport 8081 " in world.here.ruleset()


def slow(directory: Path) -> tuple[str, ...]:
    real, script = directory / "real-nft", directory / "nft"
    real.write_bytes(Path(situations.nft()).read_bytes())
    script.write_text(SLOW.replace("DIRECTORY", str(directory)))
    for each in (real, script):
        each.chmod(0o755)
    return situations.mounting(f"mount --bind {script} {situations.nft()}")


def children(pid: int) -> list[int]:
    """Of any thread of it."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for file in found for each in file.read_text().split()]


def test_what_runs_in_the_slice_under_another_name_is_no_workload(world: World) -> None:
    for name in ("web.service", "renamed.service"):
        world.here.group(name)
    with world.agent(), held(world, "web.service"):
        assert world.check()["strangers"]["result"] == "success"
        with held(world, "renamed.service"):
            checks = world.check()
    assert wrong(checks)["strangers"].startswith(f"/{world.here.slice}/renamed.service: its connections are captured")
    assert "meshd uninject OLD" in checks["strangers"]["hint"]


@contextmanager
def held(world: World, group: str) -> Iterator[None]:
    """While a process runs in the control group."""
    path = world.here.group(group)
    argv = ["/bin/sh", "-c", f"echo $$ > {path}/cgroup.procs && exec sleep infinity"]
    with running(
        argv, world.config.with_name("held.log"), lambda: "populated 1" in (path / "cgroup.events").read_text()
    ):
        yield


@pytest.mark.parametrize("names", [("127.0.0.1", 4153), ("127.0.0.53", 53)], ids=["4153", "53"])
def test_who_has_each_of_the_usual_ports_is_named(world: World, names: tuple[str, int]) -> None:
    """The agent goes on without the two that are its own, and says of each that it does; capture is in force."""
    places = (("127.0.0.1", 4140), ("0.0.0.0", 4143), ("127.0.0.1", 4191), ("127.0.0.1", 4192), names)
    text = world.config.read_text().replace('admin: ""', 'admin: "127.0.0.1:4192"')
    world.config.write_text(f'{text}names: {{listen: "{names[0]}:{names[1]}"}}\n')
    with world.here.serving("thief", *places), world.agent():
        checks = world.check()
        assert world.shows() == "state:      in force"
    found = {each["description"]: each for each in checks.values() if each["id"] == "port"}
    for host_, port in places:
        each = found[f"nobody else has the port {port}"]
        assert each["error"].startswith(f"{host_}:{port}: python")
        assert "(pid " in each["error"]
        assert each["hint"].startswith("end it, or have it listen elsewhere")
    for place in places[3:]:
        said = [line for line in world.log().splitlines() if " error " in line and f"{place[0]}:{place[1]}" in line]
        assert len(said) == 1, said
        assert f"{place[0]}:{place[1]}" in wrong(checks)["agent-complaints"]
