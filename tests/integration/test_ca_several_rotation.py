"""CAs on one Consul change issuers and roots together, at times of the test's own: who waits, and who believes what."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from msgspec.structs import replace

from meshd.api.problems import Problem
from meshd.ca import certificates, external, files, material, roots
from meshd.ca.authority import Authority
from meshd.ca.certificates import Life
from meshd.ca.files import CaFiles
from meshd.ca.keyed.store import KeyedStore
from meshd.ca.records import IssuerAnswer, Rotation
from meshd.ca.rotation import waits_for
from meshd.ca.settings import StoreSettings
from meshd.ca.source import Unreachable
from tests.integration.test_ca_rotation_stages import is_good
from tests.support.authorities import AGENT, TRUST_DOMAIN, WEB
from tests.support.consul import Consul, agent
from tests.support.csr import csr
from tests.support.stores import NOW, consul_settings

pytestmark = pytest.mark.peer("consul")

DAY_S = 86400.0


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    with agent() as started:
        yield started


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


class Cas:
    """The first has the root's key. Each runs until `off`."""

    def __init__(self, consul: Consul, directory: Path) -> None:
        self.consul, self.directory, self.now = consul, directory, NOW
        self.settings = StoreSettings(consul_settings(consul))
        self.running: dict[str, Authority] = {}
        self._open = ExitStack()
        Authority.create(directory / "first", TRUST_DOMAIN, NOW, store=self.settings).close()
        for name in ("second", "third"):
            self._make(name)
        for name in ("first", "second", "third"):
            self.on(name)
            self.running[name].rotate(self.now)

    def _make(self, name: str) -> None:
        root = CaFiles(self.directory / "first")
        below = CaFiles(self.directory / name)
        Authority.create_below(below.directory, TRUST_DOMAIN, root.bundle.read_bytes(), store=self.settings)
        self.signs(name)

    def signs(self, name: str) -> None:
        """As `meshd ca sign-intermediate` does."""
        root, below = CaFiles(self.directory / "first"), CaFiles(self.directory / name)
        request = x509.load_pem_x509_csr(below.issuer_request.read_bytes())
        life = Life.starting(self.now, certificates.ISSUER_LIFE_S)
        made = external.certify(material.load_root_pair(root, self.now), TRUST_DOMAIN, request, life)
        below.issuer_chain.write_bytes(certificates.pem(made))

    def on(self, name: str) -> Authority:
        self.running[name] = Authority.open(self.directory / name, self.now, store=self.settings)
        return self.running[name]

    def off(self, *names: str) -> None:
        for name in names:
            self.running.pop(name).close()

    def ticks(self, *names: str) -> str:
        """The stage, after those looked in turn at what is due, a second later."""
        self.now += 1
        for name in names or self.running:
            self.running[name].rotate(self.now)
        return self.rotation().stage

    def comes_to(self, stage: str, limit: int = 8) -> None:
        reached: list[str] = [self.rotation().stage]
        while reached[-1] != stage:
            assert len(reached) <= limit, reached
            reached.append(self.ticks())

    @property
    def first(self) -> Authority:
        return self.running["first"]

    def rotation(self) -> Rotation:
        found = self.first.store.rotation()
        assert found is not None
        return found

    def asks(self, what: str, stage: str = "asked") -> None:
        """As an operator does."""
        before = self.first.store.rotation()
        if before is None or before.is_over:
            after = Rotation(what, "asked", self.now, self.now, 0.0, 60.0, 0.0)  # type: ignore[arg-type]
        else:
            after = before._replace(stage=stage, stage_at=self.now)  # type: ignore[arg-type]
        self.first.store.rotate(before, after)

    def waits_for(self) -> tuple[str, ...]:
        return waits_for(self.rotation(), self.first.store, self.now)

    def leaf(self, name: str) -> str:
        return self.running[name].issue(csr(), WEB, self.now, AGENT).chain_pem

    def bundles(self) -> set[str]:
        return {each.bundle().bundle_pem for each in self.running.values()}

    def called(self, name: str) -> str:
        return (self.directory / name / "ca.name").read_text().strip()

    def close(self) -> None:
        self.off(*self.running)


@pytest.fixture
def cas(consul: Consul, tmp_path: Path) -> Iterator[Cas]:
    with closing(Cas(consul, tmp_path)) as made:
        yield made


