"""`meshd endpoints` with real agents, proxies and registries: what they know, what they measured, and who is away."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshd.api.control import Call, RegisterWorkload
from meshd.api.documents import WorkloadPort
from meshd.api.frames import frame
from tests.integration.test_proxy_process import get
from tests.support import meshed
from tests.support.meshed import Run
from tests.support.ports import free_port
from tests.support.waiting import wait_until

IDENTITY = "spiffe://mesh.local/ns/default/sa/web"
SERVICE = (
    "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  port: 80\n"
    "  endpoints: [{{address: 127.0.0.1, port: {port}, zone: b, weight: 3}}]\n"
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    with meshed.embedded_agent(tmp_path / "state"):
        (tmp_path / "state" / "conf.d").mkdir(exist_ok=True)
        yield tmp_path


def endpoints(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [*meshed.MESHD, "endpoints", "--socket", str(directory / "state" / "meshd.sock"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def known(directory: Path, name: str, *arguments: str) -> dict[str, Any]:
    (found,) = json.loads(endpoints(directory, name, "-o", "json", *arguments).stdout)
    return dict(found)


@contextmanager
def server(directory: Path) -> Iterator[int]:
    port = free_port()
    options = ["--socket", str(directory / "state" / "meshd.sock"), "--port", str(port)]
    with meshed.run("web", options, [*meshed.program("late"), str(port), "/"], directory):
        meshed.announced(directory / "state" / "meshd.sock", "web")
        yield port


@contextmanager
def caller(directory: Path, url: str, *options: str) -> Iterator[Run]:
    stop = directory / "stop"
    options = ("--socket", str(directory / "state" / "meshd.sock"), *options)
    with meshed.run("me", list(options), [*meshed.program("call"), url, str(stop)], directory) as run:
        yield run
        stop.touch()
        assert run.ends() == 0


@contextmanager
def registered(directory: Path, admin: str) -> Iterator[None]:
    """A workload whose proxy is said to be at that admin address."""
    listeners = "127.0.0.1:40001", "127.0.0.1:40002", admin
    workload = RegisterWorkload("a" * 32, "default", "silent", (WorkloadPort(8080),), (), *listeners, pid=1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / "state" / "meshd.sock"))
        connection.sendall(frame(Call(1, workload)))
        assert b"registered" in connection.recv(4096)
        yield


def declare(directory: Path, name: str, port: int) -> None:
    (directory / "state" / "conf.d" / f"{name}.yaml").write_text(SERVICE.format(name=name, port=port))
    wait_until(lambda: known(directory, name)["standing"] == "known", f"{name} is declared")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_endpoint_that_is_called(directory: Path, workers: int) -> None:
    with server(directory) as port, caller(directory, "http://web/", "--workers", str(workers)) as me:
        me.says("calling")

        def measured() -> dict[str, Any]:
            (endpoint,) = known(directory, "web")["endpoints"]
            called = {each["worker"] for each in endpoint["callers"]}
            return dict(endpoint) if called == ({0} if workers == 1 else {1, 2}) else {}

        endpoint = wait_until(measured, "every process that calls it says so")
        table = endpoints(directory, "web")
        wide = endpoints(directory, "web", "-o", "wide")
    assert (endpoint["ip"], endpoint["port"], endpoint["identity"]) == ("127.0.0.1", port, IDENTITY)
    assert (endpoint["health"], endpoint["source"], endpoint["service"]) == ("ready", "local", f"web.default:{port}")
    for each in endpoint["callers"]:
        assert (each["workload"], each["state"]) == ("default/me", "in")
        assert each["latency_ms"] > 0
        assert each["load"] >= each["latency_ms"] * 0.999
    assert (table.returncode, table.stderr) == (0, "")
    heading, row = table.stdout.splitlines()
    assert heading.split()[:4] == ["NAMESPACE", "IP", "PORT", "SERVICE"]
    cells = dict(zip(heading.split(), row.split(), strict=True))
    assert cells["LOAD"].endswith("ms")
    heading, row = wide.stdout.splitlines()
    assert dict(zip(heading.split(), row.split(), strict=True))["CALLERS"] == "default/me"


def test_an_endpoint_that_a_proxy_took_out_says_so(directory: Path) -> None:
    port = free_port()  # at which nothing listens
    declare(directory, "api", port)
    with caller(directory, "http://api/"):

        def ejected() -> dict[str, Any]:
            (endpoint,) = known(directory, "api")["endpoints"]
            return dict(endpoint) if endpoint["health"] == "ejected" else {}

        endpoint = wait_until(ejected, "it is taken out")
    (by_me,) = endpoint["callers"]
    assert (by_me["state"], by_me["reason"], by_me["authority"]) == ("out", "connection", "api")
    assert (endpoint["zone"], endpoint["weight"], endpoint["source"]) == ("b", 3, "file")
    assert endpoint["read_at"] > 1.7e9


def test_the_page_of_a_proxy(directory: Path) -> None:
    with server(directory) as port, caller(directory, "http://web/") as me:
        me.says("calling")
        (admin,) = {
            each["admin"]
            for each in meshed.status(directory / "state" / "meshd.sock")["workloads"]
            if each["name"] == "me"
        }
        admin_port = int(admin.rpartition(":")[2])
        status, page = get(admin_port, f"/endpoints?service=web.default:{port}")
        assert (status, len(json.loads(page)["destinations"])) == (200, 1)
        status, page = get(admin_port, "/endpoints?service=db.default:80")
        assert (status, json.loads(page)["destinations"]) == (200, [])
        assert get(admin_port, "/endpoints?" + "a=b&" * 20)[0] == 400


def test_a_service_that_is_not_there_is_said_and_is_exit_status_1(directory: Path) -> None:
    declare(directory, "api", free_port())
    done = endpoints(directory, "web", "api")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[3] == "api.default:80"
    assert done.stderr == "web: no source knows such a service: file, local\n"
    nothing = endpoints(directory, "web", "-n", "shop")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.splitlines()[0] == "No endpoints found."
    assert known(directory, "web")["standing"] == "unknown"


def test_the_services_that_are_known_are_completed(directory: Path) -> None:
    declare(directory, "api", free_port())
    declare(directory, "app", free_port())
    declare(directory, "web", free_port())
    environment = {
        **os.environ,
        "MESHD_SOCKET": str(directory / "state" / "meshd.sock"),
        "_MESHD_COMPLETE": "bash_complete",
        "COMP_WORDS": "meshd endpoints ap",
        "COMP_CWORD": "2",
    }

    def completed() -> set[str]:
        done = subprocess.run([*meshed.MESHD], capture_output=True, text=True, timeout=60, check=False, env=environment)
        return {line.partition(",")[2] for line in done.stdout.splitlines() if line}

    wait_until(lambda: completed() == {"api.default:80", "app.default:80"}, "both are completed")
    environment["MESHD_SOCKET"] = str(directory / "none.sock")
    assert completed() == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("we b",), "'we b' is not HOST or HOST:PORT, as in web.default:80"),
        (("web", "-n", "a b"), "namespace 'a b' is not a DNS label"),
    ],
)
def test_what_cannot_be_asked_for(directory: Path, arguments: tuple[str, ...], said: str) -> None:
    done = endpoints(directory, *arguments)
    assert said in done.stderr
    assert (done.returncode, done.stdout) == (1, "")


def test_a_proxy_that_does_not_answer_is_said_and_holds_nothing_back(directory: Path) -> None:
    declare(directory, "api", free_port())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        admin = f"127.0.0.1:{silent.getsockname()[1]}"
        with registered(directory, admin):
            done = endpoints(directory, "api")
    assert done.stdout.splitlines()[1].split()[3] == "api.default:80"
    assert done.stderr == f"the proxy at {admin} did not answer within 4 s\n"
    assert done.returncode == 0
