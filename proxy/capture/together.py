"""Capture put together, for a proxy whose agent says that connections are redirected to it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meshd.api.control import Capture
from meshd.api.names import WorkloadName
from meshd.api.tasks import Tasks
from proxy.capture.callers import Agent, Callers
from proxy.capture.diag import SocketDiag
from proxy.capture.inbound import CapturedInbound
from proxy.capture.outbound import CapturedOutbound
from proxy.inbound import Inbound
from proxy.outbound import Outbound

log = logging.getLogger(__name__)

PLACES: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where control groups of version 2 are: alone, or beside version 1."""


class Capturing:
    """Both sides of it. `served` gives the workloads of this proxy, `own` tells whether an address is its own."""

    def __init__(
        self,
        agent: Agent,
        served: Callable[[WorkloadName], Outbound | None],
        own: Callable[[str, int], bool],
        inbound: Inbound,
        tasks: Tasks,
    ) -> None:
        self.lookups = SocketDiag()
        cgroup = own_cgroup()
        stats, sweep = inbound.stats, inbound.sweep
        callers = Callers(agent, tasks)
        self.outbound = CapturedOutbound(callers, served, own, self.lookups, cgroup, stats, sweep, tasks)
        self.inbound = CapturedInbound(inbound, self.lookups, cgroup)

    def use(self, capture: Capture) -> None:
        """Who calls, where that is said, and what becomes of those without an identity, from now on."""
        self.outbound.caller = WorkloadName.parse(capture.caller) if capture.caller else None
        self.outbound.unknown = capture.unknown
        self.inbound.unmeshed = capture.unmeshed

    def close(self) -> None:
        self.outbound.close()
        self.inbound.close()
        self.lookups.close()


def own_cgroup(listing: Path = Path("/proc/self/cgroup")) -> int:
    """The id of the control group (version 2) of this process; 0 where it is the root, which is everybody's, or not to
    be had."""
    try:
        for line in listing.read_text().splitlines():
            if line.startswith("0::/") and line != "0::/":
                path = line.removeprefix("0::")
                place = next(each for each in PLACES if os.path.exists(f"{each}/cgroup.controllers"))
                return os.stat(f"{place}{path}").st_ino
    except (OSError, StopIteration) as error:
        log.info("which control group this proxy is in is not to be had: %s", error)
    return 0