def test_a_root_is_changed_when_every_ca_that_runs_is_ready_and_all_at_once(cas: Cas, scratch: Path) -> None:
    cas.off("third")
    (old,) = cas.bundles()
    before = cas.leaf("second")
    cas.now += 2 * DAY_S  # whoever held it has renewed it, or lost it
    cas.asks("root")
    assert cas.ticks("first") == "prepared"
    bundles = [each.bundle() for each in cas.running.values()]  # at once, though the second one has done nothing yet
    assert bundles[0] == bundles[1]
    both = bundles[0].bundle_pem
    assert both.count("BEGIN") == 2
    assert cas.waits_for() == (f"the CA {cas.called('second')}",)
    assert cas.ticks("first") == "prepared"
    assert cas.ticks("second") == "prepared"
    assert cas.waits_for() == ()
    prepared = cas.leaf("second")
    cas.now += 2 * DAY_S

    assert cas.ticks("first") == "active"
    active = cas.leaf("second")  # it has heard nothing of it: the store tells it as it signs
    new = both.removeprefix(old)
    for chain in (before, prepared):
        assert is_good(chain, old, scratch)
        assert not is_good(chain, new, scratch)
    for known in (old, both, new):
        assert is_good(active, known, scratch)
        assert is_good(cas.leaf("first"), known, scratch)
    renewals = [each.bundle().renewal for each in cas.running.values()]
    assert renewals[0] == renewals[1]
    assert renewals[0] is not None

    cas.now += 2 * DAY_S
    cas.comes_to("done")
    cas.ticks()
    assert cas.bundles() == {new}
    done = cas.leaf("second")
    assert is_good(done, new, scratch)
    assert done.count("BEGIN") == 2
    assert not (cas.directory / "second" / "issuer.next").exists()
    cas.off("second")
    assert cas.on("second").bundle().bundle_pem == new


def test_what_was_signed_before_all_signed_below_the_new_root_is_to_be_renewed(cas: Cas) -> None:
    cas.asks("root")
    cas.comes_to("prepared")
    cas.ticks()
    cas.ticks()
    last = x509.load_pem_x509_certificate(cas.leaf("third").encode())
    cas.comes_to("active")
    assert Life.of(last).not_before < cas.rotation().issued_before


def test_a_change_is_aborted_before_and_after_the_new_root_signs(cas: Cas, scratch: Path) -> None:
    (old,) = cas.bundles()
    cas.asks("root")
    cas.comes_to("prepared")
    cas.asks("root", "aborting")
    cas.comes_to("aborted")
    cas.ticks()
    assert cas.bundles() == {old}
    assert is_good(cas.leaf("second"), old, scratch)

    cas.now += 2 * DAY_S
    cas.asks("root")
    cas.comes_to("active")
    cas.leaf("second")
    cas.ticks()
    cas.ticks()
    cas.asks("root", "aborting")
    cas.comes_to("reverting")
    for name in cas.running:
        assert is_good(cas.leaf(name), old, scratch)
    cas.now += 2 * DAY_S
    cas.comes_to("aborted")
    cas.ticks()
    assert cas.bundles() == {old}


def test_a_ca_that_was_off_in_the_middle_signs_once_it_has_an_issuer_below_the_new_root(
    cas: Cas, scratch: Path
) -> None:
    (old,) = cas.bundles()
    cas.off("third")
    cas.asks("root")
    cas.comes_to("active")
    third = cas.on("third")
    with pytest.raises(Unreachable, match="has not taken up the roots yet"):
        third.issue(csr(), WEB, cas.now, AGENT)
    cas.ticks("third", "first", "third")
    assert is_good(cas.leaf("third"), old, scratch)


def test_a_ca_that_was_lost_once_it_was_ready_goes_on_with_the_issuer_that_it_asked_for(cas: Cas) -> None:
    cas.asks("root")
    while cas.running["third"].own.bundle_pem.count("BEGIN") < 2:
        cas.ticks("first", "third")
    cas.ticks("first", "third")
    cas.off("third")
    cas.comes_to("done")
    assert cas.on("third").bundle().bundle_pem == cas.first.bundle_pem
    cas.leaf("third")


def test_a_ca_that_was_off_all_the_time_is_told_what_to_do(cas: Cas) -> None:
    cas.off("third")
    cas.asks("root")
    cas.comes_to("done")
    with pytest.raises(Problem, match=r"vouched for by none that this CA has: .* sign-intermediate"):
        cas.on("third")
    directory = cas.directory / "third"
    (directory / "bundle.pem").write_text(cas.first.bundle_pem)
    cas.signs("third")
    assert cas.on("third").bundle().bundle_pem == cas.first.bundle_pem
    cas.leaf("third")


def test_a_copy_of_the_first_ca_from_before_the_change_signs_nothing(cas: Cas) -> None:
    kept = {file.name: file.read_bytes() for file in (cas.directory / "first").iterdir()}
    cas.asks("root")
    cas.comes_to("done")
    cas.off("first")
    for name, data in kept.items():
        (cas.directory / "first" / name).write_bytes(data)
    with pytest.raises(Problem, match="are others than those here: restore"):
        cas.on("first")


