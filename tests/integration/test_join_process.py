"""From nothing to a member, as operators type it: `meshd ca …` on one side, `meshd join` and an agent on the other."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.api.control import Attach, Certificate, GetStatus, ProxyConfiguration, Refused, SignCertificate, Status
from meshd.client.sockets import answers
from tests.support import aio
from tests.support.control import ControlClient
from tests.support.csr import csr
from tests.support.meshed import MESHD
from tests.support.ports import accepts, free_port
from tests.support.processes import running
from tests.support.waiting import wait_until

DOCUMENTS = "---\napiVersion: meshd.io/v1\nkind: Workload\nmetadata: {{name: {}}}\n"


def meshd(*arguments: object, given: str = "") -> "subprocess.CompletedProcess[str]":
    argv = [*MESHD, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, input=given)


def says(*arguments: object) -> str:
    done = meshd(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Mesh:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self.port = directory / "ca", free_port()
        self.settings = directory / "vm1" / "meshd.yaml"
        self.state, self.socket = directory / "vm1" / "state", directory / "vm1" / "meshd.sock"
        says("ca", "init", "--trust-domain", "prod.example", "--state-dir", self.ca)

    @contextmanager
    def serves(self) -> Iterator[None]:
        argv = [*MESHD, "ca", "serve", "--state-dir", str(self.ca), "--listen", f"127.0.0.1:{self.port}"]
        with running(argv, self.directory / "ca.log", lambda: accepts(self.port)):
            yield

    def token(self, *options: str) -> str:
        return says("ca", "token", "create", "--state-dir", self.ca, *options).strip()

    def join(self, *options: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        return meshd(
            "join",
            f"127.0.0.1:{self.port}",
            "--config",
            self.settings,
            "--state-dir",
            self.state,
            *options,
            given=given,
        )


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


async def signed(mesh: Mesh) -> tuple[object, object, Status]:
    """What the host's proxy gets for web and for api, and the status after it."""
    proxy = await ControlClient.connect(mesh.socket)
    assert isinstance(await proxy.call(Attach("0.1", "")), ProxyConfiguration)
    web = await proxy.call(SignCertificate("default/web", csr()))
    api = await proxy.call(SignCertificate("default/api", csr()))
    status = await proxy.call(GetStatus())
    assert isinstance(status, Status)
    await proxy.close()
    return web, api, status


def test_a_machine_becomes_a_member_by_one_command(mesh: Mesh) -> None:
    with mesh.serves():
        token = mesh.token("--workload", "default/web")
        mesh.settings.parent.mkdir()
        mesh.settings.write_text(  # an operator's own, who leaves to `join` which mesh it is
            f"socket: {mesh.socket}\nadmin: ''\nnames: {{listen: ''}}\n"
            f"ca: {{bundle: {mesh.directory}/vm1/bundle.pem}}\ndiscovery: [{{file: {{path: {mesh.directory}/none}}}}]\n"
        )
        joined = mesh.join("--node", "vm1", "--token-file", "-", given=token + "\n")
        assert (joined.returncode, joined.stderr) == (0, "")
        assert f"wrote {mesh.settings}" in joined.stdout
        assert "joined as spiffe://prod.example/node/vm1, until 20" in joined.stdout
        again = mesh.join("--node", "vm1", "--token", token)
        assert again.returncode == 0
        assert "already, until" in again.stdout

        text = mesh.settings.read_text()
        mesh.settings.write_text(text + "".join(DOCUMENTS.format(name) for name in ("web", "api")))
        argv = [*MESHD, "agent", "--config", str(mesh.settings)]
        log = mesh.directory / "agent.log"
        with running(argv, log, lambda: answers(mesh.socket)):
            web, api, status = aio.run(signed(mesh))
            assert "is denied" in says("ca", "issued", "revoke", "--workload", "default/web", "--state-dir", mesh.ca)
            kept = mesh.state / "trust.json"
            wait_until(lambda: kept.exists() and "sa/web" in kept.read_text(), "the agent hears of it")
            denied, _, _ = aio.run(signed(mesh))
    assert isinstance(web, Certificate)
    assert isinstance(denied, Refused)
    assert "sa/web is denied: revoked" in denied.reason
    assert isinstance(api, Refused)
    assert "no entry lets the node vm1 have default/api" in api.reason
    assert api.retry
    assert status.ca.healthy
    listed = says("ca", "token", "list", "--state-dir", mesh.ca)
    assert re.search(r"used-up +\* +1/1 .* default/web", listed)
    assert re.search(r"vm1 +good +\d+s +\d+s +6d23h +token:", says("ca", "node", "list", "--state-dir", mesh.ca))
    assert re.search(r"vm1 +default/web +token:", says("ca", "entry", "list", "--state-dir", mesh.ca))
    assert re.search(r"ns/default/sa/web +vm1 .* denied", says("ca", "issued", "list", "--state-dir", mesh.ca))
    assert re.search(
        r"identity +spiffe://prod.example/ns/default/sa/web", says("ca", "issued", "denied", "--state-dir", mesh.ca)
    )
    everything = log.read_text() + (mesh.directory / "ca.log").read_text() + (mesh.ca / "audit.log").read_text()
    assert token.split(".")[2] not in everything


