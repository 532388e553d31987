"""Meshed commands that call each other, while parts of the mesh die and come back."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import meshed
from tests.support.meshed import Run
from tests.support.ports import free_port
from tests.support.waiting import wait_until

LATE = meshed.program("late")
CALL = meshed.program("call")
TIMES = 5


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with meshed.embedded_agent(tmp_path_factory.mktemp("traffic")) as path:
        yield path


@contextmanager
def server(options: list[str], directory: Path) -> Iterator[Run]:
    port = free_port()
    with meshed.run("web", [*options, "--port", str(port)], [*LATE, str(port), "/"], directory) as run:
        yield run


@contextmanager
def caller(options: list[str], directory: Path) -> Iterator[Run]:
    """Calls web without pause until `stop` is asked for, which is done by ending the block."""
    stop = directory / "stop"
    with meshed.run("me", options, [*CALL, "http://web/", str(stop)], directory) as run:
        run.says("calling")
        yield run
        stop.touch()
        assert run.ends() == 0


def answers(run: Run) -> dict[str, int]:
    """What the caller counted."""
    counted = [line.split(": ") for line in run.text.splitlines() if line.partition(": ")[2].isdigit()]
    return {what: int(count) for what, count in counted}


def measured(socket: Path) -> list[dict[str, Any]]:
    """The edges for which there are rates."""
    return [edge for edge in meshed.status(socket)["edges"] if edge["golden"]["rps"]]


def more(socket: Path) -> None:
    """Returns when web has served more than it had."""

    def served() -> int:
        return sum(each["golden"]["requests"] for each in meshed.status(socket)["workloads"] if each["name"] == "web")

    before = served()
    wait_until(lambda: served() > before + 10, "web goes on serving")


def test_a_call_is_mutual_tls_from_process_to_process(agent: Path, tmp_path: Path) -> None:
    options = ["--socket", str(agent)]
    with server(options, tmp_path), caller(options, tmp_path) as me:
        assert "calling: hello spiffe://mesh.local/ns/default/sa/me" in me.text
        (edge,) = wait_until(lambda: measured(agent), "the edge is measured")
    assert edge["tls"]
    assert edge["server_identity"] == "spiffe://mesh.local/ns/default/sa/web"
    assert edge["golden"]["success_rate"] == 1.0
    assert list(answers(me)) == ["200"]


def test_a_first_few_calls_are_measured(agent: Path, tmp_path: Path) -> None:
    options = ["--socket", str(agent)]
    with server(options, tmp_path):
        meshed.announced(agent, "web")
        with meshed.run("me", options, [*CALL, "http://web/", "1"], tmp_path) as me:
            assert me.ends() == 0, me.text

        def web() -> Any:
            (found,) = [each for each in meshed.status(agent)["workloads"] if each["name"] == "web"]
            return found["golden"] if found["golden"]["requests"] == 10 else None

        golden = wait_until(web, "the calls are reported")
    assert golden["success_rate"] == 1.0
    assert golden["rps"] > 0


def test_a_workload_is_announced_when_its_port_accepts(agent: Path, tmp_path: Path) -> None:
    port, go = free_port(), tmp_path / "go"
    options = ["--socket", str(agent), "--port", str(port)]
    with meshed.run("web", options, [*LATE, str(port), str(go)], tmp_path):
        wait_until(lambda: meshed.waits_for(agent, "web") == [f"port {port}"], "only its port is waited for")
        go.touch()
        meshed.announced(agent, "web")


def test_a_rolling_restart_loses_nothing(agent: Path, tmp_path: Path) -> None:
    options = ["--socket", str(agent)]
    places = [tmp_path / str(number) for number in range(4)]
    for place in places:
        place.mkdir()

    def serving(count: int) -> None:
        def found() -> bool:
            known = [each for each in meshed.status(agent)["workloads"] if each["name"] == "web"]
            return sum(not each["waiting_for"] for each in known) == count

        wait_until(found, f"{count} instances are announced")

    with ExitStack() as servers:
        old = [servers.enter_context(server(options, place)) for place in places[:2]]
        serving(2)
        with caller(options, tmp_path) as me:
            for instance, place in zip(old, places[2:], strict=True):
                servers.enter_context(server(options, place))
                serving(3)
                instance.process.terminate()
                assert instance.ends() == 143
            more(agent)
    assert list(answers(me)) == ["200"], me.text
    assert answers(me)["200"] > 100


def test_a_killed_proxy_is_started_again_and_only_what_it_held_is_lost(agent: Path, tmp_path: Path) -> None:
    """The other proxy waits some seconds for it: where the machine took longer to start it, that is said, and shows
    nothing. Then once more."""
    for time in range(TIMES):
        place = tmp_path / str(time)
        place.mkdir()
        counted, text = while_proxies_are_killed(agent, place)
        late = counted.pop("503", 0) if time < TIMES - 1 else 0
        failed = sum(count for what, count in counted.items() if what != "200")
        assert counted["200"] > 20
        assert failed <= 2, f"one request at most was under way at each of the two ends: {counted}\n{text}"
        if not late:
            return


def while_proxies_are_killed(agent: Path, place: Path) -> tuple[dict[str, int], str]:
    """What a caller counted meanwhile, and wrote."""
    options = ["--socket", str(agent)]
    with server(options, place) as web, caller(options, place) as me:
        for which in (web, me):
            os.kill(which.child("meshd-proxy"), signal.SIGKILL)
            which.says("the proxy died (killed by SIGKILL) and is started again")
            more(agent)
    return answers(me), me.text


def test_nothing_is_lost_while_the_agent_is_away_and_it_knows_all_when_it_is_back(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ["--state-dir", str(state)]
    socket = state / "meshd.sock"
    with server(options, tmp_path) as web, caller(options, tmp_path) as me:
        first = meshed.status(socket)["pid"]
        os.kill(first, signal.SIGKILL)
        for which in (web, me):
            which.says("is gone: traffic goes on with what is known")
            which.says("registered with the agent again")
        meshed.announced(socket, "web")
        meshed.announced(socket, "me")
        second = meshed.status(socket)
        try:
            assert second["pid"] != first
            more(socket)
        finally:
            os.kill(second["pid"], signal.SIGTERM)
    assert list(answers(me)) == ["200"], me.text
