"""The keys that a CA signs JWT-SVIDs with, one after another.

    jwt.key     the private key that signs                         jwt.next    the one that follows it

Every CA has its own, which never leaves its host; the public keys of all are in the store, and go with the trust
bundle. So a key is believed, whichever CA it is of, from when its record is in the store until it is taken out:

    published   in the bundle, and signs nothing: for a day, or for `settle_s` where an operator asked for it
    signs       for 30 days, or until an operator asks for another
    retired     its successor signs; in the bundle until the last token of it has expired

The first key of a mesh signs at once, since nobody follows another. Each step changes the files first and the record
last, or the other way round where a key is retired, and may be interrupted between: it is then done again. A `jwt.key`
that is lost is made anew, and what it signed stays good until it has expired; and one whose record is lost, or which
expired while its CA was off, is published again.
"""

import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.problems import Problem
from meshd.ca import certificates, files
from meshd.ca.files import CaFiles
from meshd.ca.jwt import LEEWAY_S, MOST_LIFE_S, Point
from meshd.ca.material import load_key, when
from meshd.ca.records import JwtKey
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict, Store

SIGNS_S: Final = 30 * 86400.0

PUBLISHED_S: Final = 86400.0
"""Before it signs: hosts that are off for a night hear of it in time."""

SETTLE_S: Final = 60.0
"""Where it is wanted sooner: agents follow the bundle within a second or, above `limits.waiting`, twenty."""

TAIL_S: Final = MOST_LIFE_S + 4 * LEEWAY_S
"""After a key has signed for the last time: a token's life, and what clocks may differ."""


class SigningKey(NamedTuple):
    """A private key, and what is on record of it."""

    key: ec.EllipticCurvePrivateKey
    record: JwtKey


class Change(NamedTuple):
    """What became of a key, and the number of that in the audit log."""

    text: str
    sequence: int


