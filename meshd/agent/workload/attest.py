"""Which workload a process is: what the kernel says of it, held against the selectors of the documents. Pure.

A `Workload` document says in `spec.selectors` which processes it is (`meshd.api.documents.Selector`): one entry
must hold in full. A process that is no workload gets no identity, and one that would be two gets none either: which of
them was meant is for the operator to say, and not for the order of files. What the kernel says comes from
`meshd.agent.workload.process`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from meshd.api.documents import Selector
from meshd.api.names import WorkloadName

_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")
"""Units that have processes (systemd.unit(5)); a slice only has units."""

MAX_SHOWN = 200
"""Characters of a path that are logged, or told to its process."""


class NotAttested(Exception):
    """A process that gets no identity. The message is for the process, `detail` for the log alone."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail or reason


class Facts(NamedTuple):
    """What the kernel says of a process. `pid` is 0 where it is known by a socket of its alone; `user` is what this
    host calls the uid, empty when it has no name for it; `cgroup` and `executable` are absolute paths, empty where they
    cannot be believed."""

    pid: int
    uid: int
    user: str
    cgroup: str
    executable: str

    @property
    def unit(self) -> str:
        return unit_of(self.cgroup)

    def __str__(self) -> str:
        user = f"user {self.user}" if self.user else f"uid {self.uid}"
        where = f"unit {_shown(self.unit)}" if self.unit else f"cgroup {_shown(self.cgroup)}"
        if not self.pid:
            return f"a process whose connection was captured ({user}, {where})"
        return f"pid {self.pid} ({user}, {where}, executable {_shown(self.executable)})"


def _shown(path: str) -> str:
    """A path for the log: whoever made it may have put line ends into it, bytes that are no text, or 4,000 of them."""
    text = path.encode("unicode_escape").decode()
    return f"{text[:MAX_SHOWN]}…" if len(text) > MAX_SHOWN else text or "unknown"


def cgroup_of(listing: str) -> str:
    """The cgroup that /proc/PID/cgroup lists (cgroups(7)), empty when it says nothing to be believed.

    Where systemd has version 2 (alone, or as `unified/` beside version 1) the process is listed there; a host that
    has version 1 alone has the process at / in version 2, and in its place in systemd's own hierarchy. A path with `..`
    is outside the agent's cgroup namespace, so that nobody knows what it would be called.
    """
    paths: dict[str, str] = {}
    for line in listing.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths["unified" if number == "0" and not controllers else controllers] = path
    unified = paths.get("unified", "")
    path = unified if unified not in ("", "/") else paths.get("name=systemd", unified)
    return path if path.startswith("/") and ".." not in path.split("/") else ""


def unit_of(cgroup: str) -> str:
    """The system's unit whose cgroup that is or is below, empty when there is none.

    It is the first part of the path that is no slice. What is below is the unit's own to name: a user's manager calls
    its cgroups what it likes, /user.slice/…/user@1000.service/app.slice/web.service among them.
    """
    for part in cgroup.strip("/").split("/"):
        if not part.endswith(".slice"):
            name = part.removeprefix("_")  # systemd's escape, for names that the kernel has taken
            return name if name.endswith(_UNIT_TYPES) else ""
    return ""


def matches(selector: Selector, facts: Facts) -> bool:
    """Whether all that the selector names holds. What is not known of a process never does."""
    return (
        (selector.unit is None or _fits(selector.unit, facts.unit))
        and (selector.user is None or _is_user(selector.user, facts))
        and (selector.executable is None or facts.executable == selector.executable)
        and (selector.cgroup is None or _is_in(selector.cgroup, facts.cgroup))
    )


def attest(facts: Facts, selectors: Mapping[WorkloadName, Sequence[Selector]]) -> WorkloadName:
    """The one workload that the process is; NotAttested when that is none, or more than one."""
    found = [name for name, alternatives in selectors.items() if any(matches(each, facts) for each in alternatives)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotAttested(f"no Workload document selects this process: {facts}")
    names = ", ".join(map(str, found))
    raise NotAttested(
        f"more than one Workload document selects this process: {facts}; the agent's log names them",
        f"{names} all select this process, so that it gets none of them: {facts}: make their selectors disjoint",
    )


def _is_user(wanted: str, facts: Facts) -> bool:
    return facts.uid == int(wanted) if wanted.isdigit() else facts.user == wanted


def _is_in(pattern: str, cgroup: str) -> bool:
    """Whether the cgroup is one that the pattern names, or is below it."""
    return cgroup != "" and _regex(pattern.rstrip("/"), "(?:/.*)?").fullmatch(cgroup) is not None


def _fits(pattern: str, text: str) -> bool:
    return text != "" and _regex(pattern, "").fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _regex(pattern: str, end: str) -> re.Pattern[str]:
    """`*` stands for any part of one name between slashes, everything else for itself."""
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))) + end)
