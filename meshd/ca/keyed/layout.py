"""Which record is under which key, and how it is written there; the whole of it is in `meshd.ca.keyed`."""

import zlib
from collections.abc import Iterable
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from meshd.ca.keyed.operations import MAX_VALUE_BYTES, Found
from meshd.ca.patterns import is_exact
from meshd.ca.records import Denied
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict

FORMAT: Final = 1

ABOUT: Final = "about"
SEQUENCE: Final = "trust/sequence"
DENIED: Final = "trust/denied"
ROTATION: Final = "trust/rotation"
JWT_KEYS: Final = "trust/jwt-keys"
ROOTS: Final = "trust/roots"
ISSUED: Final = "issued/"
NODES: Final = "nodes/"
PATTERNS: Final = "patterns/"
TOKENS: Final = "tokens/"
LIVE: Final = "live/"
ISSUERS: Final = "issuers/"

MAX_LIST_BYTES: Final = 8 << 20
"""Of the deny list, unpacked: 5,000 records of 1.6 KB, and more than any agent takes."""

T = TypeVar("T")


class About(msgspec.Struct, frozen=True):
    """What is below the prefix."""

    format: int
    trust_domain: str


def issued(serial: str) -> str:
    return f"{ISSUED}{serial}"


def of_node(name: str, what: str) -> str:
    """`what` is node, held or entries."""
    return f"{NODES}{name}/{what}"


def entries_for(node: str) -> str:
    """Where the entries for a node, or for a pattern of nodes, are."""
    return of_node(node, "entries") if is_exact(node) else f"{PATTERNS}{quote(node, safe='')}/entries"


def token(token_id: str) -> str:
    return f"{TOKENS}{token_id}"


def shared(token_hash: str) -> str:
    return f"shared/{token_hash}"


def audit(ca: str) -> str:
    return f"audit/{ca}"


def live(ca: str, session: str) -> str:
    return f"{LIVE}{ca}/{session}"


def lock(what: str) -> str:
    return f"locks/{what}"


def issuer(ca: str, what: str) -> str:
    """`what` is request or answer."""
    return f"{ISSUERS}{ca}/{what}"


# --- values


def written(record: object) -> bytes:
    """Conflict when it is larger than one value may be."""
    value = msgspec.json.encode(record)
    return _bounded(value, "a record")


def read(found: Found, kind: type[T], key: str) -> T:
    """Unreachable when it is not a record of that kind: nothing is made up for it."""
    try:
        return msgspec.json.decode(found.value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable(f"the CA's store: {key} holds no {kind.__name__}: {error}") from error


def denied_written(records: Iterable[Denied]) -> bytes:
    return _bounded(zlib.compress(msgspec.json.encode(list(records))), "the deny list")


def denied_read(found: Found) -> tuple[Denied, ...]:
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(found.value, MAX_LIST_BYTES)
        return tuple(msgspec.json.decode(text, type=list[Denied]))
    except (zlib.error, ValueError) as error:  # msgspec's errors are of the latter kind; what is too long is cut off
        raise Unreachable(f"the CA's store: {DENIED} holds no deny list: {error}") from error


def _bounded(value: bytes, what: str) -> bytes:
    if len(value) > MAX_VALUE_BYTES:
        raise Conflict(f"{what} would take {len(value)} bytes of the store, and {MAX_VALUE_BYTES} is the most")
    return value
