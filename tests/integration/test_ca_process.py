"""`meshd ca init` and `meshd ca serve` as an operator runs them."""

import asyncio
import json
import os
import pwd
import re
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jwt
import msgspec
import pytest
from cryptography import x509

from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.client import CaClient
from meshd.ca.contacts import Contact
from meshd.ca.source import NotAuthenticated, Unreachable
from tests.support import aio, peers
from tests.support.authorities import TRUST_DOMAIN, WEB, recorded
from tests.support.csr import csr
from tests.support.meshed import MESHD
from tests.support.metrics import samples
from tests.support.ports import free_port
from tests.support.processes import running
from tests.support.waiting import wait_until


def meshd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MESHD, "ca", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    made = meshd("init", "--trust-domain", TRUST_DOMAIN, "--shared-token", "--state-dir", str(tmp_path / "ca"))
    assert (made.returncode, made.stderr) == (0, "")
    return tmp_path / "ca"


class Serving:
    """A `meshd ca serve` process at a port that it chose itself, and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], ca: Path, log: Path) -> None:
        self.process, self._log = process, log
        found = re.findall(r"answers at (https://127\.0\.0\.1:\d+) as", self.said())
        self.url = found[-1]
        token = (ca / "agent.token").read_text().strip()
        self.client = CaClient(self.url, (ca / "bundle.pem").read_text(), token)

    def said(self) -> str:
        return self._log.read_text()


@contextmanager
def serving(ca: Path, *options: str) -> Iterator[Serving]:
    log = ca.with_suffix(".log")
    begins = log.stat().st_size if log.exists() else 0
    argv = [*MESHD, "ca", "serve", "--state-dir", str(ca), "--listen", "127.0.0.1:0", *options]
    with running(argv, log, lambda: "answers at" in log.read_text()[begins:]) as process:
        yield Serving(process, ca, log)


def serials(ca: Path) -> set[str]:
    return {issued.serial for issued in recorded(ca)}


def serial(chain_pem: str) -> str:
    return certificates.serial(x509.load_pem_x509_certificate(chain_pem.encode()))


def test_init_says_what_it_made_and_what_to_do_next(tmp_path: Path) -> None:
    done = meshd("init", "--trust-domain", TRUST_DOMAIN, "--state-dir", str(tmp_path / "ca"))
    assert done.returncode == 0
    for made in ("bundle.pem", "root.key", "issuer.key", "jwt.key", "ca.db"):
        assert made in done.stdout
        assert (tmp_path / "ca" / made).exists()
    assert f"meshd ca serve --state-dir {tmp_path / 'ca'}" in done.stdout
    assert f"meshd ca token create --state-dir {tmp_path / 'ca'}" in done.stdout
    assert "agent.token" not in done.stdout
    assert not (tmp_path / "ca" / "agent.token").exists()


def test_a_token_that_all_agents_share_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    done = meshd("init", "--trust-domain", TRUST_DOMAIN, "--shared-token", "--state-dir", str(tmp_path / "ca"))
    assert "agent.token" in done.stdout
    assert (tmp_path / "ca" / "agent.token").read_text().strip() not in done.stdout


def test_a_ca_serves_until_it_is_told_to_end(ca: Path) -> None:
    async def main(served: Serving) -> str:
        await served.client.health()
        return (await served.client.sign(csr(), WEB)).chain_pem

    with serving(ca, "--name", "ca.example") as served:
        signed = serial(aio.run(main(served)))
        assert signed in serials(ca)
        served.process.terminate()
        assert served.process.wait(60) == 0
    said = served.said()
    assert f"the CA of {TRUST_DOMAIN} answers at {served.url} as ca.example, localhost, 127.0.0.1" in said
    assert re.search(
        rf"info ca\.authority: issued {WEB} to shared token at 127\.0\.0\.1: serial {signed}, until 20", said
    )
    assert "SIGTERM: ending" in said
    assert "Traceback" not in said
    assert (ca / "agent.token").read_text().strip() not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's directory is root's to make a CA in")
def test_what_root_makes_in_a_daemons_directory_is_the_daemons(tmp_path: Path) -> None:
    daemon = pwd.getpwnam("nobody")
    ca = tmp_path / "ca"
    ca.mkdir(0o700)
    os.chown(ca, daemon.pw_uid, daemon.pw_gid)
    assert meshd("init", "--trust-domain", TRUST_DOMAIN, "--state-dir", str(ca)).returncode == 0
    made = meshd("token", "create", "--node", "vm1", "--workload", "default/web", "--state-dir", str(ca))
    assert made.returncode == 0, made.stderr
    found = {file.name: file.stat() for file in ca.iterdir()}
    assert {"root.key", "ca.db"} <= found.keys()
    assert {(each.st_uid, each.st_gid) for each in found.values()} == {(daemon.pw_uid, daemon.pw_gid)}
    assert all(stat.S_IMODE(found[name].st_mode) & 0o077 == 0 for name in found if name.endswith(".key"))


def test_what_was_issued_is_on_record_whenever_the_ca_is_killed(ca: Path) -> None:
    """Killed while requests are under way: every certificate that anyone got is on record, and the CA starts again."""

    async def until_killed(served: Serving) -> list[str]:
        signed: list[str] = []

        async def ask() -> None:
            while True:
                try:
                    signed.append((await served.client.sign(csr(), WEB)).chain_pem)
                except Unreachable:
                    return
                if len(signed) == 40:
                    os.kill(served.process.pid, signal.SIGKILL)

        await asyncio.gather(*(ask() for _ in range(4)))
        return signed

    with serving(ca) as served:
        signed = aio.run(until_killed(served), 60.0)
        assert served.process.wait(60) == -signal.SIGKILL
    assert len(signed) >= 40
    assert {serial(each) for each in signed} <= serials(ca)
    lines = (ca / "audit.log").read_text().splitlines()
    assert {serial(each) for each in signed} <= {msgspec.json.decode(line).get("serial") for line in lines}
    with serving(ca) as again:
        aio.run(again.client.sign(csr(), WEB))


def test_a_full_disk_stops_signing_until_there_is_room_and_nothing_is_lost(ca: Path) -> None:
    """A limit on the size of files stands for the disk's: the same write fails."""

    async def main(served: Serving) -> None:
        signed.add(serial((await served.client.sign(csr(), WEB)).chain_pem))
        pid, unlimited = served.process.pid, resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, ((ca / "ca.db-wal").stat().st_size, unlimited[1]))
        with pytest.raises(Unreachable, match=r"the CA cannot sign now: its store is away, .* \(status 503\)"):
            await served.client.sign(csr(), WEB)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        signed.add(serial((await served.client.sign(csr(), WEB)).chain_pem))

    signed: set[str] = set()
    with serving(ca) as served:
        aio.run(main(served))
        assert re.search(r"/v1/sign of 127\.0\.0\.1 failed: the CA's database .*ca\.db cannot be used: ", served.said())
    assert serials(ca) == signed
    assert len(signed) == 2


