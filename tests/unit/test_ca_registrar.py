"""What an operator does to a CA, and what of it is in the audit log."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshd.api.names import Identity
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, sqlite
from meshd.ca.audit import AuditLog
from meshd.ca.authority import Authority
from meshd.ca.files import CaFiles
from meshd.ca.material import load_root
from meshd.ca.records import Entry, hashed
from meshd.ca.registrar import MAX_USES, MAX_WORKLOADS, Registrar
from meshd.ca.source import Unreachable
from meshd.ca.tokens import PrintedToken
from tests.support.stores import DAY_S, NOW, issued


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """One that wrote nothing into its log yet: its own, of the key that it made, would be the first line."""
    Authority.create(tmp_path / "ca", "prod.example", NOW, audited=False).close()
    return tmp_path / "ca"


@pytest.fixture
def registrar(ca: Path) -> Iterator[Registrar]:
    with Registrar.at(ca, lambda: NOW) as made:
        yield made


def audited(ca: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ca / "audit.log").read_text().split("\n")[:-1]]


def test_a_token_is_printed_once_and_kept_as_a_hash(registrar: Registrar, ca: Path) -> None:
    text, made = registrar.create_token("web-*", ["default/web", "*/probe", "default/web"], 2, 60.0)
    printed = PrintedToken.parse(text)
    assert printed.id == made.id
    assert made.secret_hash == hashed(printed.secret)
    assert printed.root_hash == certificates.key_hash(load_root(CaFiles(ca))[1].public_key())
    assert registrar.store.join_tokens() == [made]
    assert (made.node, made.workloads, made.uses, made.used) == ("web-*", ("default/web", "*/probe"), 2, 0)
    assert (made.made_at, made.expires_at) == (NOW, NOW + 60)
    (line,) = audited(ca)
    assert line["subject"] == f"token {made.id}: 2 times until 2027-01-15T08:01:00Z, for default/web */probe"
    secret = text.split(".")[2].encode()
    assert not any(secret in file.read_bytes() for file in ca.iterdir())


@pytest.mark.parametrize(
    ("node", "workloads", "uses", "reason"),
    [
        ("*", [], 1, r"with --workload.* for all that there are or will be, --workload '\*/\*'"),
        ("*", ["web"], 1, "--workload 'web' is not NAMESPACE/NAME"),
        ("*", ["*"], 1, r"--workload '\*' is not NAMESPACE/NAME"),
        ("", ["*/*"], 1, "--node '' is not a node's name"),
        ("vm1.example", ["*/*"], 1, "--node 'vm1.example' is not a node's name"),
        ("*", ["*/*"], 0, "--uses 0 is not from 1"),
        ("*", ["*/*"], MAX_USES + 1, "--uses 10001 is not from 1"),
        ("*", [f"a/w{number}" for number in range(MAX_WORKLOADS + 1)], 1, "--workload is given 65 times"),
    ],
)
def test_a_token_that_cannot_be_meant_is_not_made(
    registrar: Registrar, ca: Path, node: str, workloads: list[str], uses: int, reason: str
) -> None:
    with pytest.raises(Misuse, match=reason):
        registrar.create_token(node, workloads, uses, 60.0)
    assert registrar.store.join_tokens() == []
    assert not (ca / "audit.log").exists()


def test_every_change_is_in_the_audit_log_by_its_number(registrar: Registrar, ca: Path) -> None:
    _, made = registrar.create_token("vm1", ["default/web"], 1, 60.0)
    registrar.revoke_token(made.id)
    web, every = registrar.add_entries("vm*", ["default/web", "mesh/*", "mesh/*"])
    assert registrar.add_entries("vm*", ["default/web"]) == []
    assert registrar.store.entries() == [web, every]
    assert web == Entry(web.id, "vm*", "default/web", "operator", NOW)
    registrar.remove_entry(web.id)
    lines = audited(ca)
    assert [line["sequence"] for line in lines] == [2, 3, 4, 5, 6]
    assert {line["decision"] for line in lines} == {"changed"}
    assert all(line["actor"].startswith("operator ") for line in lines)
    assert [(line["action"], line.get("node", ""), line["subject"].partition(":")[0]) for line in lines] == [
        ("token create", "vm1", f"token {made.id}"),
        ("token revoke", "", f"token {made.id}"),
        ("entry add", "vm*", f"entry {web.id}"),
        ("entry add", "vm*", f"entry {every.id}"),
        ("entry remove", "", f"entry {web.id}"),
    ]


def test_what_is_not_there_is_a_problem(registrar: Registrar, ca: Path) -> None:
    with pytest.raises(Problem, match="there is no join token abc"):
        registrar.revoke_token("abc")
    with pytest.raises(Problem, match="there is no entry abc"):
        registrar.remove_entry("abc")
    assert not (ca / "audit.log").exists()


def test_an_operator_needs_none_of_the_cas_keys(ca: Path) -> None:
    for key in ("root.key", "issuer.key"):
        (ca / key).unlink()
    with Registrar.at(ca) as registrar:
        registrar.create_token("*", ["*/*"], 1, 60.0)


def test_a_denied_node_takes_all_that_it_was_given_along(registrar: Registrar, ca: Path) -> None:
    for each in (
        issued("01", "vm1"),
        issued("02", "vm1", "default/api"),
        issued("03", "vm2"),
        issued("04", "vm1", at=NOW - 5 * DAY_S),
    ):
        registrar.store.add(each)
    assert registrar.deny_node("vm1", "lost") == 2
    denied = registrar.store.denied().records
    assert {(each.kind, each.value, each.expires_at) for each in denied} == {
        ("node", "vm1", 0.0),
        ("serial", "01", NOW + DAY_S),
        ("serial", "02", NOW + DAY_S),
    }
    registrar.deny_serial("03", "copied")
    registrar.allow("node", "vm1")
    assert [each.value for each in registrar.store.denied().records] == ["03"]
    lines = audited(ca)
    assert [line["action"] for line in lines] == ["revoke"] * 3 + ["allow"] * 3
    assert lines[0]["reason"] == "lost"
    assert lines[1]["subject"] == "2 certificates of node vm1"


def test_a_node_with_more_certificates_than_fit_is_denied_and_what_it_has_is_said_to_be_good_still(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_DENIED", 3)
    for number, workload in enumerate(("default/web", "default/api", "default/web")):
        registrar.store.add(issued(f"0{number}", "vm1", workload))
    registrar.deny_identity(Identity.parse("spiffe://prod.example/ns/default/sa/other"), "")
    with pytest.raises(Problem) as raised:
        registrar.deny_node("vm1", "stolen")
    message = str(raised.value)
    assert "the deny list would have 5 records, and 3 is the most" in message
    assert "vm1 is denied and gets no more certificates, but the 3 that it has are still believed, until " in message
    assert "--workload default/web --workload default/api;" in message
    assert [each.kind for each in registrar.store.denied().records] == ["identity", "node"]


def test_an_identity_or_a_certificate_is_denied_and_allowed_again(registrar: Registrar) -> None:
    registrar.store.add(issued("01", "vm1"))
    web = Identity.parse("spiffe://prod.example/ns/default/sa/web")
    registrar.deny_identity(web, "leaked")
    assert registrar.deny_serial("01", "leaked").node == "vm1"
    assert {(each.kind, each.value) for each in registrar.store.denied().records} == {
        ("identity", str(web)),
        ("serial", "01"),
    }
    with pytest.raises(Problem, match="no certificate with the serial number 02 is on record"):
        registrar.deny_serial("02", "")
    with pytest.raises(Problem, match="the node vm1 is not denied"):
        registrar.allow("node", "vm1")
    with pytest.raises(Misuse, match=r"--node .*'VM1' is not a DNS label"):
        registrar.deny_node("VM1", "")


# --- the log itself


def write(log: AuditLog, number: int, **fields: Any) -> None:
    log.write(NOW, number, "sign", "issued", "node vm1", **fields)


def test_a_line_is_whole_whatever_is_in_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    write(log, 1, reason='a "quoted"\nline\u2028\0', peer="x" * 1000, node="vm\udcff")
    (line,) = audited(tmp_path)
    assert line["reason"] == 'a "quoted"\nline\u2028\0'
    assert len(line["peer"]) == 400
    assert line["node"] == "vm?"
    assert "identity" not in line
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    write(log, 1)
    (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
    write(log, 2)
    assert [line["sequence"] for line in audited(tmp_path)] == [2]
    assert '"sequence":1' in (tmp_path / "audit.log.1").read_text()


def test_a_log_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(Unreachable, match=r"the audit log .*audit\.log cannot be written: Is a directory"):
        write(AuditLog(tmp_path / "audit.log"), 1)


def test_a_full_disk_is_said_so() -> None:
    with pytest.raises(Unreachable, match="cannot be written: No space left on device"):
        write(AuditLog(Path("/dev/full")), 1)


def test_a_log_that_is_a_pipe_is_written_though_it_cannot_be_synced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit.log")
    reader = os.open(tmp_path / "audit.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(AuditLog(tmp_path / "audit.log"), 1)
        assert b'"sequence":1' in os.read(reader, 4096)
    finally:
        os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_log_that_root_began_belongs_to_the_ca(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    write(AuditLog(tmp_path / "audit.log"), 1)
    assert (tmp_path / "audit.log").stat().st_uid == 65534


def test_the_database_and_its_journal_are_found_by_the_registrar_alone(ca: Path) -> None:
    with closing(Authority.open(ca, NOW)), Registrar.at(ca) as registrar:  # beside a CA that runs
        registrar.create_token("*", ["*/*"], 1, 60.0)
