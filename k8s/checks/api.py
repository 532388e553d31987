"""The API server itself."""

from collections.abc import Iterator
from typing import Final

from k8s.checks import kinds as of
from k8s.cluster import Cluster
from meshd.agent.check.kinds import Check
from meshd.api.problems import Problem

LEAST: Final = (1, 25)
"""The first with pod security standards, which the control plane's namespace asks for."""

CLOCKS_WARN_S: Final = 30.0
CLOCKS_ERROR_S: Final = 60.0
"""Certificates begin a minute before they are made."""


def checks(cluster: Cluster) -> Iterator[Check]:
    try:
        version = cluster.version()
    except Problem as problem:
        hint = "see what `kubectl get --raw /version` says"
        yield of.API_ANSWERS.error(str(problem), hint, cluster.url)
        return
    yield of.API_ANSWERS.well(cluster.url)
    least = ".".join(map(str, LEAST))
    if version < LEAST:
        said = f"it is {version[0]}.{version[1]}"
        yield of.API_VERSION.error(said, "upgrade the cluster first", least)
    else:
        yield of.API_VERSION.well(least)
    yield from _clocks(cluster.ahead_s)


def _clocks(ahead_s: float | None) -> Iterator[Check]:
    if ahead_s is None:
        return
    off_s = abs(ahead_s + 0.5)  # the header has whole seconds
    if off_s < CLOCKS_WARN_S:
        yield of.API_CLOCK.well()
        return
    said = f"the API server is {off_s:.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this host"
    hint = "set the clock that is wrong (NTP)"
    yield of.API_CLOCK.error(said, hint) if off_s >= CLOCKS_ERROR_S else of.API_CLOCK.warning(said, hint)
