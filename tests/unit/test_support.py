"""The helpers that every other test trusts: that they fail when they should."""

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from tests.support import aio, peers, ports
from tests.support.processes import running
from tests.support.waiting import eventually, wait_until


def test_a_run_returns_what_the_work_returns_on_uvloop() -> None:
    async def loop_module() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert aio.run(loop_module()) == "uvloop"


def test_a_run_fails_for_an_error_in_a_callback() -> None:
    async def work() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="no one awaited") as raised:
        aio.run(work())
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_run_has_a_deadline() -> None:
    with pytest.raises(TimeoutError):
        aio.run(asyncio.Event().wait(), deadline_s=0.01)


def test_waiting_returns_the_first_true_value_and_fails_at_the_deadline() -> None:
    values = iter([0, "", "there"])
    assert wait_until(lambda: next(values), "a value") == "there"
    with pytest.raises(AssertionError, match=r"not within 0.01 s: rain"):
        wait_until(lambda: False, "rain", deadline_s=0.01)
    with pytest.raises(AssertionError, match=r"not within 0.01 s: rain"):
        aio.run(eventually(lambda: False, "rain", deadline_s=0.01))


def test_free_ports_differ_and_can_be_listened_on() -> None:
    first, second = ports.free_ports(2)
    assert first != second
    assert not ports.accepts(first)
    with socket.create_server(("127.0.0.1", first)):
        assert ports.accepts(first)


def test_a_program_that_is_not_there_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        peers.find("not-on-the-list")
    monkeypatch.setattr("shutil.which", lambda _program, path: None)
    assert peers.why_missing(("nginx", "wrk")) == "not installed: nginx, wrk (apt-get install nginx wrk)"
    assert peers.why_missing(("nginx", "consul")) == "not installed: nginx, consul (scripts/setup-system test)"


def test_a_process_that_ends_before_it_is_ready_shows_its_output(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "print('cannot bind'); raise SystemExit(3)"]
    with pytest.raises(AssertionError, match=r"ended with status 3\ncannot bind"):  # noqa: SIM117
        with running(argv, tmp_path / "log", ready=lambda: False):
            pytest.fail("it was never ready")


def test_a_process_is_ended_with_the_block(tmp_path: Path) -> None:
    with running(["sleep", "60"], tmp_path / "log", ready=lambda: True) as process:
        assert process.poll() is None
    assert process.returncode == -15