def test_a_second_ca_with_a_copy_of_the_root_changes_nothing_and_signs_only_below_what_all_have(cas: Cas) -> None:
    shutil.copytree(cas.directory / "first", cas.directory / "copy")
    copy = cas.on("copy")
    copy.issue(csr(), WEB, cas.now, AGENT)
    cas.asks("root")
    assert cas.ticks("copy") == "asked"
    assert cas.ticks("first") == "prepared"
    assert cas.ticks("copy") == "prepared"
    with pytest.raises(Unreachable, match="has not taken up the roots"):
        copy.issue(csr(), WEB, cas.now, AGENT)


def test_a_new_issuer_for_all(cas: Cas) -> None:
    before = {name: each.own.issuer.certificate for name, each in cas.running.items()}
    cas.now += 3600
    cas.asks("issuer")
    assert cas.ticks("first") == "asked"
    assert set(cas.waits_for()) == {f"the CA {cas.called(name)}" for name in ("second", "third")}
    cas.comes_to("done")
    for name, each in cas.running.items():
        assert each.own.issuer.certificate != before[name]
        cas.leaf(name)
    cas.ticks()
    after = {name: each.own.issuer.certificate for name, each in cas.running.items()}
    cas.ticks()
    assert after == {name: each.own.issuer.certificate for name, each in cas.running.items()}


def test_an_issuer_that_is_due_is_renewed_with_no_operator(cas: Cas) -> None:
    before = cas.running["second"].own.issuer.certificate
    cas.now += 0.7 * certificates.ISSUER_LIFE_S
    for _ in range(3):
        cas.first.rotate(cas.now)
        cas.running["second"].rotate(cas.now)
    after = cas.running["second"].own.issuer.certificate
    assert Life.of(after).not_after > Life.of(before).not_after
    assert '"action":"sign-intermediate"' in (cas.directory / "first" / "audit.log").read_text()


