"""What the CA issued, and the hashes of the tokens it knows, in SQLite.

WAL with synchronous=FULL: what `add` returned from survives the process and the machine. Certificates that expired
long ago are forgotten, so the database is as large as the mesh, not as old.
"""

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from meshd.api.problems import Problem
from meshd.ca.source import Unreachable

APPLICATION_ID = 0x6D657368
"""'mesh': by this SQLite, and file(1), tell the database from any other."""

SCHEMA_VERSION = 1

KEEP_EXPIRED_S = 30 * 86400.0

BUSY_S = 2.0
"""How long a program that copies the database may hold the CA up."""

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE issued (
    serial TEXT PRIMARY KEY,      -- lower-case hexadecimal
    identity TEXT NOT NULL,       -- SPIFFE ID; the names, for the CA's own server
    requester TEXT NOT NULL,
    not_before REAL NOT NULL,     -- seconds since the epoch, as all times here
    not_after REAL NOT NULL,
    issued_at REAL NOT NULL
) STRICT;
CREATE INDEX issued_not_after ON issued (not_after);
CREATE TABLE tokens (hash TEXT PRIMARY KEY, made_at REAL NOT NULL) STRICT;
"""


class Issued(NamedTuple):
    """A certificate that was issued; times in seconds since the epoch."""

    serial: str
    identity: str
    requester: str
    not_before: float
    not_after: float
    issued_at: float


class Store:
    """The database at one path. Unreachable from any method when it cannot be read or written now."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty database; Problem when it cannot be made."""
        try:
            path.touch(0o600, exist_ok=False)
            with closing(_connect(path)) as connection:
                connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Problem(f"{path}: the database cannot be made: {error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The database at path; Problem when it is missing, damaged, or not the CA's."""
        if not path.exists():
            raise Problem(f"{path}: the CA's database is missing: restore it from a copy")
        try:
            connection = _connect(path)
        except sqlite3.Error as error:
            raise _unusable(path, f"cannot be used: {error}") from error
        if fault := _fault(connection):
            connection.close()
            raise _unusable(path, fault)
        return cls(path, connection)

    def add(self, issued: Issued) -> None:
        """Keep a record of a certificate."""
        with self._used():
            self._connection.execute("INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?)", issued)

    def forget_expired(self, now: float) -> None:
        """Forget what expired more than KEEP_EXPIRED_S ago."""
        with self._used():
            self._connection.execute("DELETE FROM issued WHERE not_after < ?", (now - KEEP_EXPIRED_S,))

    def add_token(self, token: str, now: float) -> None:
        """Know token from now on. Only its hash is kept; it is random enough (256 bits) to need no salt."""
        with self._used():
            self._connection.execute("INSERT INTO tokens VALUES (?, ?)", (_hash(token), now))

    def knows_token(self, token: str) -> bool:
        """Whether token is one that was added; takes the same time whatever part of it is right."""
        given = _hash(token)
        with self._used():
            known = self._connection.execute("SELECT hash FROM tokens").fetchall()
        return any(hmac.compare_digest(given, row[0]) for row in known)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _used(self) -> Iterator[None]:
        """One transaction. What goes wrong in it (disk full, damage, another program that holds the lock) may pass."""
        try:
            with self._connection:
                yield
        except sqlite3.Error as error:
            raise Unreachable(f"the CA's database {self._path} cannot be used: {error}") from error


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _fault(connection: sqlite3.Connection) -> str:
    """What is wrong with a database that was there; empty when it is good."""
    try:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return f"cannot be used: {error}"
    if found != APPLICATION_ID or version != SCHEMA_VERSION:
        return f"is of another program, or another version of meshd (application {found:#x}, schema {version})"
    return "" if verdict == "ok" else f"is damaged: {verdict}"


def _unusable(path: Path, fault: str) -> Problem:
    return Problem(f"{path}: the CA's database {fault}: check its owner, or restore it from a copy")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
