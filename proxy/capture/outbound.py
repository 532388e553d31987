"""What processes of this host send and the kernel redirected here: each connection is its workload's own.

Who calls, the kernel says of the socket at the other end (`proxy.capture.diag`) and the agent of its control group
(`proxy.capture.callers`). Where to, the address says that the connection was for, as discovery knows it, and nothing
else: a Host field or a server name is whatever the caller writes. Nothing is read before both are known.

    HTTP                        each request goes to the address's service, with its Host as it is
    to a proxy outside          CONNECT and absolute targets are that proxy's: opaque
    anything else               opaque; of TLS the server name is recorded

One who is no workload is refused, or passed on to the address in plain text, as the agent says. In a pod all who call
are one workload, which is said once (`caller`), and nobody is asked.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable
from typing import Final, Literal

from meshd.api.complaints import Dam
from meshd.api.names import Address, WorkloadName
from meshd.api.tasks import Tasks
from proxy.caller import CallerTraffic
from proxy.capture.callers import Callers
from proxy.capture.diag import Process, SocketDiag, Undecided
from proxy.capture.original import plain
from proxy.capture.sorting import refuse, serve
from proxy.connect import Dialer
from proxy.detect import Detected, Detecting
from proxy.errors import Bound, Failure
from proxy.exchange import Route
from proxy.http1.heads import RequestHead
from proxy.http1.server import Drained, ServerConnection
from proxy.http2.server import Http2Server
from proxy.mesh.denied import Denials
from proxy.mesh.tls import NoCertificate
from proxy.outbound import Connections, Outbound, Relayed
from proxy.resolve import PATIENCE_S, Destinations, Found
from proxy.stats import Labels, Stats
from proxy.sweep import Sweep
from proxy.tcp import RelayEnd, relay
from proxy.transports import take_over

log = logging.getLogger(__name__)
log.addFilter(Dam())

NOBODY: Final = WorkloadName("-", "-")
"""The label of those who are passed on and are no workload: no workload can be called so."""

_FOR_A_PROXY: Final = re.compile(rb"(?:\r\n)?(?:CONNECT |[^ \r\n]+ [A-Za-z][A-Za-z0-9+.-]*://)")
_VIRTUAL: Final = ipaddress.ip_network("240.0.0.0/4")
"""Addresses of which every one is some service of the mesh's: nobody outside has one."""


class CapturedOutbound(Connections):
    """See the module. `served` gives the workloads of this proxy, `own` tells whether an address is its own; `cgroup`
    is the control group of this process, whose connections would come back for ever."""

    def __init__(
        self,
        callers: Callers,
        served: Callable[[WorkloadName], Outbound | None],
        own: Callable[[str, int], bool],
        diag: SocketDiag,
        cgroup: int,
        stats: Stats,
        sweep: Sweep,
        tasks: Tasks,
    ) -> None:
        super().__init__(stats)
        self.unknown: Literal["refuse", "pass"] = "refuse"
        self.caller: WorkloadName | None = None  # whose all connections are, where that is known without asking
        self._callers = callers
        self._served = served
        self._own = own
        self._diag = diag
        self._cgroup = cgroup
        self._sweep = sweep
        self._tasks = tasks
        dialer = Dialer(tasks, sweep, _NoCredentials(), own, Denials(stats))
        loop = asyncio.get_running_loop()
        self._outside = Destinations(NOBODY, _NoServices(), stats, dialer, loop.call_later, own)
        self._nobody = Outbound(str(NOBODY), self._outside, dialer, stats, sweep, tasks)
        sweep.add(self._outside)

    def expects(self, where: Address) -> bool:  # noqa: ARG002 - wherever processes call
        """See `proxy.capture.sorting.Captured`."""
        return True

    async def take(self, accepted: socket.socket, where: Address) -> None:
        """See `proxy.capture.sorting.Captured`."""
        try:
            protocol = await self._protocol(accepted, where)
        except BaseException:
            refuse(accepted)
            raise
        if isinstance(protocol, str):
            self._stats.count_error("outbound", "tcp", protocol)
            refuse(accepted)
        elif not await serve(accepted, protocol) and isinstance(protocol, Detecting):
            self.closed(protocol)  # it will hear of nothing

    async def _protocol(self, accepted: socket.socket, where: Address) -> asyncio.Protocol | str:
        """What has the connection from now on; or in a word why it is refused."""
        if self._own(*where):
            return Failure.LOOP.value.label
        if self.caller is not None:
            outbound = self._served(self.caller)
            return Bound.UNKNOWN if outbound is None else await self._to_service(outbound, where)
        process = whose(self._diag, accepted, where) or await self._renumbered(accepted, where)
        if process is not None and process.cgroup == self._cgroup:
            log.warning("this proxy's own connection to %s was redirected to it: see what redirects it", where)
            return Failure.LOOP.value.label
        workload = await self._callers.workload(process) if process is not None else None
        outbound = self._served(workload) if workload is not None else None
        if outbound is None:
            return self._for_nobody(where)
        return await self._to_service(outbound, where)

    async def _to_service(self, outbound: Outbound, where: Address) -> asyncio.Protocol | str:
        destination = outbound.destinations.get(str(where)).destination
        if not await destination.learned(PATIENCE_S):
            return Failure.NOT_RESOLVED.value.label
        return _Service(self, outbound, where).protocol()

    async def _renumbered(self, accepted: socket.socket, where: Address) -> Process | None:
        """Who made a connection to which the kernel gave another port, since that of its own was taken there."""
        try:
            here, peer = plain(accepted.getsockname()), plain(accepted.getpeername())
        except OSError:  # it is over
            return None
        source = await self._callers.source(here, peer)
        return None if source is None else asked(self._diag, source, where)

    def _for_nobody(self, where: Address) -> asyncio.Protocol | str:
        if self.unknown == "refuse" or ipaddress.ip_address(where.host) in _VIRTUAL:
            return Bound.UNKNOWN
        return _Service(self, self._nobody, where).relayed()

    @property
    def sweep(self) -> Sweep:
        return self._sweep

    def close(self) -> None:
        self._sweep.discard(self._outside)
        self._outside.close()
        self._diag.close()


