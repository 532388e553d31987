"""`meshd check` on a host that joined, with a real CA and agent, as they go wrong."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshd.client.sockets import answers
from tests.integration.test_join_process import Mesh, meshd
from tests.support.bundles import root
from tests.support.meshed import MESHD
from tests.support.processes import running

ALL = [
    "settings and documents are good",
    "the agent answers",
    "the agent has nothing to complain of",
    "every workload has a certificate that is good",
    "the agent is of this program's version",
    "there is room in {state}",
    "the clocks of this host and of the CA at https://127.0.0.1:{port} agree",
    "nobody else has the port 4140",
    "nobody else has the port 4143",
    "nobody else has the port 4191",
    "file {settings} can be read",
    "file {directory}/conf.d can be read",
    "no service has been stale for 10 minutes",
    "the trust bundle is within its validity period",
    "the trust bundle is valid for at least 60 days",
    "the node's key can be read by the agent alone",
    "the node's certificate is within its validity period",
    "the issuer is within its validity period",
    "the issuer is valid for at least 60 days",
    "the CA denies nothing of what this host is",
    "no other host has this one's name",
    "the CA at https://127.0.0.1:{port} answers",
    "the CA at https://127.0.0.1:{port} is of this host's trust domain",
    "this host has the trust bundle of the CA at https://127.0.0.1:{port}",
]


def named(mesh: "Mesh") -> list[str]:
    """All checks of a host that has joined."""
    places = {"port": mesh.port, "settings": mesh.settings, "directory": mesh.directory, "state": mesh.state}
    return [each.format(**places) for each in ALL]


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    """A host that has joined; neither its agent nor its CA runs."""
    mesh = Mesh(tmp_path)
    with mesh.serves():
        assert mesh.join("--node", "vm1", "--token", mesh.token("--workload", "default/web")).returncode == 0
    settings = (
        f"socket: {mesh.socket}\nadmin: ''\nnames: {{listen: ''}}\ndiscovery: [{{file: {{path: {tmp_path}/conf.d}}}}]\n"
    )
    (tmp_path / "conf.d").mkdir()
    mesh.settings.write_text(mesh.settings.read_text() + settings)
    return mesh


@contextmanager
def agent(mesh: Mesh) -> Iterator[None]:
    argv = [*MESHD, "agent", "--config", str(mesh.settings)]
    with running(argv, mesh.directory / "agent.log", lambda: answers(mesh.socket)):
        yield


def check(mesh: Mesh) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status, and each check by its description."""
    done = meshd("check", "--config", mesh.settings, "-o", "json")
    assert done.stderr == ""
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["success"] is (done.returncode == 0)
    return done.returncode, {each["description"]: each for row in data["categories"] for each in row["checks"]}


def wrong(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: each["error"] for name, each in checks.items() if each["result"] != "success"}


def test_a_host_that_is_well(mesh: Mesh) -> None:
    with mesh.serves(), agent(mesh):
        status, checks = check(mesh)
        shown = meshd("check", "--config", mesh.settings).stdout
    assert (status, wrong(checks)) == (0, {})
    assert list(checks) == named(mesh)
    assert shown.endswith("\nStatus check results are √\n")


def test_what_is_away_and_what_others_can_read(mesh: Mesh) -> None:
    (mesh.state / "node.key").chmod(0o644)
    status, checks = check(mesh)
    found = wrong(checks)
    assert status == 1
    assert "no agent answers at" in found["the agent answers"]
    assert "its mode 0644 lets others" in found["the node's key can be read by the agent alone"]
    assert f"https://127.0.0.1:{mesh.port}: " in found[f"the CA at https://127.0.0.1:{mesh.port} answers"]


def test_a_bundle_that_is_not_all_of_the_ca_s(mesh: Mesh) -> None:
    settings = mesh.settings.read_text()
    bundle = next(Path(word.strip(' ",}')) for word in settings.split() if "bundle.pem" in word)
    bundle.write_text(bundle.read_text() + root())
    with mesh.serves():
        status, checks = check(mesh)
    name = f"this host has the trust bundle of the CA at https://127.0.0.1:{mesh.port}"
    assert wrong(checks)[name] == "0 of its roots are not known here, and 1 that are known are not its"
    assert checks[name]["result"] == "warning"
    assert status == 1  # for the agent that is away


def test_another_ca_at_the_same_address_is_not_believed(mesh: Mesh) -> None:
    other = Mesh.__new__(Mesh)
    other.__dict__ |= mesh.__dict__ | {"ca": mesh.directory / "other"}
    assert meshd("ca", "init", "--trust-domain", "prod.example", "--state-dir", other.ca).returncode == 0
    with other.serves():
        _, checks = check(mesh)
    assert "certificate" in wrong(checks)[f"the CA at https://127.0.0.1:{mesh.port} answers"]


def test_settings_that_are_not_there(mesh: Mesh) -> None:
    mesh.settings.unlink()
    status, checks = check(mesh)
    assert status == 1
    assert list(checks) == [ALL[0]]
    assert "cannot be read: No such file" in checks[ALL[0]]["error"]


def document(mesh: Mesh, text: str) -> None:
    (mesh.directory / "conf.d" / "api.yaml").write_text(f"apiVersion: meshd.io/v1\nkind: Service\n{text}")


def test_a_document_that_is_refused_is_to_be_corrected_and_the_place_need_not_be_looked_for(mesh: Mesh) -> None:
    document(mesh, "metadata: {name: api}\nspec: {port: web}\n")
    with mesh.serves(), agent(mesh):
        status, checks = check(mesh)
    found = checks[f"file {mesh.directory}/conf.d can be read"]
    assert (status, found["result"]) == (1, "warning")
    assert "spec.port: expected `int`" in found["error"]
    assert found["hint"] == "correct what it names: what was last good of it is in force"
    assert found["see"] == "docs/vm.md#meshd-discovery"


def test_a_service_that_is_to_be_asked_of_a_source_that_there_is_not(mesh: Mesh) -> None:
    document(mesh, "metadata: {name: api}\nspec: {port: 80, discovery: [consul]}\n")
    said = f"{mesh.directory}/conf.d/api.yaml:1: Service api: spec.discovery[0]: expected one of `file`, `local`"
    with mesh.serves(), agent(mesh):
        status, checks = check(mesh)
    assert (status, checks["settings and documents are good"]["result"]) == (1, "error")
    for each in ("settings and documents are good", "the agent has nothing to complain of"):
        assert f"{said}, got `consul`" in checks[each]["error"]


def test_waiting_ends_when_it_is_well(mesh: Mesh) -> None:
    """The agent is started when the check has looked for it once."""
    argv = [*MESHD, "check", "--config", str(mesh.settings), "--wait", "10m"]
    with mesh.serves(), socket.socket(socket.AF_UNIX) as place:
        place.bind(str(mesh.socket))
        place.listen()
        place.settimeout(100)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as waiting:
            place.accept()[0].close()
            place.close()
            with agent(mesh):
                said, _ = waiting.communicate(timeout=200)
    assert waiting.returncode == 0
    assert said.endswith("results are √\n")
