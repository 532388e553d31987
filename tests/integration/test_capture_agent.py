"""Capture kept in force by a real agent, and `meshd capture`, on a host of the test's own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.ca.local import LocalCa
from tests.support.captures import PROXY_USER, Host, host
from tests.support.processes import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.peer("nft", "ip", "nsenter", "unshare", "setpriv")

MESHD = (sys.executable, "-m", "meshd.cli")

WORKLOAD = """
apiVersion: meshd.io/v1
kind: Workload
metadata: {{name: web}}
spec:
  ports: [{{port: {port}}}]
  selectors: [{{unit: web.service}}]
  capture: {{}}
"""

OVERTAKEN = """
import asyncio
from meshd.capture import nft
from meshd.capture.keeper import Keeper
from meshd.capture.plan import Plan, listener
plan = Plan(listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), exempt=(1,), ports=(8080,))
class Overtaken:
    left = 1
    remove, in_force, generation = staticmethod(nft.remove), staticmethod(nft.in_force), staticmethod(nft.generation)
    def apply(self, text, *, check=False):
        nft.apply(text)
        if self.left:
            self.left -= 1
            nft.apply("flush chain inet meshd captured")
asyncio.run(Keeper(lambda is_open: lambda: (plan, ()), rules=Overtaken()).look())
"""
"""Puts a table in force, and somebody else flushes a chain of it before it is looked at."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


@pytest.fixture
def config(here: Host, tmp_path: Path) -> Path:
    """Settings of an agent whose CA is away, with a directory of documents."""
    LocalCa.at(tmp_path / "ca", "mesh.local").close()
    (tmp_path / "token").write_text("token\n")
    (tmp_path / "conf.d").mkdir()
    return written(here, tmp_path)


def written(here: Host, directory: Path, capture: str = "") -> Path:
    file = directory / "meshd.yaml"
    file.write_text(f"""
trustDomain: mesh.local
node: vm1
stateDir: {directory / "state"}
socket: {directory / "meshd.sock"}
admin: ""
ca: {{url: "https://127.0.0.1:9", bundle: {directory / "ca" / "bundle.pem"}, tokenFile: {directory / "token"}}}
discovery: [{{file: {{path: {directory / "conf.d"}}}}}]
workloadApi: {{enabled: false}}
capture: {{slice: {here.slice}, exemptUsers: [{PROXY_USER}]{capture}}}
""")
    return file


