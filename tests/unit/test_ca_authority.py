"""The authority over its life: made, opened, renewed, out of order. Times are the test's own."""

import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from meshd.api.control import Certificate
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, passphrase
from meshd.ca.authority import Authority
from meshd.ca.certificates import BACKDATE_S, ISSUER_LIFE_S, LEAF_LIFE_S, ROOT_LIFE_S
from meshd.ca.files import CaFiles
from meshd.ca.issuing import Wanted
from meshd.ca.local import LocalCa
from meshd.ca.records import Denied, Issued, Rotation
from meshd.ca.source import Forbidden, Refusal, Unreachable
from tests.support.authorities import AGENT, TOKEN, TRUST_DOMAIN, WEB, recorded
from tests.support.csr import csr

NOW = 1_800_000_000.0
DAY_S = 86400.0


@contextmanager
def made(directory: Path, now: float = NOW) -> Iterator[Authority]:
    with closing(Authority.create(directory, TRUST_DOMAIN, now, TOKEN)) as authority:
        yield authority


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    with made(tmp_path / "ca"):
        return tmp_path / "ca"


def open_at(directory: Path, now: float = NOW) -> Authority:
    return Authority.open(directory, now)


def test_everything_is_in_files_that_only_the_owner_reads(ca: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in ca.iterdir()}
    assert modes == {
        "agent.token": 0o600,
        "audit.log": 0o600,
        "bundle.pem": 0o644,
        "ca.db": 0o600,
        "issuer.key": 0o600,
        "jwt.key": 0o600,
        "root.key": 0o600,
    }
    assert stat.S_IMODE(ca.stat().st_mode) == 0o700
    assert (ca / "agent.token").read_text() == TOKEN + "\n"


def test_a_token_is_known_by_its_hash_alone(ca: Path) -> None:
    with closing(open_at(ca)) as authority:
        assert authority.store.knows_token(TOKEN)
        assert not any(authority.store.knows_token(each) for each in ("", TOKEN[:-1], TOKEN + "x", "\udcff"))
    assert TOKEN.encode() not in (ca / "ca.db").read_bytes()


def test_a_certificate_is_on_record_as_it_was_issued(ca: Path) -> None:
    with closing(open_at(ca)) as authority:
        certificate = authority.issue(csr(), WEB, NOW, AGENT)
        (issued,) = recorded(ca)
    leaf, issuer = x509.load_pem_x509_certificates(certificate.chain_pem.encode())
    assert issued == Issued(
        serial=certificates.serial(leaf),
        identity=str(WEB),
        requester="shared token at 192.0.2.1",
        not_before=NOW - BACKDATE_S,
        not_after=NOW + LEAF_LIFE_S,
        issued_at=NOW,
        node="",
        workload="default/web",
    )
    assert (certificate.not_before, certificate.not_after) == (NOW - BACKDATE_S, NOW + LEAF_LIFE_S)
    issuer.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.bundle_pem.encode()))


def test_nothing_is_issued_that_cannot_be_stored(ca: Path) -> None:
    with closing(open_at(ca)) as authority:
        with closing(sqlite3.connect(ca / "ca.db")) as other:
            other.execute("DROP TABLE issued")
        with pytest.raises(Unreachable, match=r"ca\.db cannot be used: no such table"):
            authority.issue(csr(), WEB, NOW, AGENT)
        with pytest.raises(Unreachable, match=r"ca\.db cannot be used"):
            authority.issue_server(("localhost",), NOW)


def test_what_is_asked_for_together_is_judged_each_for_itself(ca: Path) -> None:
    wanted = [Wanted(csr(), WEB, NOW, AGENT) for _ in range(3)]
    wanted[1] = wanted[1]._replace(csr_pem="no request")
    with closing(open_at(ca)) as authority:
        first, refused, third = authority.issue_all(wanted)
        authority.store.deny([Denied("identity", str(WEB), "stolen", NOW)])
        (denied,) = authority.issue_all(wanted[:1])
    assert isinstance(first, Certificate)
    assert isinstance(third, Certificate)
    assert isinstance(refused, Refusal)
    assert isinstance(denied, Forbidden)
    serials = [certificates.serial(x509.load_pem_x509_certificate(each.chain_pem.encode())) for each in (first, third)]
    assert [each.serial for each in recorded(ca)] == serials
    lines = [msgspec.json.decode(line) for line in (ca / "audit.log").read_text().splitlines()]
    assert [(line["serial"], line["sequence"]) for line in lines[1:]] == [(serials[0], 2), (serials[1], 3)]