def whose(diag: SocketDiag, accepted: socket.socket, where: Address) -> Process | None:
    """Who made a connection that was going to `where`; None where it is nobody of this host, or cannot be told."""
    try:
        return asked(diag, plain(accepted.getpeername()), where)
    except OSError:  # it is over
        return None


def asked(diag: SocketDiag, source: Address, where: Address) -> Process | None:
    """Who connected from source to `where`."""
    try:
        return diag.whose(source, where)
    except OSError:  # they are no addresses to ask with
        return None
    except Undecided as error:
        log.warning("%s", error)
        return None


class _Service:
    """What one captured connection is for: the workload that called, and the address that it asked for."""

    def __init__(self, captured: CapturedOutbound, outbound: Outbound, where: Address) -> None:
        self._captured = captured
        self._outbound = outbound
        self._authority = str(where)
        self._labels = Labels("outbound", outbound.workload, self._route.destination.name)

    @property
    def _route(self) -> Route:
        """Asked for anew each time: what is unused for a while is forgotten, and connections stay open for longer."""
        return self._outbound.destinations.get(self._authority)

    def protocol(self) -> asyncio.Protocol:
        """What the connection begins with."""
        detection = self._outbound.detection
        speaks = self._route.destination.speaks(detection)
        if speaks == "tcp":
            return self.relayed()
        captured, opaque = self._captured, speaks == "auto"
        detecting = Detecting(
            captured.sweep, self._detected, captured.closed, opaque=opaque, timeout_s=detection.timeout_s
        )
        return captured.opened(detecting)

    def relayed(self) -> asyncio.Protocol:
        return Relayed(self._traffic, self._relay)

    @property
    def _traffic(self) -> CallerTraffic:
        return CallerTraffic(self._outbound.stats, self._labels, self._outbound.names)

    def _detected(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        if found == "tcp" or (_FOR_A_PROXY.match(data) and not self._route.destination.meshed):
            turned = None if data else self._detected  # a caller that has said nothing may yet speak HTTP
            take_over(transport, Relayed(self._traffic, self._relay, turned), data)
        else:
            kind = Http2Server if found == "http2" else ServerConnection
            tcp = self._outbound.stats.tcp(self._labels, "src")
            self._captured.serve(transport, kind(self, tcp, self._captured.sweep), data)

    def _relay(self, end: RelayEnd) -> None:
        outbound, destination = self._outbound, self._route.destination
        work = relay(end, "outbound", destination, outbound.dialer, PATIENCE_S, outbound.stats)
        outbound.tasks.start(work, f"relay to {destination.name}")

    # --- for connections of HTTP

    def route(self, head: RequestHead) -> Route | Failure:  # noqa: ARG002 - the address says where to
        return self._route

    def tunnel(self, connection: ServerConnection, authority: str) -> Failure | None:  # noqa: ARG002
        return Failure.BAD_REQUEST  # a service is no proxy

    def refused(self, bound: Bound, reason: str) -> None:
        self._captured.refused(bound, reason)

    def closed(self, connection: Drained) -> None:
        self._captured.closed(connection)


class _NoServices:
    """For those who are no workload there is no mesh."""

    def watch(self, authority: str, namespace: str, found: Found) -> Callable[[], None]:  # noqa: ARG002
        found(None)
        return lambda: None


class _NoCredentials:
    async def client_context(self) -> ssl.SSLContext:
        raise NoCertificate("no workload calls")
