"""The node's own key and certificate: kept, refused when they are not safe, renewed in time. Times are the test's."""

import logging
from pathlib import Path

import pytest
from cryptography import x509

from meshd.agent import node
from meshd.agent.node import NodeSource
from meshd.api.control import Certificate
from meshd.api.names import Identity, WorkloadName
from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.failover import Failover
from meshd.ca.source import Forbidden, NotAuthenticated, Unreachable
from meshd.ca.wire import Renewal
from tests.support import aio
from tests.support.stores import DAY_S, NOW

VM1 = Identity.of_host("prod.example", "vm1")
WEB = Identity.of("prod.example", WorkloadName("default", "web"))
ROOT = certificates.make_root("prod.example", Life.starting(NOW, 30 * DAY_S))


def chain(csr_pem: str, identity: Identity, now: float) -> str:
    key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
    leaf = certificates.make_leaf(str(identity), key, ROOT, Life.starting(now, 7 * DAY_S))
    return certificates.pem(leaf).decode()


class Cas(Failover):
    """The CAs as this host sees them, and what it shows them."""

    def __init__(self) -> None:
        super().__init__([])
        self.now = NOW
        self.fails: Exception | None = None
        self.is_away = False
        self.asked: list[Identity] = []
        self.presented: list[Path] = []

    async def sign(self, csr_pem: str, identity: Identity, token: str = "") -> Certificate:
        self.asked.append(identity)
        if self.fails is not None:
            raise self.fails
        return Certificate(chain(csr_pem, identity, self.now), self.now, self.now + 7 * DAY_S)

    async def health(self) -> None:
        if self.is_away:
            raise Unreachable("away")

    def present(self, certificate: Path) -> None:
        self.presented.append(certificate)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    key = certificates.new_key()
    node.write(tmp_path / "node.key", key, chain(node.request(key), VM1, NOW))
    return tmp_path / "node.key"


def source(cas: Cas, file: Path, drawn: float = 0.0) -> NodeSource:
    return NodeSource(cas, file, lambda: cas.now, lambda low, high: low + (high - low) * (drawn + 1) / 2)


def serial(file: Path) -> int:
    found = node.read(file)
    assert found is not None
    assert found.certificate is not None
    return found.certificate.serial_number


def test_key_and_certificate_are_in_one_file_for_the_owner_alone(file: Path) -> None:
    found = node.read(file)
    assert found is not None
    assert found.certificate is not None
    assert found.certificate.public_key() == found.key.public_key()
    assert node.identity_of(found.certificate) == VM1
    assert file.stat().st_mode & 0o777 == 0o600
    assert node.read(file.with_name("absent")) is None


@pytest.mark.parametrize("drawn", [-1.0, 0.0, 1.0])
def test_the_certificate_is_renewed_at_about_two_thirds_with_a_new_key(file: Path, drawn: float) -> None:
    cas = Cas()
    nodes = source(cas, file, drawn)
    before = node.read(file)
    due = NOW - 60 + (7 * DAY_S + 60) * (2 / 3 + drawn * node.JITTER)
    cas.now = due - 1
    aio.run(nodes.health())
    assert cas.asked == []
    cas.now = due + 1
    aio.run(nodes.health())
    assert (cas.asked, cas.presented) == ([VM1], [file])
    after = node.read(file)
    assert before is not None
    assert after is not None
    assert after.key.public_key() != before.key.public_key()
    assert after.certificate is not None
    assert after.certificate.public_key() == after.key.public_key()
    aio.run(nodes.health())
    assert cas.asked == [VM1]


