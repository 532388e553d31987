"""Which workload a process is whose connection was redirected to the host's proxy.

The proxy knows what the kernel says of the socket: the id of the control group it was made in, and its user. The id is
the inode of the group's directory, and is never given twice; the directory's path says which unit it is, and the
documents' selectors which workload (`meshd.agent.workload.attest`). Which program made the socket the kernel does not
say, so that a selector with `executable` selects no such process.

Its counterpart is `proxy.capture.callers`, which asks once for each group and user, and again after some seconds.
"""

import asyncio
import os
import pwd
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from meshd.agent.conntrack import Untold, source_port
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.agent.workload.attest import Facts, NotAttested, attest
from meshd.api.control import Caller, Capture, FindSource, Source
from meshd.api.documents import Selector
from meshd.api.names import Address, InvalidName, WorkloadName

PLACES: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where version 2 is mounted: alone, or beside version 1."""
MAX_KEPT: Final = 4096
"""Paths that are remembered; a host has some hundred groups with processes."""
MAX_LOOKED_AT: Final = 65_536
"""Directories that are looked at for one id; beyond it the group is not found."""
MAX_IDENTIFYING: Final = 256
"""Callers that one proxy may have identified at a time."""


def capture_of(settings: CaptureSettings, proxy: ProxySettings, *, idle: bool = False) -> Capture:
    """What the host's proxy is told of it. `idle`: nothing is redirected at present. Without capture nothing ever is,
    and the proxy listens by IPv6 all the same: systemd has sockets for it that somebody must accept at."""
    v6 = has_ipv6()
    return Capture(
        settings.unknown,
        settings.unmeshed,
        outbound6=beside(proxy.outbound) if v6 else "",
        inbound6=beside(proxy.inbound) if v6 else "",
        idle=idle or not settings.enabled,
    )


def source_of(asked: FindSource) -> Source:
    """From which port a connection was made that came from another. Takes microseconds: the kernel answers at once."""
    try:
        return Source(source_port(Address.parse(asked.here), Address.parse(asked.peer)))
    except (InvalidName, Untold) as error:
        return Source(0, str(error))


def beside(listen: str) -> str:
    """Where what a listener of IPv4 is for comes by IPv6: `redirect` leads to the loopback address where it is sent
    from here, and else to one of the interface. Empty where the listener is of IPv6 itself, or of one interface."""
    if not listen:
        return ""
    return str(Address.parse(listen).by_ipv6 or "")


def everywhere6(listen: str) -> str:
    """Where a listener for every interface is by IPv6, which nothing is redirected to; empty of others."""
    return "".join(map(str, Address.parse(listen).everywhere[1:])) if listen else ""


def has_ipv6(interfaces: Path = Path("/proc/net/if_inet6")) -> bool:
    """Whether ::1 is an address of this host: where IPv6 is off it is not, and nobody can listen there."""
    try:
        return any(line.startswith(f"{1:032x} ") for line in interfaces.read_text().splitlines())
    except OSError:
        return False


class Calling:
    """Answers the host's proxy. Looks at the file system, in a thread, for groups that it has not seen."""

    def __init__(self, places: Iterable[str] = PLACES) -> None:
        self._top = next((place for place in places if os.path.exists(f"{place}/cgroup.controllers")), "")
        self._paths: OrderedDict[int, str] = OrderedDict()
        self._looking = asyncio.Lock()

    async def identify(self, cgroup: int, uid: int, selectors: Mapping[WorkloadName, Sequence[Selector]]) -> Caller:
        """Which of the workloads processes of uid in the group with that id are."""
        path = self._paths.get(cgroup, "")
        if not path:
            async with self._looking:  # of many that ask at once one looks, and at the tree once
                path = self._paths.get(cgroup, "") or await asyncio.to_thread(path_of, self._top, cgroup)
                self._keep(cgroup, path)
        if not path:
            return Caller("", f"no control group of this host has the id {cgroup}")
        facts = Facts(pid=0, uid=uid, user=await asyncio.to_thread(_user, uid), cgroup=path, executable="")
        try:
            return Caller(str(attest(facts, selectors)))
        except NotAttested as error:
            return Caller("", error.detail)

    def _keep(self, cgroup: int, path: str) -> None:
        if path:
            self._paths[cgroup] = path
            while len(self._paths) > MAX_KEPT:
                self._paths.popitem(last=False)


def path_of(top: str, cgroup: int) -> str:
    """The path, below top, of the group with that id; empty where there is none. Those near the top come first."""
    if not top or cgroup <= 1:  # the root, which is nobody's
        return ""
    waiting, seen = deque((top,)), 0
    while waiting:
        directory = waiting.popleft()
        try:
            with os.scandir(directory) as entries:
                below = [each for each in entries if each.is_dir(follow_symlinks=False)]
        except OSError:  # it has gone meanwhile
            continue
        for each in below:
            seen += 1
            if each.inode() == cgroup:
                return each.path.removeprefix(top)
            if seen >= MAX_LOOKED_AT:
                return ""
            waiting.append(each.path)
    return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""