@pytest.mark.peer("curl")
def test_curl_gets_the_bundle_with_the_bundle(ca: Path) -> None:
    with serving(ca) as served:
        bundle = str(ca / "bundle.pem")
        argv = [peers.path("curl"), "-sS", "--fail", "--noproxy", "*", "--cacert", bundle, f"{served.url}/v1/bundle"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f'"trust_domain":"{TRUST_DOMAIN}"' in done.stdout


@pytest.mark.peer("curl")
def test_scrapers_are_answered_at_a_port_of_their_own(ca: Path, tmp_path: Path) -> None:
    admin = free_port()
    config = tmp_path / "ca.yaml"
    config.write_text(f"admin: 127.0.0.1:{admin}\n")

    def curl(url: str, *options: str) -> tuple[str, str]:
        argv = [peers.path("curl"), "-sS", "--noproxy", "*", "-w", "\n%{http_code}", *options, url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    async def ask(served: Serving) -> None:
        await served.client.sign(csr(), WEB)
        stranger = CaClient(served.url, (ca / "bundle.pem").read_text(), "another token")
        with pytest.raises(NotAuthenticated):
            await stranger.sign(csr(), WEB)

    with serving(ca, "--config", str(config)) as served:
        aio.run(ask(served))
        status, page = curl(f"http://127.0.0.1:{admin}/metrics")
        assert status == "200"
        assert curl(f"http://127.0.0.1:{admin}/ready") == ("200", "ready\n")
        assert curl(f"http://127.0.0.1:{admin}/live") == ("200", "live\n")
        assert curl(f"http://127.0.0.1:{admin}/v1/bundle")[0] == "404"
        public, _ = curl(f"{served.url}/metrics", "--cacert", str(ca / "bundle.pem"))
        assert public == "404"
    said = samples(page)
    assert said['meshd_ca_certificates_issued_total{action="sign"}'] == 1
    assert said['meshd_ca_requests_refused_total{action="sign",reason="unauthenticated"}'] == 1
    assert said['meshd_ca_request_duration_seconds_count{action="sign"}'] == 2
    assert said["meshd_ca_store_up"] == 1
    assert said["meshd_ca_agents_waiting"] == 0


def test_what_cannot_be_reached_is_known_by_who_called() -> None:
    contact = Contact("https://a.example")
    root = certificates.make_root(TRUST_DOMAIN, Life(0.0, 4e9))
    client = CaClient(f"https://127.0.0.1:{free_port()}", certificates.pem(root.certificate).decode(), contact=contact)
    with pytest.raises(Unreachable):
        aio.run(client.health())
    assert contact.is_reachable is False
    assert contact.answered_at == 0


def fails(*arguments: str) -> str:
    """What a command says that fails with one line, and no traceback."""
    done = meshd(*arguments)
    assert done.returncode in {1, 2}, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return f"{done.returncode} {done.stderr.strip()}"


def test_what_is_wrong_is_one_line_and_a_status(ca: Path, tmp_path: Path) -> None:
    state = ("--state-dir", str(ca))
    absent = str(tmp_path / "absent")
    assert re.match("1 meshd: .*/ca: there is a CA already", fails("init", "--trust-domain", "a.example", *state))
    assert re.match("2 meshd: 'A B' is not a trust domain", fails("init", "--trust-domain", "A B", *state))
    assert re.match(r"1 meshd: .*/absent: .*No such file .* `meshd ca init`", fails("serve", "--state-dir", absent))
    assert re.match("2 meshd: --listen '4180' is not HOST:PORT", fails("serve", *state, "--listen", "4180"))
    assert re.match(r"2 meshd: --name 'a b' is neither", fails("serve", *state, "--name", "a b"))
    (ca / "issuer.key").chmod(0o644)
    assert re.match(r"1 meshd: .*/issuer\.key: holds a private key, and its mode 0644", fails("serve", *state))


def test_a_port_in_use_is_said_so(ca: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        done = meshd("serve", "--state-dir", str(ca), "--listen", listen)
    assert done.returncode == 1
    assert f"meshd: {listen}: cannot listen: the port is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_vanished_stops_signing_not_the_ca(ca: Path) -> None:
    async def main(served: Serving) -> None:
        with closing(sqlite3.connect(ca / "ca.db")) as database:
            database.execute("ALTER TABLE issued RENAME TO mislaid")
        with pytest.raises(Unreachable, match="its log says why"):
            await served.client.sign(csr(), WEB)
        await served.client.health()

    with serving(ca) as served:
        aio.run(main(served))
        wait_until(lambda: "no such table: issued" in served.said(), "the log says why")


def said(*arguments: str) -> str:
    done = meshd(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.peer("openssl")
def test_a_ca_below_an_offline_root_as_an_operator_makes_it(tmp_path: Path) -> None:
    root, ca, secret = tmp_path / "root", tmp_path / "ca", tmp_path / "secret"
    secret.write_text("correct horse battery\n")
    secret.chmod(0o600)
    locked = ("--passphrase-file", str(secret))
    made = said("init", "--root-only", "--trust-domain", TRUST_DOMAIN, "--state-dir", str(root), *locked)
    assert "meshd ca sign-intermediate issuer.csr" in made
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(said("bundle", "--state-dir", str(root)))
    said("init", "--bundle", str(bundle), "--trust-domain", TRUST_DOMAIN, "--state-dir", str(ca), *locked)
    assert "issuer.pem: is missing" in fails("serve", "--state-dir", str(ca), *locked)
    signed = said("sign-intermediate", str(ca / "issuer.csr"), "--state-dir", str(root), *locked)
    (ca / "issuer.pem").write_text(signed)
    assert '"action":"sign-intermediate"' in (root / "audit.log").read_text()
    assert "the key is encrypted: give its passphrase" in fails(
        "sign-intermediate", str(ca / "issuer.csr"), "--state-dir", str(root)
    )
    status = said("status", "--state-dir", str(ca))
    assert re.search(rf"trust domain: +{TRUST_DOMAIN}\n", status)
    assert "its key is elsewhere" in status
    assert re.search(r"issuer: +good for 364d23h", status)
    log = tmp_path / "ca.log"
    argv = [*MESHD, "ca", "serve", "--state-dir", str(ca), "--listen", "127.0.0.1:0", "--passphrase-file", str(secret)]
    with running(argv, log, lambda: "answers at" in log.read_text()):
        (port,) = re.findall(r"answers at https://127\.0\.0\.1:(\d+) as", log.read_text())
        shown = subprocess.run(
            [peers.path("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(bundle),
             "-verify_return_error", "-x509_strict", "-verify_hostname", "localhost"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Verify return code: 0 (ok)" in shown.stdout, shown.stdout + shown.stderr


def test_a_ca_that_is_about_to_end_says_so_by_its_status(ca: Path) -> None:
    assert meshd("status", "--state-dir", str(ca)).returncode == 0
    root = certificates.make_root(TRUST_DOMAIN, certificates.Life(1.0e9, 1.1e9))
    (ca / "bundle.pem").write_bytes(certificates.pem(root.certificate))
    ended = meshd("status", "--state-dir", str(ca), "-o", "json")
    assert ended.returncode == 1
    assert '"trouble": "expired"' in ended.stdout


def test_the_key_of_tokens_is_changed_by_a_running_ca(ca: Path) -> None:
    async def kid(serving: Serving) -> str:
        return str(jwt.get_unverified_header((await serving.client.jwt(WEB, ("reports",))).token)["kid"])

    with serving(ca) as daemon:
        before = aio.run(kid(daemon))
        assert meshd("rotate", "jwt", "--settle", "1s", "--state-dir", str(ca)).returncode == 0
        wait_until(lambda: aio.run(kid(daemon)) != before, "another key signs")
        after = aio.run(kid(daemon))
        bundle = aio.run(daemon.client.news(0))
        assert {each.kid for each in bundle.jwt_keys} == {before, after}
    status = meshd("status", "--state-dir", str(ca)).stdout
    assert re.search(rf"JWT key: +{before} of \S+: retired, believed for \d", status)
    assert re.search(rf"JWT key: +{after} of \S+: signs, believed for 30d", status)
    found = json.loads(meshd("status", "--state-dir", str(ca), "-o", "json").stdout)
    assert [(each["kid"], each["state"]) for each in found["jwt_keys"]] == [(before, "retired"), (after, "signs")]


def test_what_does_not_go_together_is_misuse(tmp_path: Path) -> None:
    options = ("--trust-domain", TRUST_DOMAIN, "--state-dir", str(tmp_path / "ca"))
    assert "do not go together" in fails("init", "--root-only", "--shared-token", *options)
    assert "do not go together" in fails("init", "--root-only", "--bundle", "x", *options)
    assert re.match("1 meshd: x: cannot be read", fails("init", "--bundle", "x", *options))
    assert not (tmp_path / "ca").exists()
