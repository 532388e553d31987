"""Which agent `meshd run` registers with, and the flags of `meshd run`."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshd.api.problems import Misuse, Problem
from meshd.cli.run import command
from meshd.run import logs
from meshd.run.agents import Agent, EmbeddedAgent, HostAgent, choose
from tests.support import aio


@pytest.mark.parametrize(
    ("socket", "state_dir", "environment", "kind", "path"),
    [
        ("/a.sock", None, {"MESHD_SOCKET": "/b.sock"}, HostAgent, "/a.sock"),
        (None, None, {"MESHD_SOCKET": "/b.sock"}, HostAgent, "/b.sock"),
        (None, "/dir", {"MESHD_SOCKET": "/b.sock"}, EmbeddedAgent, "/dir/meshd.sock"),
        (None, None, {"XDG_STATE_HOME": "/state"}, EmbeddedAgent, "/state/meshd/meshd.sock"),
    ],
)
def test_the_choice(
    socket: str | None, state_dir: str | None, environment: dict[str, str], kind: type[Agent], path: str
) -> None:
    if Path("/run/meshd/meshd.sock").exists():
        pytest.skip("this host has an agent")
    agent = choose(Path(socket) if socket else None, Path(state_dir) if state_dir else None, environment)
    assert isinstance(agent, kind)
    assert agent.socket == Path(path)


def test_two_agents_are_one_too_many() -> None:
    with pytest.raises(Misuse, match="--socket names an agent that runs"):
        choose(Path("/a"), Path("/b"), {})


def test_a_hosts_agent_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=rf"no agent answers at {tmp_path}/a: start it"):
        aio.run(HostAgent(tmp_path / "a").present())


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match=rf"{tmp_path}/file/state: Not a directory: give another"):
        aio.run(EmbeddedAgent(tmp_path / "file" / "state").present())


def test_a_log_is_private_bounded_and_shows_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert "cannot be read" in logs.tail(path)
    with logs.open_log(path) as log:
        log.write(b"".join(b"line %d\n" % number for number in range(1000)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert logs.tail(path, 2) == "    line 998\n    line 999"
    os.truncate(path, logs.MAX_LOG_BYTES + 1)
    with logs.open_log(path):
        assert path.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == logs.MAX_LOG_BYTES + 1
    assert "wrote nothing" in logs.tail(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "Web", "--", "true"], "'--name': the name 'Web' is not a DNS label"),
        (["--name", "web"], "Missing argument 'CMD...'"),
        (["--", "true"], "Missing option '--name'"),
        (["--name", "web", "--port", "0", "--", "true"], "'--port': 0 is not in the range"),
        (["--name", "web", "--upstream", "127.0.0.1:1", "--", "true"], "is not SERVICE=HOST:PORT"),
        (["--name", "web", "--upstream", "api=9001", "--", "true"], "'9001' is not HOST:PORT"),
        (["--name", "web", "--outbound", "4140", "--", "true"], "'--outbound': '4140' is not HOST:PORT"),
        (["--name", "web", "--drain-timeout", "10", "--", "true"], "'10' is not a duration"),
        (["--name", "web", "--protocol", "udp", "--", "true"], "'udp' is not one of"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_status_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "80", "--port", "80"], "--port 80 is given twice"),
        (["--upstream", "a-b=127.0.0.1:1", "--upstream", "a.b=127.0.0.1:2"], "--upstream MESHD_UPSTREAM_A_B is given"),
    ],
)
def test_what_is_given_twice_is_a_misuse(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, ["--name", "web", *arguments, "--", "true"])
    assert isinstance(result.exception, Misuse)
    assert message in str(result.exception)
