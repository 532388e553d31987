"""The clocks of a cluster's nodes, which are those of the pods on them, by what their kubelets write.

A kubelet renews a Lease of its node's name in `kube-node-lease` every ten seconds, with its own time. One that is ahead
of the API server's shows a clock that is ahead. One that is late shows a clock that is behind where the node is ready:
the cluster finds that out by when a Lease changes, and not by the time in it.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from k8s.checks import kinds as of
from k8s.checks.installation import is_ready
from k8s.cluster import Body, Cluster, Refused
from meshd.agent.check.kinds import Check

LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

RENEWED_EVERY_S: Final = 10.0
AHEAD_WARN_S: Final = 30.0
APART_ERROR_S: Final = 60.0
"""Certificates begin a minute before they are made."""

MAX_NAMED: Final = 10
MAX_ASKED: Final = 200
"""Of those whose Lease is late, which may all be gone."""


def checks(cluster: Cluster) -> Iterator[Check]:
    """Nothing where there are no Leases, or who asks may not read them."""
    ahead: dict[str, float] = {}
    late: dict[str, float] = {}
    looked = 0
    try:
        for lease in cluster.each(LEASES):
            renewed_at = _time((lease.get("spec") or {}).get("renewTime"))
            if renewed_at is None or cluster.ahead_s is None:
                continue
            looked += 1
            off_s = renewed_at - (time.time() + cluster.ahead_s + 0.5)  # that has whole seconds
            if off_s >= AHEAD_WARN_S:
                ahead[lease["metadata"]["name"]] = off_s
            elif off_s <= -(APART_ERROR_S + RENEWED_EVERY_S):
                late[lease["metadata"]["name"]] = -off_s - RENEWED_EVERY_S
        asked = islice(late.items(), MAX_ASKED)
        behind = dict(islice((each for each in asked if _is_ready(cluster, each[0])), MAX_NAMED))
    except Refused:
        return
    if looked:
        yield _check(ahead, behind)


def _check(ahead: dict[str, float], behind: dict[str, float]) -> Check:
    lines = [f"{name} is at least {off_s:.0f} s ahead of the API server" for name, off_s in sorted(ahead.items())]
    lines += [f"{name} is at least {off_s:.0f} s behind the API server" for name, off_s in sorted(behind.items())]
    if not lines:
        return of.NODE_CLOCKS.well()
    more = len(lines) - MAX_NAMED
    said = "\n".join([*lines[:MAX_NAMED], *([f"and {more} more"] if more > 0 else [])])
    hint = "set the clocks of these nodes (NTP)"
    is_wrong = bool(behind) or max(ahead.values()) >= APART_ERROR_S
    return of.NODE_CLOCKS.error(said, hint) if is_wrong else of.NODE_CLOCKS.warning(said, hint)


def _time(text: object) -> float | None:
    """A MicroTime, in seconds since the epoch; None where it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _is_ready(cluster: Cluster, name: str) -> bool:
    node: Body | None = cluster.get(f"/api/v1/nodes/{name}")
    return node is not None and is_ready(node)