def test_what_cannot_be_kept_together_is_given_to_none_and_what_is_refused_is_so_all_the_same(ca: Path) -> None:
    wanted = [Wanted(text, WEB, NOW, AGENT) for text in (csr(), "no request", csr())]
    with closing(open_at(ca)) as authority:
        (ca / "audit.log").unlink()
        (ca / "audit.log").mkdir()
        unaudited = authority.issue_all(wanted)
        with closing(sqlite3.connect(ca / "ca.db")) as other:
            other.execute("DROP TABLE issued")
        unstored = authority.issue_all(wanted)
        assert isinstance(authority.issue_all(wanted[1:2])[0], Refusal)
    for answers in (unaudited, unstored):
        assert [type(each) for each in answers] == [Unreachable, Refusal, Unreachable]


def test_what_expired_long_ago_is_forgotten_and_nothing_else(ca: Path) -> None:
    with closing(open_at(ca)) as authority:
        authority.issue(csr(), WEB, NOW, replace(AGENT, name="first"))
        authority.issue(csr(), WEB, NOW + DAY_S, replace(AGENT, name="second"))
        authority.maintain(NOW + LEAF_LIFE_S + authority.store.keep_expired_s + 3600)
        assert [issued.requester for issued in recorded(ca)] == ["second at 192.0.2.1"]


# --- making -----------------------------------------------------------------------------------------------------------


def test_a_ca_is_never_overwritten(ca: Path) -> None:
    before = {file.name: file.read_bytes() for file in ca.iterdir()}
    with pytest.raises(Problem, match="there is a CA already"):
        Authority.create(ca, TRUST_DOMAIN, NOW)
    assert {file.name: file.read_bytes() for file in ca.iterdir()} == before


@pytest.mark.parametrize("left", ["root.key", "issuer.key", "ca.db", "bundle.pem"])
def test_nor_is_what_is_left_of_one(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("precious")
    with pytest.raises(Problem, match="there is a CA already"):
        Authority.create(tmp_path, TRUST_DOMAIN, NOW)
    assert (tmp_path / left).read_text() == "precious"


def test_what_an_interrupted_making_left_is_made_anew(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), CaFiles(tmp_path).making():
        (tmp_path / "root.key").write_text("half")
        (tmp_path / ".issuer.key.x1y2").write_text("less")
        raise KeyboardInterrupt
    with pytest.raises(Problem, match="interrupted: run `meshd ca init` again"):
        open_at(tmp_path)
    with made(tmp_path) as authority:
        authority.issue(csr(), WEB, NOW, AGENT)
    assert not {"incomplete", ".issuer.key.x1y2"} & {file.name for file in tmp_path.iterdir()}


def test_a_directory_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(Problem, match=r"is not empty \(mine\): a CA is made in a directory of its own"):
        Authority.create(tmp_path, TRUST_DOMAIN, NOW)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_two_do_not_make_one_at_once(tmp_path: Path) -> None:
    with CaFiles(tmp_path).making(), pytest.raises(Problem, match="another process is making a CA"):
        Authority.create(tmp_path, TRUST_DOMAIN, NOW)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match=r"file/ca: cannot be written by uid .*: Not a directory"):
        Authority.create(tmp_path / "file" / "ca", TRUST_DOMAIN, NOW)


@pytest.mark.parametrize(
    "name", ["", "Prod.example", "prod..example", "prod/example", "spiffe://prod.example", "a" * 64]
)
def test_what_is_no_trust_domain_is_misuse(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misuse, match="is not a trust domain"):
        Authority.create(tmp_path / "ca", name, NOW)
    assert not (tmp_path / "ca").exists()


# --- opening ----------------------------------------------------------------------------------------------------------


def other_ca(ca: Path) -> CaFiles:
    with made(ca.parent / "other"):
        return CaFiles(ca.parent / "other")


def swap_issuer(ca: Path) -> None:
    (ca / "issuer.key").write_bytes(other_ca(ca).issuer.read_bytes())


def swap_certificate(ca: Path) -> None:
    key = (ca / "issuer.key").read_text().split("-----BEGIN CERTIFICATE")[0]
    certificate = other_ca(ca).issuer.read_text().split("-----END PRIVATE KEY-----\n")[1]
    (ca / "issuer.key").write_text(key + certificate)


def leaf_as_root(ca: Path) -> None:
    with closing(open_at(ca)) as authority:
        (ca / "bundle.pem").write_text(authority.issue(csr(), WEB, NOW, AGENT).chain_pem)