@pytest.mark.parametrize("fails", [Unreachable("away"), Forbidden("the node vm1 is denied")])
def test_a_renewal_that_fails_is_tried_again_and_nothing_is_lost(
    file: Path, fails: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    cas = Cas()
    nodes = source(cas, file)
    held = serial(file)
    cas.now = NOW + 5 * DAY_S
    cas.fails = fails
    aio.run(nodes.health())
    assert "is good until 2027-01-22T08:00:00Z and not renewed" in caplog.text
    assert serial(file) == held
    cas.fails = None
    aio.run(nodes.health())
    assert cas.asked == [VM1]  # not at once again
    cas.now += 301
    aio.run(nodes.health())
    assert cas.asked == [VM1, VM1]
    assert serial(file) != held


def test_one_that_cannot_be_kept_is_asked_for_again_and_the_one_before_is_used(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cas = Cas()
    nodes = source(cas, file)
    held = file.read_bytes()
    cas.now = NOW + 5 * DAY_S
    elsewhere = file.parent.rename(file.parent.with_name("elsewhere"))
    aio.run(nodes.health())
    assert "is good until 2027-01-22T08:00:00Z and not renewed: " in caplog.text
    assert str(file) in caplog.text
    elsewhere.rename(file.parent)
    assert (file.read_bytes(), cas.presented) == (held, [])
    cas.now += 301
    aio.run(nodes.health())
    assert cas.presented == [file]
    assert file.read_bytes() != held


def test_a_certificate_that_expired_is_not_even_shown(file: Path) -> None:
    cas = Cas()
    nodes = source(cas, file)
    cas.now = NOW + 7 * DAY_S
    with pytest.raises(NotAuthenticated, match="expired at 2027-01-22T08:00:00Z: join it again"):
        aio.run(nodes.sign("csr", WEB))
    with pytest.raises(NotAuthenticated):
        aio.run(nodes.health())
    assert cas.asked == []


def test_a_ca_that_is_away_is_said_so(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    cas = Cas()
    cas.is_away = True
    with caplog.at_level(logging.ERROR), pytest.raises(Unreachable):
        aio.run(source(cas, file).health())
    assert caplog.text == ""


def other_key(file: Path) -> None:
    certificate = file.read_text().split("-----END PRIVATE KEY-----\n")[1]
    node.write(file, certificates.new_key(), certificate)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda file: file.unlink(), "this host has not joined: run `meshd join`"),
        (lambda file: node.write(file, certificates.new_key()), "this host has not joined"),
        (lambda file: file.chmod(0o640), "its mode 0640 lets others"),
        (lambda file: file.write_text("x"), "holds no node's key and certificate"),
        (other_key, "holds no node's key and certificate"),
    ],
)
def test_a_file_that_is_not_whole_or_not_safe_is_refused(file: Path, wrong: object, message: str) -> None:
    assert callable(wrong)
    wrong(file)
    with pytest.raises(Problem, match=message):
        source(Cas(), file)


def test_it_is_renewed_before_its_time_where_the_ca_asks_for_it(file: Path) -> None:
    async def main() -> None:
        cas = Cas()
        cas.now = now = NOW + 100
        source = NodeSource(cas, file, lambda: now, lambda low, high: (low + high) / 2)
        source.trust("", Renewal(NOW - 60, 60.0))  # it is just not older
        now += 3600
        await source.health()
        assert cas.asked == []
        source.trust("", Renewal(NOW, 60.0))
        await source.health()
        assert cas.asked == []
        now += 30
        await source.health()
        assert cas.asked == [VM1]
        assert source.begun() == cas.now - 60

    aio.run(main())


def test_what_was_signed_too_early_all_the_same_is_renewed_again(file: Path) -> None:
    """By another CA, which did not know yet that another root signs."""

    async def main() -> None:
        cas = Cas()
        cas.now = now = NOW + 100
        source = NodeSource(cas, file, lambda: now, lambda low, high: (low + high) / 2)
        source.trust("", Renewal(NOW + 50, 60.0))
        now += 30
        await source.health()
        assert source.begun() == NOW + 40
        await source.health()
        assert cas.asked == [VM1]
        cas.now = now = now + 30
        await source.health()
        assert cas.asked == [VM1, VM1]
        assert source.begun() > NOW + 50
        now += 600
        await source.health()
        assert cas.asked == [VM1, VM1]

    aio.run(main())


@pytest.mark.parametrize("why", ["due", "older"])
def test_one_that_is_due_as_soon_as_it_is_there_is_not_renewed_at_each_look(file: Path, why: str) -> None:
    """This host's clock is ahead by more than two thirds of a certificate's life; or the CA that signs has one that is
    behind that of the CA which asks for others."""

    async def main() -> None:
        cas, ahead_s = Cas(), 5.0 * DAY_S if why == "due" else 0.0
        source = NodeSource(cas, file, lambda: cas.now + ahead_s, lambda low, high: (low + high) / 2)
        if why == "older":
            source.trust("", Renewal(NOW + 3600, 0.0))
        for _ in range(120):
            await source.health()
            cas.now += 5
        assert 4 <= len(cas.asked) <= 12
        # until the clock is set right: what is asked for then is done then
        ahead_s = 0.0
        asked = len(cas.asked)
        source.trust("", Renewal(cas.now - 1, 0.0))
        cas.now += 300
        await source.health()
        await source.health()
        assert len(cas.asked) == asked + 1

    aio.run(main())


def test_one_that_is_due_at_once_is_renewed_before_it_ends(file: Path) -> None:
    """Of the life that is left by this host's clock a third is used at most."""

    async def main() -> None:
        cas = Cas()
        source = NodeSource(cas, file, lambda: cas.now + 7 * DAY_S - 60.0, lambda low, high: (low + high) / 2)
        for _ in range(120):
            await source.health()  # NotAuthenticated, if it had ended
            cas.now += 5
        assert len(cas.asked) > 20

    aio.run(main())
