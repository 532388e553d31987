"""The keys of JWT-SVIDs over their lives: published before they sign, and believed until the last of it has expired."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.problems import Problem
from meshd.ca import certificates, files
from meshd.ca.authority import Authority
from meshd.ca.files import CaFiles
from meshd.ca.jwt import MOST_LIFE_S, Point
from meshd.ca.jwt_keys import PUBLISHED_S, SETTLE_S, SIGNS_S, TAIL_S, JwtKeys
from meshd.ca.registrar import Registrar
from meshd.ca.source import Unreachable
from meshd.ca.sqlite import SqliteStore
from tests.support.stores import DAY_S, NOW

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore.create(tmp_path / "ca.db")) as made:
        yield made


def keys_at(directory: Path, store: SqliteStore, name: str = "ca1", passphrase: bytes | None = None) -> JwtKeys:
    directory.mkdir(mode=0o700, exist_ok=True)
    return JwtKeys(CaFiles(directory, passphrase), store, name)


@pytest.fixture
def keys(tmp_path: Path, store: SqliteStore) -> JwtKeys:
    return keys_at(tmp_path / "ca1", store)


def states(store: SqliteStore, now: float) -> list[str]:
    return [each.state(now) for each in store.jwt_keys()]


def ask(directory: Path, settle_s: float, now: float) -> None:
    """What `meshd ca rotate jwt` does."""
    with Registrar.at(directory, lambda: now) as registrar:
        registrar.rotate_jwt(settle_s)


def test_the_first_of_a_mesh_signs_at_once_and_is_no_one_else_s_to_read(
    keys: JwtKeys, store: SqliteStore, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable, match="no key"):
        keys.signing(NOW)
    (change,) = keys.keep(NOW)
    key, record = keys.signing(NOW)
    assert store.jwt_keys() == [record]
    assert (record.x, record.y) == Point.of(key.public_key())
    assert record.kid == Point.of(key.public_key()).thumbprint()
    assert (record.ca, record.use_at, record.state(NOW)) == ("ca1", NOW, "signs")
    assert change.text == f"jwt key {record.kid}: published, signs from 2027-01-15T08:00:00Z on"
    file = tmp_path / "ca1" / "jwt.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.keep(NOW + 1) == []
    assert keys_at(tmp_path / "ca1", store).keep(NOW + 1) == []  # the next process has the same


def test_the_next_is_published_a_day_before_it_signs_and_the_last_for_as_long_as_it_is_needed(
    keys: JwtKeys, store: SqliteStore
) -> None:
    keys.keep(NOW)
    first = keys.signing(NOW).record
    due = NOW + SIGNS_S - PUBLISHED_S
    assert keys.keep(due - 1) == []
    assert len(keys.keep(due)) == 1
    assert keys.signing(due).record == first
    assert states(store, due) == ["signs", "published"]
    number = store.sequence()
    change = due + PUBLISHED_S
    assert keys.keep(change - 1) == []
    assert len(keys.keep(change)) == 1
    assert store.sequence() > number  # agents hear of it
    second = keys.signing(change)
    assert second.record.kid != first.kid
    assert states(store, change) == ["retired", "signs"]
    retired = store.jwt_keys()[0]
    assert retired.not_after == change + TAIL_S > change + MOST_LIFE_S
    store.forget_expired(retired.not_after + 1)
    assert store.jwt_keys() == [second.record]


def test_keys_are_changed_when_an_operator_asks_and_agents_hear_of_them_first(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "prod.example", NOW, audited=False).close()
    with closing(SqliteStore.open(tmp_path / "ca" / "ca.db")) as store:
        keys = keys_at(tmp_path / "ca", store)
        keys.keep(NOW)
        first = keys.signing(NOW).record
        ask(tmp_path / "ca", 20.0, NOW + 10)
        with pytest.raises(Problem, match="no key of JWT-SVIDs that is not being followed by another already"):
            ask(tmp_path / "ca", 20.0, NOW + 10)
        assert len(keys.keep(NOW + 11)) == 1
        assert keys.signing(NOW + 30).record.kid == first.kid
        assert [each.use_at for each in store.jwt_keys()] == [NOW, NOW + 31]
        keys.keep(NOW + 31)
        second = keys.signing(NOW + 31).record
        assert second.kid != first.kid
        due = second.succeed_at
        keys.keep(due)  # the third would sign in a day
        ask(tmp_path / "ca", 20.0, due + 5)
        keys.keep(due + 25)
        assert keys.signing(due + 25).record.kid not in {first.kid, second.kid}
    lines = (tmp_path / "ca" / "audit.log").read_text()
    assert '"action":"rotate jwt","decision":"changed","actor":"operator' in lines
    assert f'"subject":"jwt key {first.kid}: asked"' in lines


def test_each_ca_has_a_key_of_its_own_and_publishes_it_before_it_signs(
    keys: JwtKeys, store: SqliteStore, tmp_path: Path
) -> None:
    keys.keep(NOW)
    other = keys_at(tmp_path / "ca2", store, "ca2")
    other.keep(NOW + 5)
    with pytest.raises(Unreachable, match=r"is new: it signs from 2027-01-15T08:01:05Z on"):
        other.signing(NOW + 5)
    assert other.signing(NOW + 5 + SETTLE_S).record.ca == "ca2"
    assert [each.ca for each in store.jwt_keys()] == ["ca1", "ca2"]


def test_a_key_that_is_lost_is_made_anew_and_what_it_signed_stays_good(
    keys: JwtKeys, store: SqliteStore, tmp_path: Path
) -> None:
    keys.keep(NOW)
    lost = keys.signing(NOW).record
    (tmp_path / "ca1" / "jwt.key").unlink()
    again = keys_at(tmp_path / "ca1", store)
    again.keep(NOW + 5)
    assert again.signing(NOW + 5 + SETTLE_S).record.kid != lost.kid
    retired = lost._replace(retired_at=NOW + 5, not_after=NOW + 5 + TAIL_S)  # so that a month of restarts leaves none
    assert retired in store.jwt_keys()


def test_a_key_whose_record_is_lost_is_published_again(keys: JwtKeys, tmp_path: Path) -> None:
    """As when `ca.db` is an older copy."""
    keys.keep(NOW)
    kid = keys.signing(NOW).record.kid
    with closing(SqliteStore.create(tmp_path / "restored.db")) as restored:
        again = keys_at(tmp_path / "ca1", restored)
        again.keep(NOW + 5)
        assert again.signing(NOW + 5).record.kid == kid
        assert [each.kid for each in restored.jwt_keys()] == [kid]


def test_a_ca_that_was_off_for_longer_than_its_key_is_good_goes_on(
    keys: JwtKeys, store: SqliteStore, tmp_path: Path
) -> None:
    keys.keep(NOW)
    late = NOW + 3 * SIGNS_S
    again = keys_at(tmp_path / "ca1", store)
    again.keep(late)
    assert again.signing(late).record.not_after > late + DAY_S


def test_a_key_that_is_due_while_the_ca_was_off_does_not_end_before_the_next_signs(
    keys: JwtKeys, store: SqliteStore, tmp_path: Path
) -> None:
    keys.keep(NOW)
    record = keys.signing(NOW).record
    late = record.not_after - 2 * 3600
    again = keys_at(tmp_path / "ca1", store)
    again.keep(late)
    (_, following) = store.jwt_keys()
    assert late + SETTLE_S <= following.use_at <= record.not_after - MOST_LIFE_S


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", range(1, 8))
def test_a_change_that_is_interrupted_anywhere_is_done_again(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process is killed before its n-th write; the next one ends with the same as an undisturbed one."""
    directory = tmp_path / "ca1"
    steps = iter(range(1, 100))

    def stopping(what: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **named: object) -> object:
            if next(steps) == at:
                raise Stopped
            return what(*arguments, **named)

        return called

    whole = (NOW, NOW + SIGNS_S - PUBLISHED_S, NOW + SIGNS_S)
    with monkeypatch.context() as patched:
        patched.setattr("meshd.ca.files.write", stopping(files.write))
        patched.setattr(SqliteStore, "put_jwt_key", stopping(SqliteStore.put_jwt_key))
        patched.setattr(Path, "unlink", stopping(Path.unlink))
        keys, stopped_at = keys_at(directory, store), whole[-1]
        for now in whole:
            try:
                keys.keep(now)
            except Stopped:
                stopped_at = now
                break
    again = keys_at(directory, store)
    for now in (stopped_at, *whole, whole[-1] + PUBLISHED_S):
        if now >= stopped_at:
            again.keep(now)
    end = whole[-1] + PUBLISHED_S
    key, record = again.signing(end)
    assert record.state(end) == "signs"
    assert not (directory / "jwt.next").exists()
    written = serialization.load_pem_private_key((directory / "jwt.key").read_bytes(), None)
    assert isinstance(written, ec.EllipticCurvePrivateKey)
    assert written.private_numbers() == key.private_numbers()
    assert [each.state(end) for each in store.jwt_keys() if each.not_after > end] == ["signs"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda file: file.chmod(0o644), r"jwt\.key: holds a private key, and its mode 0644 lets others"),
        (lambda file: file.write_text("x"), r"jwt\.key: holds no private key"),
        (
            lambda file: file.write_bytes(
                ec.generate_private_key(ec.SECP384R1()).private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            ),
            r"jwt\.key: holds a key that is not ECDSA P-256",
        ),
        (
            lambda file: file.write_bytes(certificates.key_pem(certificates.new_key(), PASSPHRASE)),
            r"jwt\.key: the key is encrypted",
        ),
    ],
)
def test_a_key_that_is_not_as_it_should_be_is_not_taken(
    tmp_path: Path, wrong: Callable[[Path], object], message: str
) -> None:
    Authority.create(tmp_path / "ca", "prod.example", NOW).close()
    wrong(tmp_path / "ca" / "jwt.key")
    with pytest.raises(Problem, match=message):
        Authority.open(tmp_path / "ca", NOW)


def test_with_a_passphrase_no_key_is_on_disk_without_it(store: SqliteStore, tmp_path: Path) -> None:
    keys = keys_at(tmp_path / "ca1", store, passphrase=PASSPHRASE)
    for now in (NOW, NOW + SIGNS_S - PUBLISHED_S):
        keys.keep(now)
    for name in ("jwt.key", "jwt.next"):
        assert "BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "ca1" / name).read_text()
    keys_at(tmp_path / "ca1", store, passphrase=PASSPHRASE).keep(NOW + SIGNS_S)