def damage(ca: Path) -> None:
    """In the middle of the file: its head is good, so that only a check finds it."""
    content = bytearray((ca / "ca.db").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (ca / "ca.db").write_bytes(content)


def foreign_database(ca: Path) -> None:
    (ca / "ca.db").unlink()
    with closing(sqlite3.connect(ca / "ca.db")) as other:
        other.execute("CREATE TABLE mine (x)")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ca: (ca / "bundle.pem").unlink(), r"bundle\.pem is missing"),
        (lambda ca: (ca / "bundle.pem").write_text("x"), r"bundle\.pem: holds no certificate"),
        (leaf_as_root, r"bundle\.pem: the certificate there is not the root of a trust domain"),
        (lambda ca: (ca / "issuer.key").unlink(), r"issuer\.key: cannot be read by uid \d+: No such file"),
        (lambda ca: (ca / "issuer.key").write_text("x"), r"issuer\.key: holds no private key"),
        (lambda ca: (ca / "issuer.key").chmod(0o640), r"issuer\.key: .* its mode 0640 lets others"),
        (swap_issuer, r"issuer\.key: not signed by the root in .*bundle\.pem"),
        (swap_certificate, r"issuer\.key: its certificate is not of its key"),
        (lambda ca: (ca / "ca.db").unlink(), r"ca\.db: the CA's database is missing"),
        (lambda ca: (ca / "ca.db").write_text("x" * 8192), r"ca\.db: the CA's database cannot be used: file is not a"),
        (damage, r"ca\.db: the CA's database (is damaged|cannot be used)"),
        (foreign_database, r"ca\.db: the CA's database is of another program"),
        (lambda ca: ca.chmod(0o777), r"ca: its mode 0777 lets others than its owner write"),
    ],
)
def test_a_ca_that_is_not_whole_or_not_safe_is_not_opened(
    ca: Path, wrong: Callable[[Path], object], message: str
) -> None:
    wrong(ca)
    with pytest.raises(Problem, match=message):
        open_at(ca)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away and to be another user")
def test_a_ca_is_its_owners_alone(ca: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(Problem, match=r"cannot be read by uid 65534: Permission denied"):
            open_at(ca)
    finally:
        os.seteuid(0)
    os.chown(ca / "issuer.key", 65534, 65534)
    with pytest.raises(Problem, match=r"issuer\.key: belongs to uid 65534, and this is uid 0"):
        open_at(ca)


def test_a_directory_without_a_ca_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"holds no CA .* make one with `meshd ca init`"):
        open_at(tmp_path)
    with pytest.raises(Problem, match=r"cannot be read by uid \d+: No such file .*`meshd ca init`"):
        open_at(tmp_path / "absent")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (NOW - DAY_S, "the root is good from 2027-01-15T07:59:00Z on: correct this host's clock"),
        (NOW + ROOT_LIFE_S + 1, "the root expired at 2037-01-14T08:00:00Z: .* make a new CA"),
    ],
)
def test_a_root_that_is_not_good_now_is_said_so(ca: Path, now: float, message: str) -> None:
    with pytest.raises(Problem, match=message):
        open_at(ca, now)


# --- keys that are encrypted ------------------------------------------------------------------------------------------

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    Authority.create(tmp_path / "ca", TRUST_DOMAIN, NOW, passphrase=PASSPHRASE).close()
    return tmp_path / "ca"


def test_with_a_passphrase_no_key_is_on_disk_without_it(locked: Path) -> None:
    due = NOW + ISSUER_LIFE_S * 2 / 3
    with closing(Authority.open(locked, due, passphrase=PASSPHRASE)) as authority:
        authority.issue(csr(), WEB, due, AGENT)
    for key in ("root.key", "issuer.key"):  # the latter as it was renewed
        assert "BEGIN ENCRYPTED PRIVATE KEY" in (locked / key).read_text()
    with closing(Authority.open(locked, due, passphrase=PASSPHRASE)):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"issuer\.key: the key is encrypted: give its passphrase with --passphrase-file"),
        (b"another passphrase", r"issuer\.key: the passphrase is not the key's"),
    ],
)
def test_without_its_passphrase_a_ca_is_not_opened(locked: Path, given: bytes | None, message: str) -> None:
    with pytest.raises(Problem, match=message):
        Authority.open(locked, NOW, passphrase=given)


def test_a_key_in_the_clear_where_a_passphrase_is_given_is_not_taken(ca: Path) -> None:
    """It may have been put there by someone who does not know the passphrase."""
    with pytest.raises(Problem, match=r"issuer\.key: the key is not encrypted, and a passphrase is given"):
        Authority.open(ca, NOW, passphrase=PASSPHRASE)