class JwtKeys:
    """Those in the files of one CA. `keep` is called from one thread at a time."""

    def __init__(self, paths: CaFiles, store: Store, name: str = "") -> None:
        """`name` says in the records which CA it is: this host's own unless given."""
        self._paths, self._store, self._name = paths, store, name or socket.gethostname()
        self._signing: SigningKey | None = None
        self._looked: tuple[int, float] = (-1, 0.0)
        self._read: dict[Path, tuple[tuple[int, int], ec.EllipticCurvePrivateKey]] = {}

    def signing(self, now: float) -> SigningKey:
        """What to sign with; Unreachable while that is not to be used yet."""
        signing = self._signing
        if signing is None:
            raise Unreachable("the CA has no key for JWT-SVIDs: see the log of the CA")
        if now < signing.record.use_at:
            raise Unreachable(f"the CA's key for JWT-SVIDs is new: it signs from {when(signing.record.use_at)} on")
        return signing

    def keep(self, now: float) -> list[Change]:
        """Make and change keys as far as that is due; what was done. To be called every second or so. Problem or
        Unreachable when it cannot be done."""
        sequence = self._store.sequence()
        looked_at, due_at = self._looked
        if sequence == looked_at and now < due_at:
            return []
        changes: list[Change] = []
        with self._paths.changing():
            try:
                due_at = self._step(now, changes)
            except Conflict as conflict:
                raise Unreachable(f"the keys of JWT-SVIDs: {conflict}") from conflict
        self._looked = (sequence, due_at)
        return changes

    def _step(self, now: float, changes: list[Change]) -> float:
        """All that is due now; when there is more to be done."""
        records = {each.kid: each for each in self._store.jwt_keys() if each.not_after > now}
        current = self._current(records, now, changes)
        following = self._following(current, records, now, changes)
        if following is None and now >= current.record.succeed_at:
            key = self._make(self._paths.jwt_next)
            following = self._publish(key, now, now + _published_s(current.record, now), changes)
        if following is not None and now >= following.record.use_at:
            current, following = self._succeed(current, following, now, changes), None
        self._signing = current
        return current.record.succeed_at if following is None else following.record.use_at

    def _current(self, records: dict[str, JwtKey], now: float, changes: list[Change]) -> SigningKey:
        """What is in `jwt.key`, on record from now on."""
        file = self._paths.jwt_key
        if not file.exists():
            self._retire_lost(records, now, changes)
        key = self._load(file) if file.exists() else self._make(file)
        record = records.get(_kid(key))
        if record is not None:
            return SigningKey(key, record)
        return self._publish(key, now, now + (SETTLE_S if records else 0.0), changes)

    def _retire_lost(self, records: dict[str, JwtKey], now: float, changes: list[Change]) -> None:
        """Have this CA's keys end, none of which is here any more, once what they signed has: else a CA whose directory
        goes with its pod would leave one in the bundle for a month with each."""
        if self._paths.jwt_next.exists():
            return
        for before in records.values():
            if before.ca == self._name and not before.retired_at:
                self._retire(before, now, changes)

    def _following(
        self, current: SigningKey, records: dict[str, JwtKey], now: float, changes: list[Change]
    ) -> SigningKey | None:
        """What is in `jwt.next`, on record from now on; None when there is none."""
        file = self._paths.jwt_next
        if not file.exists():
            return None
        key = self._load(file)
        kid = _kid(key)
        if kid == current.record.kid:  # a succession was interrupted at its end
            file.unlink()
            return None
        if kid in records:
            return SigningKey(key, records[kid])
        return self._publish(key, now, now + SETTLE_S, changes)

    def _publish(self, key: ec.EllipticCurvePrivateKey, now: float, use_at: float, changes: list[Change]) -> SigningKey:
        point = Point.of(key.public_key())
        ends_at = use_at + SIGNS_S
        made = JwtKey(
            point.thumbprint(),
            *point,
            self._name,
            made_at=now,
            use_at=use_at,
            not_after=ends_at + PUBLISHED_S,
            succeed_at=ends_at - PUBLISHED_S,
            settle_s=PUBLISHED_S,
        )
        before = next((each for each in self._store.jwt_keys() if each.kid == made.kid), None)
        sequence = self._store.put_jwt_key(before, made)
        changes.append(Change(f"jwt key {made.kid}: published, signs from {when(use_at)} on", sequence))
        return SigningKey(key, made)

    def _succeed(self, current: SigningKey, following: SigningKey, now: float, changes: list[Change]) -> SigningKey:
        """What signs now is `following`. The record comes first: it says until when what `current` signed is good."""
        self._retire(current.record, now, changes)
        self._write(self._paths.jwt_key, following.key)
        self._paths.jwt_next.unlink()
        return following

    def _retire(self, before: JwtKey, now: float, changes: list[Change]) -> None:
        after = before._replace(retired_at=now, not_after=min(before.not_after, now + TAIL_S))
        sequence = self._store.put_jwt_key(before, after)
        changes.append(Change(f"jwt key {before.kid}: retired, believed until {when(after.not_after)}", sequence))

    def _make(self, file: Path) -> ec.EllipticCurvePrivateKey:
        key = certificates.new_key()
        self._write(file, key)
        return key

    def _write(self, file: Path, key: ec.EllipticCurvePrivateKey) -> None:
        files.write(file, certificates.key_pem(key, self._paths.passphrase), owner_of=self._paths.directory)

    def _load(self, file: Path) -> ec.EllipticCurvePrivateKey:
        """The key in file; it is read again when it is another, for one that is encrypted takes its time."""
        found = os.stat(file)
        state = (found.st_ino, found.st_mtime_ns)
        if self._read.get(file, ((), None))[0] != state:
            key = load_key(file, self._paths.passphrase)
            if not isinstance(key.curve, ec.SECP256R1):
                raise Problem(f"{file}: holds a key that is not ECDSA P-256: remove the file, and another is made")
            self._read[file] = (state, key)
        return self._read[file][1]


def _published_s(current: JwtKey, now: float) -> float:
    """How long the next key is in the bundle before it signs: as asked for, unless the one before ends too soon."""
    left_s = current.not_after - TAIL_S - now
    return min(current.settle_s, max(left_s, SETTLE_S))


def _kid(key: ec.EllipticCurvePrivateKey) -> str:
    return Point.of(key.public_key()).thumbprint()
