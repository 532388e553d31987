"""`meshd identity`: what the proxies of this host present, as its own programs and openssl read it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import meshed
from tests.support.peers import path
from tests.support.waiting import wait_until

NOTE = meshed.program("note")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with meshed.embedded_agent(tmp_path_factory.mktemp("identity")) as path:
        yield path


def identity(agent: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [*meshed.MESHD, "identity", "--socket", str(agent), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def extensions(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "X509v3" in line]


@pytest.mark.peer("openssl")
def test_the_certificate_that_a_workload_presents(agent: Path, tmp_path: Path) -> None:
    with meshed.run("web", ["--socket", str(agent), "-q"], NOTE, tmp_path):
        wait_until(lambda: identity(agent, "web").returncode == 0, "it presents a certificate")
        text = identity(agent).stdout
        (row,) = json.loads(identity(agent, "web", "-o", "json").stdout)
    assert text.startswith("WORKLOAD default/web (1 of 1)\n\nCertificate:\n    Data:\n        Version: 3 (0x2)\n")
    assert row["uris"] == [row["identity"]] == ["spiffe://mesh.local/ns/default/sa/web"]
    argv = [path("openssl"), "x509", "-noout", "-text"]
    judged = subprocess.run(argv, input=row["pem"], capture_output=True, text=True, check=True).stdout
    for line in (
        "CA:FALSE",
        "URI:spiffe://mesh.local/ns/default/sa/web",
        "Digital Signature",
        "TLS Web Client Authent",
    ):
        assert line in judged
        assert line in text
    assert extensions(text) == extensions(judged)


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ((), "this host has no workload", 1),
        (("db",), "default/db is not a workload of this host", 1),
        (("D B",), "workload name 'D B' is not a DNS label", 2),
    ],
)
def test_what_is_not_there(agent: Path, arguments: tuple[str, ...], said: str, status: int) -> None:
    done = identity(agent, *arguments)
    assert said in done.stderr
    assert (done.returncode, done.stdout) == (status, "")