def test_a_passphrase_is_read_from_a_file_or_from_systemd(tmp_path: Path) -> None:
    file = tmp_path / passphrase.CREDENTIAL
    assert passphrase.read(None, {}) is None
    assert passphrase.read(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    file.write_bytes(PASSPHRASE + b"\n")
    assert passphrase.read(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == PASSPHRASE
    with pytest.raises(Problem, match="its mode 0644 lets others"):
        passphrase.read(file, {})
    file.chmod(0o600)
    assert passphrase.read(file, {}) == PASSPHRASE
    file.write_bytes(b"short\n")
    with pytest.raises(Problem, match="the passphrase there has 5 bytes, and 12 is the least"):
        passphrase.read(file, {})
    with pytest.raises(Problem, match="cannot be read"):
        passphrase.read(tmp_path / "none", {})
    file.chmod(0o644)
    with pytest.raises(Problem, match="holds a passphrase, and its mode 0644 lets others"):
        passphrase.read(file, {})


# --- the issuer's succession ------------------------------------------------------------------------------------------


def issuer_of(authority: Authority, now: float) -> x509.Certificate:
    return x509.load_pem_x509_certificates(authority.issue(csr(), WEB, now, AGENT).chain_pem.encode())[1]


def test_the_issuer_is_renewed_at_two_thirds_below_the_same_root(ca: Path) -> None:
    due = NOW + ISSUER_LIFE_S * 2 / 3
    with closing(open_at(ca)) as authority:
        first, bundle = issuer_of(authority, NOW), authority.bundle_pem
        authority.maintain(due - DAY_S)
        assert issuer_of(authority, due - DAY_S) == first
        authority.maintain(due)
        second = issuer_of(authority, due)
        assert second.public_key() != first.public_key()
        assert authority.bundle_pem == bundle
        second.verify_directly_issued_by(x509.load_pem_x509_certificate(bundle.encode()))
    with closing(open_at(ca, due)) as authority:
        assert issuer_of(authority, due) == second


@pytest.mark.parametrize("lost", ["bundle.pem", "issuer.key"])
def test_a_file_that_goes_away_meanwhile_is_named_and_stops_nothing_else(ca: Path, lost: str) -> None:
    with closing(open_at(ca)) as authority:
        before = authority.bundle()
        authority.store.rotate(None, Rotation("root", "asked", NOW, NOW, 1.0, 1.0, 0.0))
        kept = (ca / lost).rename(ca.with_name("kept"))
        with pytest.raises(Unreachable, match=f"cannot be read again: .*{lost}: cannot be read"):
            authority.bundle()
        assert authority.last_bundle() == before
        with pytest.raises(Problem, match=f"{lost}: cannot be read"):
            authority.rotate(NOW + 1)
        assert authority.issue(csr(), WEB, NOW + 1, AGENT).chain_pem
        kept.rename(ca / lost)
        authority.rotate(NOW + 2)
        assert authority.bundle().bundle_pem.count("BEGIN CERTIFICATE") == 2


def test_an_issuer_that_expired_while_the_ca_was_off_is_renewed_when_it_is_opened(ca: Path) -> None:
    late = NOW + 2 * ISSUER_LIFE_S
    with closing(open_at(ca, late)) as authority:
        assert authority.issue(csr(), WEB, late, AGENT).not_after == late + LEAF_LIFE_S


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ca: (ca / "root.key").unlink(), r"not renewed: .*root\.key: cannot be read"),
        (lambda ca: (ca / "root.key").chmod(0o644), r"not renewed: .*root\.key: .* mode 0644"),
        (
            lambda ca: (ca / "root.key").write_bytes(other_ca(ca).root_key.read_bytes()),
            r"not renewed: .*root\.key: not the key of the root",
        ),
    ],
)
def test_without_the_roots_key_the_ca_signs_until_the_issuer_ends(
    ca: Path, wrong: Callable[[Path], object], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong(ca)
    end = NOW + ISSUER_LIFE_S
    with closing(open_at(ca, end - 3600)) as authority:
        assert re.search(message, caplog.text)
        assert authority.issue(csr(), WEB, end - 3600, AGENT).not_after == end
        with pytest.raises(Unreachable, match="expired, or about to"):
            authority.issue(csr(), WEB, end, AGENT)
        with pytest.raises(Unreachable, match="issuer is good from"):
            authority.check(end)
    with pytest.raises(Problem, match=r"issuer is good from .* to 2028-01-15T08:00:00Z, and the CA's clock says 2028"):
        open_at(ca, end)


def test_the_roots_end_is_announced_a_year_before(ca: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_at(ca, NOW + ROOT_LIFE_S - 366 * DAY_S).close()
    assert "the root expires" not in caplog.text
    open_at(ca, NOW + ROOT_LIFE_S - 364 * DAY_S).close()
    assert "the root expires at 2037-01-14T08:00:00Z: make a new CA before" in caplog.text


def test_an_agent_of_one_trust_domain_does_not_take_the_ca_of_another(ca: Path) -> None:
    with pytest.raises(Problem, match=r"is of the trust domain prod\.example, not mesh\.local"):
        LocalCa.at(ca, "mesh.local", lambda: NOW)
