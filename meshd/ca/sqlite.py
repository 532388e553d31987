"""The store in one SQLite file, `ca.db`: for one CA daemon on one host, and the commands beside it.

WAL with synchronous=FULL: what a call returned from survives the process and the machine. Every change is one
transaction that takes the write lock at its beginning, so that what it read still holds when it writes; a daemon and a
command wait for each other for BUSY_S at most. Changes made `together` are one transaction with one sync, and each of
them a savepoint in it. Certificates that expired long ago are forgotten, so the database is as
large as the mesh, not as old.
"""

import hmac
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from meshd.api.problems import Problem
from meshd.ca.patterns import matches_node
from meshd.ca.records import (
    NODE_ORIGIN,
    Denied,
    DenyList,
    Entry,
    Held,
    Issued,
    JoinToken,
    JwtKey,
    Node,
    Rotation,
    hashed,
)
from meshd.ca.source import Unreachable
from meshd.ca.sqlite_schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, migrate
from meshd.ca.store import MAX_DENIED, MAX_JWT_KEYS, MAX_LISTED, Conflict

BUSY_S: Final = 2.0
"""How long another program that writes, or copies the database, may hold a call up."""


class SqliteStore:
    """The database at one path; see `meshd.ca.store.Store` for what it does."""

    callers: Final = 1
    keep_expired_s: Final = 30 * 86400.0
    peers: Final = None

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection
        self._lock = threading.RLock()
        self._is_together = False
        self.where = f"SQLite at {path}"
        self.errors, self.trouble = 0, ""

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty database; Problem when it cannot be made."""
        try:
            path.touch(0o600, exist_ok=False)
            with closing(connect(path)) as connection:
                connection.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise Problem(f"{path}: the database cannot be made: {error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The database at path, brought to this version's form if need be; Problem when it is missing, damaged, or not
        the CA's."""
        if not path.exists():
            raise Problem(f"{path}: the CA's database is missing: restore it from a copy")
        try:
            connection = connect(path)
        except sqlite3.Error as error:
            raise _unusable(path, f"cannot be used: {error}") from error
        try:
            if fault := _fault(connection):
                raise _unusable(path, fault)
            migrate(connection)
        except sqlite3.Error as error:
            connection.close()
            raise _unusable(path, f"cannot be brought to this version's form: {error}") from error
        except Problem:
            connection.close()
            raise
        return cls(path, connection)

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._used() as db:
            db.execute("BEGIN IMMEDIATE")
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False
            db.execute("COMMIT")

    # --- certificates

    def add(self, issued: Issued, node: Node | None = None) -> int:
        with self._writing() as db:
            self._add(db, issued)
            if node is not None:
                db.execute(
                    "UPDATE nodes SET key_hash = ?, renewed_at = ?, not_after = ? WHERE name = ?",
                    (node.key_hash, node.renewed_at, node.not_after, node.name),
                )
            return _next(db, "audit")

    def issued(
        self, *, node: str = "", identity: str = "", serial: str = "", until: float = 0.0, limit: int = MAX_LISTED
    ) -> list[Issued]:
        wanted = {"node": node, "identity": identity, "serial": serial}
        given = {column: value for column, value in wanted.items() if value}
        where = "".join(f" AND {column} = ?" for column in given)
        rows = self._read(
            f"SELECT {_ISSUED} FROM issued WHERE not_after > ?{where} ORDER BY issued_at DESC, rowid DESC LIMIT ?",  # noqa: S608
            (until, *given.values(), limit),
        )
        return [Issued(*row) for row in rows]

    def forget_expired(self, now: float) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM issued WHERE not_after < ?", (now - self.keep_expired_s,))
            db.execute("DELETE FROM join_tokens WHERE expires_at < ?", (now - self.keep_expired_s,))
            denials = db.execute("DELETE FROM denied WHERE expires_at > 0 AND expires_at < ?", (now,)).rowcount
            keys = db.execute("DELETE FROM jwt_keys WHERE not_after < ?", (now,)).rowcount
            if denials or keys:
                _next(db, "denied")

    # --- the token that agents share

    def add_token(self, token: str, now: float) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?)", (_token_hash(token), now))

    def knows_token(self, token: str) -> bool:
        given = _token_hash(token)
        known = self._read("SELECT hash FROM tokens")
        return any(hmac.compare_digest(given, row[0]) for row in known)

    # --- nodes, and the tokens they join with

    def add_join_token(self, token: JoinToken) -> int:
        with self._writing() as db:
            row = token._replace(workloads=" ".join(token.workloads))  # type: ignore[arg-type]
            db.execute("INSERT INTO join_tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return _next(db, "audit")

    def join_token(self, token_id: str) -> JoinToken | None:
        rows = self._read("SELECT * FROM join_tokens WHERE id = ?", (token_id,))
        return _join_token(rows[0]) if rows else None

    def join_tokens(self) -> list[JoinToken]:
        return [_join_token(row) for row in self._read("SELECT * FROM join_tokens ORDER BY made_at, id")]

    def revoke_join_token(self, token_id: str, now: float) -> int:
        with self._writing() as db:
            found = db.execute("UPDATE join_tokens SET revoked_at = ? WHERE id = ?", (now, token_id)).rowcount
            if not found:
                raise Conflict(f"there is no join token {token_id}")
            return _next(db, "audit")

    def join(self, token_id: str, node: Node, issued: Issued, entries: Sequence[Entry], now: float) -> int:
        with self._writing() as db:
            row = db.execute("SELECT * FROM join_tokens WHERE id = ?", (token_id,)).fetchone()
            if row is None:
                raise Conflict(f"there is no join token {token_id}")
            token, known = _join_token(row), _node(db, node.name)
            if reason := token.refuses(node.name, node.key_hash, known, now):
                raise Conflict(reason)
            if not token.is_used_by(known, node.key_hash):
                db.execute("UPDATE join_tokens SET used = used + 1 WHERE id = ?", (token_id,))
            self._add(db, issued)
            db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?)", node)
            db.execute("DELETE FROM entries WHERE node = ? AND origin GLOB ?", (node.name, f"{NODE_ORIGIN}*"))
            db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?)", entries)
            return _next(db, "audit")

    def node(self, name: str) -> Node | None:
        with self._used():
            return _node(self._connection, name)

    def nodes(self) -> list[Node]:
        return [Node(*row) for row in self._read("SELECT * FROM nodes ORDER BY name")]

    # --- entries

    def add_entry(self, entry: Entry) -> int:
        with self._writing() as db:
            same = db.execute(
                "SELECT id FROM entries WHERE node = ? AND workload = ?", (entry.node, entry.workload)
            ).fetchone()
            if same is not None:
                raise Conflict(f"the node {entry.node} may have {entry.workload} already: entry {same[0]}")
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", entry)
            return _next(db, "audit")

    def remove_entry(self, entry_id: str) -> int:
        with self._writing() as db:
            if not db.execute("DELETE FROM entries WHERE id = ?", (entry_id,)).rowcount:
                raise Conflict(f"there is no entry {entry_id}")
            return _next(db, "audit")

    def entries(self) -> list[Entry]:
        return [Entry(*row) for row in self._read("SELECT * FROM entries ORDER BY node, workload")]

    def entries_of(self, node: str) -> list[Entry]:
        rows = self._read("SELECT * FROM entries WHERE node = ? OR node GLOB '*[*]*' ORDER BY node, workload", (node,))
        return [entry for row in rows if matches_node((entry := Entry(*row)).node, node)]

    # --- what is denied

    def deny(self, records: Sequence[Denied]) -> int:
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO denied VALUES (?, ?, ?, ?, ?)", records)
            (count,) = db.execute("SELECT count(*) FROM denied").fetchone()
            if count > MAX_DENIED:
                raise Conflict(
                    f"the deny list would have {count} records, and {MAX_DENIED} is the most that agents are sent"
                )
            _next(db, "denied")
            return _next(db, "audit")

    def allow(self, kind: str, value: str) -> int:
        with self._writing() as db:
            if not db.execute("DELETE FROM denied WHERE kind = ? AND value = ?", (kind, value)).rowcount:
                raise Conflict(f"the {kind} {value} is not denied")
            _next(db, "denied")
            return _next(db, "audit")

    def denied(self) -> DenyList:
        with self._used() as db:
            db.execute("BEGIN")  # both from one state of the database
            sequence = _now_at(db, "denied")
            rows = db.execute("SELECT * FROM denied ORDER BY made_at, rowid").fetchall()
            db.execute("COMMIT")
        return DenyList(sequence, tuple(Denied(*row) for row in rows))

    def sequence(self) -> int:
        with self._used() as db:
            return _now_at(db, "denied")

    def renumber(self) -> None:
        """Have agents hear of the bundle again, which something other than this store has changed."""
        with self._writing() as db:
            _next(db, "denied")

    # --- the change of issuer and root

    def rotation(self) -> Rotation | None:
        with self._used() as db:
            return _rotation(db)

    def rotate(self, before: Rotation | None, after: Rotation) -> tuple[Rotation, int]:
        with self._writing() as db:
            if _rotation(db) != before:
                raise Conflict("the rotation is further than it was: look at `meshd ca rotate status`")
            made = after._replace(sequence=_next(db, "denied"))
            db.execute("INSERT OR REPLACE INTO rotation VALUES (1, ?)", (msgspec.json.encode(made).decode(),))
            return made, _next(db, "audit")

    def hear(self, held: Held) -> None:
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", held)

    def held(self) -> list[Held]:
        return [Held(*row) for row in self._read("SELECT * FROM held ORDER BY node")]

    def holders(self, issued_before: float, now: float) -> list[str]:
        rows = self._read(
            "SELECT DISTINCT node FROM issued WHERE issued_at < ? AND not_after > ? AND requester != 'itself' "
            "AND ('serial', serial) NOT IN (SELECT kind, value FROM denied) "
            "AND ('identity', identity) NOT IN (SELECT kind, value FROM denied) ORDER BY node",
            (issued_before, now),
        )
        return [row[0] for row in rows]

    # --- the keys of JWT-SVIDs

    def jwt_keys(self) -> list[JwtKey]:
        return [JwtKey(*row) for row in self._read("SELECT * FROM jwt_keys ORDER BY made_at, kid")]

    def put_jwt_key(self, before: JwtKey | None, after: JwtKey) -> int:
        with self._writing() as db:
            row = db.execute("SELECT * FROM jwt_keys WHERE kid = ?", (after.kid,)).fetchone()
            if (None if row is None else JwtKey(*row)) != before:
                raise Conflict(f"the JWT key {after.kid} is another now")
            db.execute("INSERT OR REPLACE INTO jwt_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", after)
            (count,) = db.execute("SELECT count(*) FROM jwt_keys").fetchone()
            if count > MAX_JWT_KEYS:
                raise Conflict(f"there would be {count} JWT keys, and {MAX_JWT_KEYS} is the most that agents are sent")
            _next(db, "denied")
            return _next(db, "audit")

    # --- the audit log

    def next_audit(self) -> int:
        with self._writing() as db:
            return _next(db, "audit")

    def close(self) -> None:
        with self._lock:  # a call that is under way in another thread ends first
            self._connection.close()

    # --- transactions

    def _add(self, db: sqlite3.Connection, issued: Issued) -> None:
        found = db.execute(
            "SELECT kind, value, reason FROM denied WHERE (kind, value) IN (VALUES ('identity', ?), ('node', ?))",
            (issued.identity, issued.node),
        ).fetchone()
        if found is not None:
            kind, value, reason = found
            raise Conflict(f"the {kind} {value} is denied: {reason}")
        db.execute(f"INSERT INTO issued ({_ISSUED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", issued)  # noqa: S608

    def _read(self, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._used() as db:
            return db.execute(statement, tuple(values)).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which no other process writes beside: all of it, or nothing when it ends with an error."""
        with self._used() as db:
            if self._is_together:
                with _savepoint(db):
                    yield db
                return
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """What goes wrong here (disk full, damage, another program that holds the lock) may pass. In what is done
        together, it undoes all of it."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                self.errors += 1
                self._is_together = False
                self.trouble = f"the CA's database {self._path} cannot be used: {error}"
                raise Unreachable(self.trouble) from error
            else:
                self.trouble = ""
            finally:
                if self._connection.in_transaction and not self._is_together:
                    self._connection.rollback()


@contextmanager
def _savepoint(db: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction that a Conflict undoes, and nothing else of it."""
    db.execute("SAVEPOINT one")
    try:
        yield
    except Conflict:
        db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
        raise
    db.execute("RELEASE one")


_ISSUED: Final = ", ".join(Issued._fields)


def _join_token(row: tuple[Any, ...]) -> JoinToken:
    token = JoinToken(*row)
    return token._replace(workloads=tuple(row[3].split()))


def _node(db: sqlite3.Connection, name: str) -> Node | None:
    row = db.execute("SELECT * FROM nodes WHERE name = ?", (name,)).fetchone()
    return None if row is None else Node(*row)


def _rotation(db: sqlite3.Connection) -> Rotation | None:
    row = db.execute("SELECT data FROM rotation").fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=Rotation)


def _next(db: sqlite3.Connection, counter: str) -> int:
    """The counter's next value. What is denied is counted on from the time at least: when an older copy of the database
    is restored, agents believe the next change all the same, though they were told more than the copy knows of."""
    least = "CAST(strftime('%s', 'now') AS INTEGER)" if counter == "denied" else "0"
    (value,) = db.execute(
        f"UPDATE counters SET value = max(value + 1, {least}) WHERE name = ? RETURNING value",  # noqa: S608
        (counter,),
    ).fetchone()
    return int(value)


def _now_at(db: sqlite3.Connection, counter: str) -> int:
    (value,) = db.execute("SELECT value FROM counters WHERE name = ?", (counter,)).fetchone()
    return int(value)


def _token_hash(token: str) -> str:
    return hashed(token.encode("utf-8", "surrogatepass"))


def _fault(connection: sqlite3.Connection) -> str:
    """What is wrong with a database that was there; empty when it is good."""
    try:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return f"cannot be used: {error}"
    if found != APPLICATION_ID or not 1 <= version <= SCHEMA_VERSION:
        return f"is of another program, or a later version of meshd (application {found:#x}, schema {version})"
    return "" if verdict == "ok" else f"is damaged: {verdict}"


def _unusable(path: Path, fault: str) -> Problem:
    return Problem(f"{path}: the CA's database {fault}: check its owner, or restore it from a copy")


def connect(path: Path) -> sqlite3.Connection:
    """In autocommit: every transaction here says itself when it begins. Used by one thread at a time (`_used`)."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