def test_what_goes_wrong_is_one_line_and_a_status(mesh: Mesh) -> None:
    good = mesh.token("--workload", "*/*", "--ttl", "10m")
    for options, status, said in (
        ([], 2, "give the join token, with --token TOKEN or --token-file FILE"),
        (["--token", "x", "--token-file", "y"], 2, "give the join token"),
        (["--token", "x"], 2, "this is no join token: a join token begins with meshd-join-v1."),
        (["--token-file", str(mesh.directory / "none")], 1, "none: the join token cannot be read"),
        (["--token", good], 1, f"https://127.0.0.1:{mesh.port}: Connection refused"),
        (["--token", good, "--node", "a.b"], 2, "node 'a.b' is not a DNS label"),
    ):
        failed = mesh.join(*options)
        assert (failed.returncode, failed.stdout, len(failed.stderr.splitlines())) == (status, "", 1), failed.stderr
        assert said in failed.stderr
    assert not mesh.settings.exists()


def test_an_operators_mistakes_are_one_line_each(mesh: Mesh) -> None:
    state = ("--state-dir", mesh.ca)
    for arguments, status, said in (
        (("token", "create", *state), 2, "--workload '*/*'"),
        (("token", "revoke", "abc", *state), 1, "there is no join token abc"),
        (("entry", "add", "--node", "vm1", "--workload", "web", *state), 2, "--workload 'web' is not NAMESPACE/NAME"),
        (("entry", "remove", "abc", *state), 1, "there is no entry abc"),
        (("token", "list", "--state-dir", mesh.directory / "none"), 1, "make the CA with `meshd ca init`"),
    ):
        failed = meshd("ca", *arguments)
        assert (failed.returncode, failed.stdout, len(failed.stderr.splitlines())) == (status, "", 1), failed.stderr
        assert said in failed.stderr


def test_processes_that_use_one_token_at_once_join_as_often_as_it_says(mesh: Mesh) -> None:
    """Beside a daemon and on its database: the use is one transaction, whoever makes it."""
    program = """
import sys
from pathlib import Path
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Conflict
from tests.support.stores import issued, node
store, token, host = SqliteStore.open(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
sys.stdin.readline()
at = store.join_token(token).made_at
try:
    store.join(token, node(host, origin=f"token {token}", at=at), issued(host, host, "", at=at), (), at)
    print("joined")
except Conflict as conflict:
    print(conflict)
"""
    identifier = mesh.token("--workload", "*/*", "--uses", "2").split(".")[1]
    with mesh.serves():
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(mesh.ca / "ca.db"), identifier, f"vm{number}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(5)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["joined"] * 2 + [f"the join token {identifier} is used up"] * 3
