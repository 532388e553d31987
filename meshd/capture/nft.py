"""The program `nft`: puts the table in force and says what is. Its counterpart is the kernel; it needs CAP_NET_ADMIN.

The program and not libnftables by ctypes: what goes wrong in it ends a process that lives for milliseconds, and not the
agent; and it is there wherever the library is. It is run on changes, not on connections.
"""

import json
import os
import re
import shutil
import subprocess
from typing import Final, NamedTuple

from meshd.api.problems import Problem
from meshd.capture import generation as numbering
from meshd.capture.plan import Group
from meshd.capture.table import COUNTERS, FROM_SLICE, MARK, TABLE, removal, slice_mark

TIMEOUT_S: Final = 30.0
"""The kernel answers in milliseconds; another transaction may be in its way."""

MAX_COMPLAINT: Final = 600
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
_MARKED = re.compile(rf'\bcomment "{MARK} ([0-9a-f]+)"')


class NotFiltering(Problem):
    """nft is not there, or does not do what it was asked for."""


class InForce(NamedTuple):
    """The table as it is: what it says, counters apart, and the digest that it was made with."""

    listing: str
    digest: str


def program() -> str | None:
    """Where nft is; None where it is not."""
    return shutil.which("nft", path=_PATH)


def apply(text: str, *, check: bool = False) -> None:
    """One transaction: all of it, or NotFiltering and nothing. `check`: the kernel only says whether it would."""
    _run("--check" if check else "", "--file", "-", text=text)


def remove() -> bool:
    """The table is not there any more; whether it was."""
    was_there = in_force() is not None
    if was_there:
        apply(removal())
    return was_there


def in_force() -> InForce | None:
    """The table; None where there is none."""
    listing = _listed("--stateless", "list", "table", *TABLE.split())
    if listing is None:
        return None
    marked = _MARKED.search(listing)
    return InForce(listing, marked[1] if marked else "")


def captures(group: Group) -> bool:
    """Whether processes of the slice that has this control group are captured."""
    listing = _listed("--stateless", "list", "chain", *TABLE.split(), FROM_SLICE)
    return listing is not None and f'comment "{slice_mark(group)}"' in listing


def generation() -> int:
    """How many transactions there were, of whomever: see `meshd.capture.generation`."""
    return numbering.generation()


def counted() -> dict[str, int]:
    """Connections by counter (`meshd.capture.table.COUNTERS`) since the table was made; empty where there is none."""
    listing = _listed("--json", "list", "counters", "table", *TABLE.split())
    if listing is None:
        return {}
    found = (each["counter"] for each in json.loads(listing)["nftables"] if "counter" in each)
    return {each["name"]: int(each["packets"]) for each in found if each["name"] in COUNTERS}


def _listed(*arguments: str) -> str | None:
    """What nft prints; None where it finds no table."""
    try:
        return _run(*arguments)
    except NotFiltering as error:
        if "No such file or directory" in str(error):
            return None
        raise


def _run(*arguments: str, text: str = "") -> str:
    nft = program()
    if nft is None:
        raise NotFiltering("there is no program `nft` here: install the package nftables")
    try:
        ended = subprocess.run(  # noqa: S603 - a fixed program, found in the system's own directories
            [nft, *filter(None, arguments)],
            input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotFiltering(f"nft has not ended after {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise NotFiltering(f"{nft} cannot be run: {error.strerror}") from error
    if ended.returncode:
        said = " ".join(ended.stderr.split())[:MAX_COMPLAINT] or f"status {ended.returncode}"
        if "Operation not permitted" in said and os.geteuid():
            said += ": only root, or the agent with CAP_NET_ADMIN, may look at or change these rules"
        raise NotFiltering(f"nft: {said}")
    return ended.stdout