@pytest.mark.parametrize("written", [1, 2, 3])
def test_an_issuer_that_takes_anothers_place_may_be_interrupted(
    cas: Cas, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    cas.now += 3600
    cas.asks("issuer")
    for name in ("second", "first"):
        cas.running[name].rotate(cas.now)
    left = written
    write = files.write

    class Killed(BaseException):
        pass

    def dying(*arguments: object, **more: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        write(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", dying)
        with pytest.raises(Killed):
            cas.running["second"].rotate(cas.now)
    cas.off("second")
    cas.on("second")
    cas.leaf("second")
    assert not (cas.directory / "second" / "issuer.next").exists()


# --- who can write to the store, and is no CA


def overwritten(cas: Cas, key: str, value: object) -> None:
    """As somebody does who has a token for Consul."""
    data = msgspec.json.encode(value).decode()
    prefix = cas.settings.consul.prefix
    cas.consul.call("PUT", "txn", [{"KV": {"Verb": "set", "Key": f"{prefix}/{key}", "Value": _base64(data)}}])


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def test_no_root_is_believed_that_no_root_has_signed(cas: Cas, tmp_path: Path) -> None:
    (old,) = cas.bundles()
    published, _ = cas.running["second"].store.peers.roots()  # type: ignore[union-attr]
    assert published is not None
    foreign = certificates.make_root(TRUST_DOMAIN, Life.starting(NOW, certificates.ROOT_LIFE_S))
    text = certificates.pem(foreign.certificate).decode()
    by_itself = roots.signed(TRUST_DOMAIN, 2, text, [foreign])
    with_old_ones = roots.signed(TRUST_DOMAIN, 2, old + text, [foreign])
    another_text = published._replace(number=2, bundle_pem=old + text)
    for forged in (by_itself, with_old_ones, another_text):
        overwritten(cas, "trust/roots", forged)
        second = cas.running["second"]
        with pytest.raises(Unreachable, match="vouched for by none that this CA has"):
            second.rotate(cas.now)
        with pytest.raises(Unreachable, match="has not taken up the roots"):
            second.issue(csr(), WEB, cas.now, AGENT)
        with pytest.raises(Unreachable, match="vouched for by none"):
            second.check(cas.now)
        assert second.bundle_pem == old
        assert text not in (cas.directory / "second" / "bundle.pem").read_text()
    for garbage in (published._replace(bundle_pem="x"), by_itself._replace(signatures={"x": "ä"})):
        overwritten(cas, "trust/roots", garbage)
        with pytest.raises(Unreachable):
            cas.running["second"].rotate(cas.now)
        with pytest.raises(Unreachable):
            cas.running["second"].bundle()
    overwritten(cas, "trust/roots", published)
    cas.running["second"].rotate(cas.now)
    cas.leaf("second")


def test_no_older_roots_are_taken_than_there_were(cas: Cas) -> None:
    published, _ = cas.running["second"].store.peers.roots()  # type: ignore[union-attr]
    cas.asks("root")
    cas.comes_to("prepared")
    cas.ticks()
    overwritten(cas, "trust/roots", published)
    with pytest.raises(Unreachable, match="are of version 1, and this CA had 2"):
        cas.running["second"].rotate(cas.now)
    assert cas.running["second"].bundle_pem.count("BEGIN") == 2


def test_an_issuer_is_signed_for_those_that_have_one(cas: Cas) -> None:
    own = cas.running["second"].own
    root = roots.key_hash(own.root)
    stranger = certificates.new_key()
    self_signed = certificates.make_root(TRUST_DOMAIN, Life.starting(NOW, certificates.ROOT_LIFE_S))
    good = roots.asked(TRUST_DOMAIN, stranger, root, own.issuer.certificate, own.issuer.key)
    other = roots.asked("b.example", stranger, root, own.issuer.certificate, own.issuer.key)
    for forged, why in (
        (roots.asked(TRUST_DOMAIN, stranger, root, own.issuer.certificate, stranger), "is not signed by the issuer"),
        (roots.asked(TRUST_DOMAIN, stranger, root, self_signed.certificate, self_signed.key), "is not from one below"),
        (good._replace(root="00"), "is not signed by the issuer"),
        (good._replace(csr_pem="x"), "cannot be read"),
        (other, "is not signed by the issuer"),
        (roots.asked(TRUST_DOMAIN, stranger, "00", own.issuer.certificate, own.issuer.key), "that is not believed"),
    ):
        overwritten(cas, "issuers/mallory/request", forged)
        cas.first.rotate(cas.now)
        _, answer = cas.first.store.peers.asked()["mallory"]  # type: ignore[union-attr]
        assert answer is not None
        assert (answer.chain_pem, why in answer.refusal) == ("", True), answer
    overwritten(cas, "issuers/mallory/request", good)
    cas.first.rotate(cas.now)
    _, answer = cas.first.store.peers.asked()["mallory"]  # type: ignore[union-attr]
    assert answer is not None
    assert answer.chain_pem


def test_no_issuer_is_used_that_was_not_asked_for(cas: Cas) -> None:
    cas.now += 3600
    cas.asks("issuer")
    second = cas.running["second"]
    second.rotate(cas.now)
    request, _ = cas.first.store.peers.asked()[cas.called("second")]  # type: ignore[union-attr]
    foreign = certificates.make_root(TRUST_DOMAIN, Life.starting(cas.now, certificates.ROOT_LIFE_S))
    life = Life.starting(cas.now, certificates.ISSUER_LIFE_S)
    below = external.certify(foreign, TRUST_DOMAIN, x509.load_pem_x509_csr(request.csr_pem.encode()), life)
    for chain in (below, cas.running["third"].own.issuer.certificate):
        forged = IssuerAnswer(roots.request_hash(request), certificates.pem(chain).decode())
        overwritten(cas, f"issuers/{cas.called('second')}/answer", forged)
        with pytest.raises(Unreachable, match="is not the issuer that was asked for"):
            second.rotate(cas.now)
    overwritten(cas, f"issuers/{cas.called('second')}/answer", IssuerAnswer(roots.request_hash(request), "x"))
    with pytest.raises(Unreachable, match="the issuer on the store cannot be read"):
        second.rotate(cas.now)
    assert isinstance(second.store, KeyedStore)


def test_cas_below_an_offline_root_hand_out_what_is_in_their_files(consul: Consul, tmp_path: Path) -> None:
    root = tmp_path / "root"
    from meshd.ca.authority import create_root

    create_root(root, TRUST_DOMAIN, NOW)
    settings = StoreSettings(replace(consul_settings(consul)))
    for name in ("one", "two"):
        below = CaFiles(tmp_path / name)
        Authority.create_below(below.directory, TRUST_DOMAIN, (root / "bundle.pem").read_bytes(), store=settings)
        request = x509.load_pem_x509_csr(below.issuer_request.read_bytes())
        pair = material.load_root_pair(CaFiles(root), NOW)
        made = external.certify(pair, TRUST_DOMAIN, request, Life.starting(NOW, certificates.ISSUER_LIFE_S))
        below.issuer_chain.write_bytes(certificates.pem(made))
    with (
        closing(Authority.open(tmp_path / "one", NOW, store=settings)) as one,
        closing(Authority.open(tmp_path / "two", NOW, store=settings)) as two,
    ):
        for each in (one, two):
            each.rotate(NOW)
            each.issue(csr(), WEB, NOW, AGENT)
        assert one.bundle().bundle_pem == two.bundle().bundle_pem
        assert len(one.store.issued()) == 2
