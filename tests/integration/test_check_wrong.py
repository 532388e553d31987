"""A host in the mesh on which something goes wrong, made for real: the daemons say it in one line and go on, nothing is
half done, and `meshd check` names it and says what to do."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import situations
from tests.support.joined import Joined, wrong
from tests.support.ports import accepts, free_port
from tests.support.processes import running
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def made() -> Iterator[Joined]:
    with tempfile.TemporaryDirectory(prefix="meshd-test-") as directory:  # pytest's own is nobody else's to look into
        Path(directory).chmod(0o755)
        made = Joined(Path(directory))
        made.settings.parent.chmod(0o755)
        yield made


@pytest.fixture
def joined(made: Joined) -> Joined:
    """One host for all tests, as it was made; the last has another take its name."""
    for log in made.directory.glob("*.log"):
        log.unlink()
    made.set()
    return made


def errors(log: str) -> list[str]:
    """What it complains of, without the times."""
    return [line.split(" ", 1)[1] for line in log.splitlines() if " error " in line or " warning " in line]


# --- the clock -----------------------------------------------------------------------------------------------------


def later(seconds: int) -> tuple[str, ...]:
    """Where it is so much later for a program; each host has one clock, and this one is everybody's."""
    return (
        "env",
        "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
        f"FAKETIME={seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )


CLOCKS: tuple[tuple[int, str, dict[str, str]], ...] = (
    (-172800, "172800 s behind", {"bundle-valid": "is not good before", "node-valid": "is not good before"}),
    (172800, "172800 s ahead of", {"ca-answers": "has expired", "workload-meshed": "has expired"}),
    (200, "200 s ahead of", {}),
)


@pytest.mark.peer("faketime")
def test_a_clock_that_is_wrong(joined: Joined) -> None:
    with joined.all():
        for off_s, clock, others in CLOCKS:
            status, checks = joined.check(within=later(off_s))
            found = wrong(checks)
            assert status == 1
            assert clock in found["ca-clock"], found  # by the CA's own word, whose certificate is not good now
            for each, said in others.items():
                assert said in found[each], found
            assert all("timedatectl" in checks[each]["hint"] for each in ("ca-clock", *others))
            assert others or list(found) == ["ca-clock"]


@pytest.mark.peer("faketime")
def test_an_agent_whose_clock_is_wrong_says_so_once(joined: Joined) -> None:
    with joined.serves(), joined.agent(*later(-172800)):
        wait_until(lambda: "certificate is not yet valid" in joined.log("agent"), "it has asked the CA")
        said = errors(joined.log("agent"))
    assert len(said) == 2, said
    assert "is before the CA's root was made" in said[0]
    assert "compare this host's clock with that of the CA's" in said[1]


# --- the disk ------------------------------------------------------------------------------------------------------


def small(directory: Path) -> tuple[str, ...]:
    """Where that directory is a file system of its own, of 4 MiB."""
    copy = f"{directory}.copy"
    return situations.mounting(
        f"cp -a {directory} {copy}",
        f"mount -t tmpfs -o size=4m,mode=700 none {directory}",
        f"cp -a {copy}/. {directory}",
    )


@contextmanager
def filled(process: "subprocess.Popen[bytes]", directory: Path) -> Iterator[None]:
    """While there is no room in a directory of the process."""
    seen = Path(f"/proc/{process.pid}/root{directory}")
    filler, size = seen / "filler", 1 << 16
    with filler.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    assert os.statvfs(seen).f_bavail == 0
    yield
    filler.unlink()


@pytest.mark.peer("unshare", "nsenter")
def test_a_disk_that_is_full(joined: Joined) -> None:
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root")
    with ExitStack() as held:
        argv = [*small(joined.ca), *joined.serving]
        ca = held.enter_context(running(argv, joined.directory / "ca.log", lambda: accepts(joined.ca_port)))
        agent = held.enter_context(joined.agent(*small(joined.state)))
        held.enter_context(joined.application())
        key = Path(f"/proc/{agent.pid}/root{joined.state}/node.key")
        before = key.read_bytes()
        with filled(agent, joined.state), filled(ca, joined.ca):
            held.enter_context(joined.proxy())
            wait_until(lambda: "cannot sign now" in joined.log("agent"), "the CA was asked")
            status, checks = joined.check(within=("nsenter", f"--mount=/proc/{agent.pid}/ns/mnt"))
            found = wrong(checks)
            assert status == 1
            assert found["state-room"].startswith("0 KiB are left")
            assert "df -h" in checks["state-room"]["hint"]
            assert "the CA cannot sign now" in found["workload-certificates"]
            assert "journalctl -u meshd-ca" in checks["workload-certificates"]["hint"]
        wait_until(lambda: joined.workload().get("waiting_for") == [], "it has its certificate", 120)
        assert key.read_bytes() == before
        audit = Path(f"/proc/{ca.pid}/root{joined.ca}/audit.log").read_text().splitlines()
        said = [line for line in errors(joined.log("ca")) if "is full" in line]
        assert [line for line in errors(joined.log("agent")) if "cannot sign now" in line][1:] == []
    assert len(said) == 1, said
    assert all(line.startswith('{"time"') and line.endswith("}") for line in audit)
    assert '"identity":"spiffe://prod.example/ns/default/sa/web"' in audit[-1]


# --- ports, and who may have them ----------------------------------------------------------------------------------


def test_a_proxy_that_may_not_listen(joined: Joined) -> None:
    within = situations.denying("bind")
    with joined.serves(), joined.agent(), joined.proxy(*within):
        wait_until(lambda: "Permission denied" in str(joined.workload()), "the proxy has said what it waits for")
        status, checks = joined.check()
    assert status == 1
    assert f"listener 127.0.0.1:{joined.outbound} (cannot listen" in wrong(checks)["proxy-ready"]
    assert "a rule of the host denies it" in checks["proxy-ready"]["hint"]
    said = [line for line in errors(joined.log("proxy")) if f"listener 127.0.0.1:{joined.outbound}: " in line]
    assert len(said) == 1, said


def test_an_agent_whose_ports_are_taken(joined: Joined) -> None:
    admin, names = free_port(), free_port()
    joined.set(f"admin: '127.0.0.1:{admin}'\nnames: {{listen: '127.0.0.1:{names}'}}\ncapture: {{enabled: false}}")
    with ExitStack() as held:
        for port in (admin, names):
            argv = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
            held.enter_context(running(argv, joined.directory / "thief.log", lambda port=port: accepts(port)))  # type: ignore[misc]
        for each in (joined.serves(), joined.agent()):
            held.enter_context(each)
        status, checks = joined.check()
    found = wrong(checks)
    assert status == 1
    taken = {each["description"]: each["error"] for each in checks.values() if each["id"] == "port" and "error" in each}
    assert taken.keys() == {f"nobody else has the port {admin}", f"nobody else has the port {names}"}
    assert all("python" in each and "(pid " in each for each in taken.values())
    assert f"127.0.0.1:{names}: names are not answered: cannot listen" in found["agent-complaints"]
    for port in (admin, names):
        said = [line for line in errors(joined.log("agent")) if f"127.0.0.1:{port}" in line]
        assert len(said) == 1, said


# --- who looks


def test_somebody_who_may_not_read_all_of_it_is_told_so(joined: Joined) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user is needed")
    with joined.all():
        status, checks = joined.check(within=("setpriv", "--reuid=nobody", "--clear-groups"))
    found = wrong(checks)
    assert status == 1
    assert "may not look for it: Permission denied: be root, or the agent's user" in found["documents"]
    assert (checks["node-key"]["result"], checks["node-key"]["hint"]) == ("warning", "run this as root")
    assert checks["workload-presents"]["result"] == "success"


# --- names


def test_two_hosts_of_one_name(joined: Joined) -> None:
    """The CA lets the second join by a token for that name alone, says so then, and so does the check on the first."""
    other = joined.directory / "other"
    second = other / "etc" / "meshd.yaml", other / "state"
    with joined.serves():
        assert joined.check()[1]["node-alone"]["result"] == "success"
        with pytest.raises(AssertionError, match="the node vm1 has joined before, with another key"):
            joined.join(*second)
        assert "joined from" not in joined.log("ca")
        joined.join(*second, "--node", "vm1")
        status, checks = joined.check()
        _, others = joined.check("--config", str(second[0]))
    assert status == 1
    assert "a host with another key is vm1, too, since 20" in wrong(checks)["node-alone"]
    assert "meshd join --node" in checks["node-alone"]["hint"]
    assert others["node-alone"]["result"] == "success"
    (said,) = (line for line in errors(joined.log("ca")) if "joined from" in line)
    assert "the node vm1 joined from 127.0.0.1 with another key, and the certificate of the one before is good" in said
