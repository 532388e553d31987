"""A rotation stage by stage: who verifies what in each, and that it may be interrupted anywhere."""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshd.api.problems import Problem
from meshd.ca import files, material
from meshd.ca.authority import Authority
from meshd.ca.files import CaFiles
from meshd.ca.registrar import Registrar
from meshd.ca.sqlite import SqliteStore
from tests.support.authorities import AGENT, TRUST_DOMAIN, WEB
from tests.support.csr import csr

NOW = 1_800_000_000.0


class Ca:
    """A CA in a directory, at a time of the test's own; opened anew for each call, as after an interruption."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, NOW
        Authority.create(directory, TRUST_DOMAIN, NOW).close()

    def opened(self) -> "closing[Authority]":
        return closing(Authority.open(self.directory, self.now))

    def asks(self, do: Callable[[Registrar], None]) -> None:
        with Registrar.at(self.directory, lambda: self.now) as registrar:
            do(registrar)

    def rotates(self) -> str:
        """The stage after a look at what is due, a second later."""
        self.now += 1
        with self.opened() as authority:
            authority.rotate(self.now)
            found = authority.store.rotation()
        assert found is not None
        return found.stage

    def bundle(self) -> str:
        with self.opened() as authority:
            return authority.bundle().bundle_pem

    def leaf(self) -> str:
        """The chain of a new leaf (PEM)."""
        with self.opened() as authority:
            return authority.issue(csr(), WEB, self.now, AGENT).chain_pem


def a_root(registrar: Registrar) -> None:
    registrar.rotate("root", 0.0, 60.0, 0.0)


@pytest.fixture
def ca(tmp_path: Path) -> Ca:
    return Ca(tmp_path / "ca")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def is_good(chain_pem: str, bundle_pem: str, scratch: Path) -> bool:
    """Whether OpenSSL believes the chain who knows these roots."""
    certificates = x509.load_pem_x509_certificates(chain_pem.encode())
    (scratch / "roots").write_text(bundle_pem)
    (scratch / "chain").write_text(chain_pem)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "roots", "-untrusted", "chain", "chain"]
    command[2:2] = ["-attime", str(int(certificates[0].not_valid_before_utc.timestamp()) + 61)]
    return subprocess.run(command, cwd=scratch, capture_output=True, check=False).returncode == 0


def test_who_knows_either_root_verifies_every_chain_of_every_stage(ca: Ca, scratch: Path) -> None:
    old, before = ca.bundle(), ca.leaf()
    ca.now += 86400.0 * 2  # whoever held it has renewed it, or lost it
    ca.asks(a_root)
    assert ca.rotates() == "prepared"
    both = ca.bundle()
    assert both.startswith(old)
    assert both != old
    prepared = ca.leaf()
    assert is_good(prepared, old, scratch)
    ca.now += 86400.0 * 2
    assert ca.rotates() == "active"
    active = ca.leaf()
    new = ca.bundle().removesuffix(old)
    for chain in (prepared, active):
        assert is_good(chain, old, scratch)
        assert is_good(chain, both, scratch)
    assert is_good(active, new, scratch)
    assert not is_good(prepared, new, scratch)
    ca.now += 86400.0 * 2
    assert ca.rotates() == "done"
    assert ca.bundle() == new
    done = ca.leaf()
    assert is_good(done, new, scratch)
    assert is_good(active, new, scratch)
    assert not is_good(done, old, scratch)
    assert not (ca.directory / "root.next").exists()
    assert is_good(before, old, scratch)


def test_a_stage_is_not_left_before_who_is_waited_for_has_done_or_the_operator_said_so(ca: Ca) -> None:
    ca.leaf()  # held by someone who cannot say so
    ca.asks(lambda registrar: registrar.rotate("root", 0.0, 60.0, 30.0))
    assert [ca.rotates() for _ in range(3)] == ["prepared"] * 3
    ca.now += 30.0
    assert ca.rotates() == "active"
    assert ca.rotates() == "active"


def test_a_new_issuer_signs_and_what_the_old_one_signed_stays_good(ca: Ca, scratch: Path) -> None:
    bundle, before = ca.bundle(), ca.leaf()
    ca.asks(lambda registrar: registrar.rotate("issuer", 0.0, 0.0, 0.0))
    assert ca.rotates() == "done"
    after = ca.leaf()
    assert ca.bundle() == bundle
    assert issuer_of(after) != issuer_of(before)
    for chain in (before, after):
        assert is_good(chain, bundle, scratch)


def test_a_rotation_is_aborted_before_and_after_the_new_root_signs(ca: Ca, scratch: Path) -> None:
    old = ca.bundle()
    ca.asks(a_root)
    assert ca.rotates() == "prepared"
    ca.asks(Registrar.abort_rotation)
    assert ca.rotates() == "aborted"
    assert ca.bundle() == old

    ca.asks(a_root)
    assert [ca.rotates(), ca.rotates()] == ["prepared", "active"]
    active = ca.leaf()
    ca.asks(Registrar.abort_rotation)
    assert ca.rotates() == "reverting"
    assert is_good(active, ca.bundle(), scratch)
    assert is_good(ca.leaf(), old, scratch)
    ca.now += 86400.0 * 2
    assert ca.rotates() == "aborted"
    assert ca.bundle() == old
    with pytest.raises(Problem, match="there is no rotation that could be aborted"):
        ca.asks(Registrar.abort_rotation)


def test_two_rotations_are_not_under_way_at_once(ca: Ca) -> None:
    ca.asks(a_root)
    with pytest.raises(Problem, match=r"a rotation is under way already \(root: asked\)"):
        ca.asks(a_root)


class Killed(BaseException):
    """The process ends here."""


class Death:
    """Comes before one of the calls of what it stands before: the one of that number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                raise Killed
            return function(*arguments, **more)

        return dying


@pytest.mark.parametrize("abort", [False, True])
def test_a_ca_that_is_killed_at_any_point_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abort: bool) -> None:
    """Before each write of a file and each change of the record, in turn."""
    for number in range(20):
        directory = tmp_path / str(number)
        ca = Ca(directory)
        old = ca.bundle()
        death = Death(number)
        ca.asks(a_root)
        stage = ""
        while stage not in ("done", "aborted"):
            with monkeypatch.context() as patch, suppress(Killed):
                patch.setattr(files, "write", death.before(files.write))
                patch.setattr(SqliteStore, "rotate", death.before(SqliteStore.rotate))
                stage = ca.rotates()
            if abort and stage == "active":
                ca.asks(Registrar.abort_rotation)
                stage = "aborting"
        assert (ca.bundle() == old) is abort
        assert not (directory / "root.next").exists()
        with ca.opened() as authority:
            material.renew_issuer(CaFiles(directory), authority.own, ca.now)  # the root's key is the root's
        shutil.rmtree(directory)
        if death.left >= 0:
            return
    raise AssertionError("there is no end to it")


def issuer_of(chain_pem: str) -> bytes:
    return x509.load_pem_x509_certificates(chain_pem.encode())[1].signature