def meshd(here: Host, *arguments: str) -> tuple[int, str]:
    """The status and the output of the command on the host."""
    argv = ["nsenter", f"--net=/proc/{here.inside}/ns/net", *MESHD, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, done.stdout + done.stderr


def shown(here: Host, config: Path) -> dict[str, object]:
    status, output = meshd(here, "capture", "show", "--config", str(config), "-o", "json")
    found: dict[str, object] = json.loads(output)
    assert (status == 0) == found["as_configured"]
    return found


@contextmanager
def agent(here: Host, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = ["nsenter", f"--net=/proc/{here.inside}/ns/net", *MESHD, "agent", "--config", str(config)]
    log = config.with_suffix(".log")
    before = log.read_text().count("answers at") if log.exists() else 0
    with running(argv, log, lambda: log.read_text().count("answers at") > before) as process:
        yield process


def test_a_person_applies_and_removes_it(here: Host, config: Path) -> None:
    before, option = here.ruleset(), ("--config", str(config))
    assert shown(here, config)["state"] == "not in force"
    assert meshd(here, "capture", "apply", *option) == (0, "inet meshd is in force\n")
    during = here.ruleset()
    assert meshd(here, "capture", "apply", *option) == (0, "inet meshd is in force already\n")
    assert here.ruleset() == during
    assert shown(here, config)["state"] == "in force"
    (config.parent / "conf.d" / "web.yaml").write_text(WORKLOAD.format(port=8080))
    assert shown(here, config)["state"] == "in force, but not as configured"
    assert meshd(here, "capture", "apply", *option) == (0, "inet meshd is in force\n")
    assert shown(here, config)["inbound_ports"] == [8080]
    assert meshd(here, "capture", "remove", *option) == (0, "inet meshd is removed\n")
    assert here.ruleset() == before
    assert meshd(here, "capture", "remove", *option) == (0, "there is no inet meshd\n")


def test_connections_are_counted(here: Host, config: Path) -> None:
    web = here.group("web.service")
    meshd(here, "capture", "apply", "--config", str(config))
    for _ in range(3):
        here.call("198.51.100.7", 80, within=web)  # nobody listens at the proxy's place, and that is refused
    connections = shown(here, config)["connections"]
    assert isinstance(connections, dict)
    assert connections["outbound"] == 3
    status, text = meshd(here, "capture", "show", "--config", str(config))
    assert status == 0
    assert text.splitlines()[0] == "state:      in force"


def test_an_agent_has_it_in_force_when_it_is_ready_and_leaves_it(here: Host, config: Path) -> None:
    before = here.ruleset()
    with agent(here, config) as process:
        assert shown(here, config)["state"] == "in force"
        status, output = meshd(here, "capture", "remove", "--config", str(config))
        assert status == 1
        assert "would put it back" in output
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert shown(here, config)["state"] == "in force"
    with agent(here, config):
        assert shown(here, config)["state"] == "in force"
    assert meshd(here, "capture", "remove", "--config", str(config))[0] == 0
    assert here.ruleset() == before


def test_an_agent_that_is_to_end_capture_does(here: Host, config: Path) -> None:
    before = here.ruleset()
    written(here, config.parent, ", removeOnStop: true")
    with agent(here, config):
        assert shown(here, config)["state"] == "in force"
    assert here.ruleset() == before


def test_documents_are_followed_and_what_others_do_is_undone(here: Host, config: Path) -> None:
    said = config.with_suffix(".log")

    def settled(times: int) -> None:
        """It was put in force so many times, and found to be so."""
        wait_until(lambda: said.read_text().count("capture is in force") == times, f"in force, time {times}")

    with agent(here, config):
        settled(1)
        for times, port in ((2, 8080), (3, 8081)):
            (config.parent / "web.yaml").write_text(WORKLOAD.format(port=port))
            (config.parent / "web.yaml").rename(config.parent / "conf.d" / "web.yaml")
            settled(times)
            assert f"dport {port} " in here.ruleset()
        as_it_is = here.ruleset()
        for times, others in ((4, "flush ruleset"), (5, "flush chain inet meshd captured")):
            here.run("nft", *others.split())
            settled(times)
            assert here.ruleset() == as_it_is
    assert "was removed by somebody else" in said.read_text()
    assert "was changed by somebody else" in said.read_text()


def test_what_others_do_in_the_very_moment_is_undone_too(here: Host) -> None:
    before = here.ruleset()
    here.run(sys.executable, "-P", "-c", OVERTAKEN)
    captured = here.run("nft", "list", "chain", "inet", "meshd", "captured")
    assert "redirect to :4140" in captured
    here.run("nft", "delete", "table", "inet", "meshd")
    assert here.ruleset() == before


def test_a_slice_that_comes_later_or_is_made_anew_is_captured(here: Host, config: Path) -> None:
    here.clean()
    try:
        with agent(here, config):
            assert shown(here, config)["state"] == "nobody to capture"
            for _ in range(2):
                web = here.group("web.service")
                wait_until(lambda: shown(here, config)["state"] == "in force", "the slice is captured")
                assert here.call("198.51.100.7", 80, within=web) == "ECONNREFUSED"  # by the proxy's place
                here.clean()
                wait_until(lambda: shown(here, config)["state"] == "nobody to capture", "the slice is gone")
    finally:
        here.group("")


def test_it_opens_while_there_is_no_proxy_where_it_is_to(here: Host, config: Path) -> None:
    web = here.group("web.service")
    written(here, config.parent, ", failOpen: true")
    places = [("10.98.0.2", 9000)]
    with here.serving("outside", *places, outside=True), agent(here, config):
        assert here.call(*places[0], within=web) == "ECONNREFUSED"
        wait_until(lambda: here.call(*places[0], within=web) == "outside -", "connections go on without a proxy")
        assert shown(here, config)["state"] == "in force, and open: the proxy is away"


def test_without_a_user_for_the_proxy_nothing_is_captured_and_that_is_said(here: Host, config: Path) -> None:
    config.write_text(config.read_text().replace(PROXY_USER, "nobody-of-that-name"))
    before = here.ruleset()
    with agent(here, config):
        assert here.ruleset() == before
        status = json.loads(meshd(here, "status", "--socket", str(config.parent / "meshd.sock"), "-o", "json")[1])
    assert [each for each in status["configuration"] if "there is no user nobody-of-that-name" in each]


def test_a_host_is_looked_at_before_anything_is_installed(here: Host) -> None:
    _, output = meshd(here, "check", "--pre", "-o", "json")
    found = {each["description"]: each for row in json.loads(output)["categories"] for each in row["checks"]}
    assert found["nftables is here, and the kernel takes what capture needs"]["result"] == "success"
    assert found["control groups of version 2 are mounted"]["result"] == "success"
    assert found["the port 4140 is free"]["result"] == "success"
    assert found["addresses of services (240.0.0.0/4) have a route"]["result"] == "success"
    with here.serving("thief", ("127.0.0.1", 4140)):
        status, output = meshd(here, "check", "--pre")
    assert status == 1
    assert "127.0.0.1:4140 (TCP): python" in output
    assert "table" not in here.ruleset()


def test_a_host_without_systemd_has_no_units_to_mesh(here: Host, config: Path) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this host was booted with systemd")
    status, output = meshd(here, "inject", "web.service", "--port", "8080", "--config", str(config))
    assert status == 1
    assert "was not booted with systemd" in output
    assert list((config.parent / "conf.d").iterdir()) == []
