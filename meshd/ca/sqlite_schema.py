"""The tables of the CA's SQLite database, and how those of older versions become these (`meshd.ca.sqlite`).

A database says its version (`PRAGMA user_version`). Each step from one version to the next is a list of statements, and
all steps that are due are one transaction: a process that dies in the middle leaves the database as it was.
"""

import sqlite3
from typing import Final

APPLICATION_ID: Final = 0x6D657368
"""'mesh': by this SQLite, and file(1), tell the database from any other."""

SCHEMA_VERSION: Final = 4

_SINCE_2: Final = (
    """CREATE TABLE join_tokens (
        id TEXT PRIMARY KEY,
        secret_hash TEXT NOT NULL,
        node TEXT NOT NULL,           -- a pattern, as in entries
        workloads TEXT NOT NULL,      -- patterns, a space between each
        uses INTEGER NOT NULL,
        used INTEGER NOT NULL,
        made_at REAL NOT NULL,        -- seconds since the epoch, as all times here
        expires_at REAL NOT NULL,
        revoked_at REAL NOT NULL      -- 0 when it is not
    ) STRICT""",
    """CREATE TABLE nodes (
        name TEXT PRIMARY KEY,
        key_hash TEXT NOT NULL,
        origin TEXT NOT NULL,
        joined_at REAL NOT NULL,
        renewed_at REAL NOT NULL,
        not_after REAL NOT NULL
    ) STRICT""",
    """CREATE TABLE entries (
        id TEXT PRIMARY KEY,
        node TEXT NOT NULL,
        workload TEXT NOT NULL,
        origin TEXT NOT NULL,
        made_at REAL NOT NULL,
        UNIQUE (node, workload)
    ) STRICT""",
    """CREATE TABLE denied (
        kind TEXT NOT NULL,           -- serial, identity or node
        value TEXT NOT NULL,
        reason TEXT NOT NULL,
        made_at REAL NOT NULL,
        expires_at REAL NOT NULL,     -- 0 for never
        PRIMARY KEY (kind, value)
    ) STRICT""",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    "INSERT INTO counters VALUES ('audit', 0), ('denied', 0)",
    "CREATE INDEX issued_node ON issued (node)",
    "CREATE INDEX issued_identity ON issued (identity)",
)

_SINCE_3: Final = (
    "CREATE TABLE rotation (id INTEGER PRIMARY KEY CHECK (id = 1), data TEXT NOT NULL) STRICT",  # JSON
    """CREATE TABLE held (
        node TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,
        oldest REAL NOT NULL,
        heard_at REAL NOT NULL
    ) STRICT""",
)

_SINCE_4: Final = (
    """CREATE TABLE jwt_keys (
        kid TEXT PRIMARY KEY,
        x TEXT NOT NULL,              -- base64url, as y
        y TEXT NOT NULL,
        ca TEXT NOT NULL,
        made_at REAL NOT NULL,
        use_at REAL NOT NULL,
        not_after REAL NOT NULL,
        succeed_at REAL NOT NULL,
        settle_s REAL NOT NULL,
        retired_at REAL NOT NULL      -- 0 when it is not
    ) STRICT""",
)

SCHEMA: Final = ";\n".join(
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        "BEGIN",
        """CREATE TABLE issued (
            serial TEXT PRIMARY KEY,      -- lower-case hexadecimal
            identity TEXT NOT NULL,       -- SPIFFE ID; the names, for the CA's own server
            requester TEXT NOT NULL,
            not_before REAL NOT NULL,
            not_after REAL NOT NULL,
            issued_at REAL NOT NULL,
            node TEXT NOT NULL DEFAULT '',
            workload TEXT NOT NULL DEFAULT ''
        ) STRICT""",
        "CREATE INDEX issued_not_after ON issued (not_after)",
        "CREATE TABLE tokens (hash TEXT PRIMARY KEY, made_at REAL NOT NULL) STRICT",
        *_SINCE_2,
        *_SINCE_3,
        *_SINCE_4,
        f"PRAGMA user_version = {SCHEMA_VERSION}",
        "COMMIT;",
    )
)

_STEPS: Final = {
    1: (
        "ALTER TABLE issued ADD COLUMN node TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE issued ADD COLUMN workload TEXT NOT NULL DEFAULT ''",
        # spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME: no other part of an identity can hold a slash
        "UPDATE issued SET workload = replace(substr(identity, instr(identity, '/ns/') + 4), '/sa/', '/') "
        "WHERE identity GLOB 'spiffe://*/ns/*/sa/*'",
        *_SINCE_2,
        "PRAGMA user_version = 2",
    ),
    2: (*_SINCE_3, "PRAGMA user_version = 3"),
    3: (*_SINCE_4, "PRAGMA user_version = 4"),
}
"""Version → the statements that make it the next."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database of any version up to this one, with all that is in it. sqlite3.Error when it cannot be; then it
    is as it was."""
    if _version(connection) == SCHEMA_VERSION:
        return
    try:
        connection.execute("BEGIN EXCLUSIVE")
        while (version := _version(connection)) < SCHEMA_VERSION:  # read again: another process may have been first
            for statement in _STEPS[version]:
                connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.rollback()


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
