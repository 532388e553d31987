"""Patterns of names, as tokens and entries have them: what a name may be, with `*` for any part of a label.

    node       vm1   web-*   *
    workload   default/web   default/*   */web-*   */*

A pattern is lower case and matches whole labels; `*` stands for any run of characters, also for none, and never
crosses the `/`. A workload's pattern has always both parts: what is left out means nothing, least of all everything.
`?` and `[` have no meaning here and are refused.
"""

import re
from fnmatch import fnmatchcase
from typing import Final

from meshd.api.names import InvalidName, WorkloadName

_LABEL: Final = re.compile(r"[a-z0-9*-]{1,63}")


def check_node(pattern: str) -> str:
    """pattern itself; InvalidName when it can match no node."""
    if not _is_label(pattern):
        raise InvalidName(
            f"{pattern!r} is not a node's name or a pattern of such: a DNS label, with `*` for any part of it, as in "
            "vm1 or web-*"
        )
    return pattern


def check_workload(pattern: str) -> str:
    """pattern itself; InvalidName when it can match no workload."""
    namespace, slash, name = pattern.partition("/")
    if not (slash and _is_label(namespace) and _is_label(name)):
        raise InvalidName(
            f"{pattern!r} is not NAMESPACE/NAME or a pattern of such: two DNS labels, with `*` for any part of each, "
            "as in default/web, default/* or */*"
        )
    return pattern


def is_exact(pattern: str) -> bool:
    """Whether pattern is one name and no other."""
    return "*" not in pattern


def matches_node(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern)


def matches_workload(pattern: str, workload: WorkloadName) -> bool:
    namespace, _, name = pattern.partition("/")
    return fnmatchcase(workload.namespace, namespace) and fnmatchcase(workload.name, name)


def _is_label(pattern: str) -> bool:
    return _LABEL.fullmatch(pattern) is not None and not pattern.startswith("-") and not pattern.endswith("-")
