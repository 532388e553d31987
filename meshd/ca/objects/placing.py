"""Which object has which key; the keys are those of `meshd.ca.keyed`."""

import hashlib
import re
from typing import Final, NamedTuple

from meshd.ca.keyed import layout

JOURNAL: Final = "journal"
"""The object that all transactions go through."""

CALLED_ISSUED: Final = layout.ISSUED.strip("/")

TOGETHER: Final = 16
"""Transactions whose certificates are in one object: what is kept of one takes some 400 bytes, and a transaction has 40
KiB at most (`meshd.ca.objects.client.MAX_BATCH_BYTES`), so that an object is below the 1.5 MiB of etcd."""

NUMBERED: Final = ("trust", "issued", "nodes", "patterns", "tokens", "shared")
"""Labels of the objects that are written by transactions, and so have numbers of theirs."""

_HERE: Final = (layout.ABOUT, layout.SEQUENCE, layout.ROTATION, "audit/", "locks/")
"""In the journal itself: what is small, and is changed or looked at by most."""

_PLAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Place(NamedTuple):
    """The name of an object, and its label."""

    object: str
    label: str


def is_here(key: str) -> bool:
    """Whether the journal itself has it."""
    return key.startswith(_HERE)


def is_tracked(key: str) -> bool:
    """Whether the journal has its index, since most transactions depend on it."""
    return key.startswith("trust/")


def is_loose(key: str) -> bool:
    """Whether nothing ever depends on it: it is written without a transaction, and the last to do so is right."""
    return key.startswith((layout.LIVE, layout.ISSUERS)) or (key.startswith(layout.NODES) and key.endswith("/held"))


def place_of(key: str, index: int) -> Place:
    """Where a key is that is not in the journal; `index` is that of a certificate."""
    what, *rest = key.split("/")
    match what, rest:
        case "trust", [name]:
            return Place(f"trust-{name}", "trust")
        case "issued", _:
            return Place(f"issued-{index // TOGETHER}", CALLED_ISSUED)
        case "nodes", [name, "held"]:
            return Place(f"held-{_plain(name)}", "held")
        case "nodes", [name, _]:
            return Place(f"node-{_plain(name)}", "nodes")
        case "patterns", [pattern, _]:
            return Place(f"pattern-{_plain(pattern)}", "patterns")
        case "tokens", [token_id]:
            return Place(f"token-{_plain(token_id)}", "tokens")
        case "shared", [hashed]:
            return Place(f"shared-{_plain(hashed)}", "shared")
        case "live", [_, session]:
            return Place(f"live-{_plain(session)}", "live")
        case "issuers", [ca, which]:
            return Place(f"{which}-{_plain(ca)}", "issuers")
    raise AssertionError(f"no object is for {key}")


def places_of(prefix: str) -> tuple[list[str], list[str]]:
    """Where keys are that begin so: the names of objects, and the labels of all that have one."""
    what, *rest = prefix.split("/")
    match what, rest:
        case "nodes", [""]:
            return [], ["nodes", "held"]
        case "nodes", [name, ""]:
            return [place_of(f"nodes/{name}/{each}", 0).object for each in ("node", "held")], []
        case "issuers", [ca, ""]:
            return [place_of(f"issuers/{ca}/{each}", 0).object for each in ("request", "answer")], []
        case "trust" | "patterns" | "tokens" | "live" | "issuers" | "issued", [""]:
            return [], [what]
    return ([] if is_here(prefix) else [place_of(prefix, 0).object]), []


def _plain(name: str) -> str:
    """As part of an object's name: itself where it can be, else a hash of it, which a dot tells apart."""
    if _PLAIN.fullmatch(name):
        return name
    return f"x.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"
