"""What comes for a workload's port in plain text, from outside the mesh: the kernel redirected it to the inbound
listener, where mutual TLS comes otherwise. A health check of a load balancer is such.

It is allowed or denied, as the agent says. Allowed, it goes on to where it was going and nowhere else: an application
that listens on loopback alone is not heard from outside because of the mesh. On a port that may be HTTP it is passed on
as HTTP, without what the caller says of itself in `l5d-client-id`; on others as it comes, TLS of the application's own
too.
"""

import asyncio
import logging
import socket
from collections import OrderedDict
from typing import Final, Literal

from msgspec.structs import replace

from meshd.api.complaints import Dam
from meshd.api.names import Address, WorkloadName
from proxy.caller import CallerEnd, CallerTraffic
from proxy.capture.diag import SocketDiag
from proxy.capture.outbound import whose
from proxy.capture.sorting import refuse, serve
from proxy.detect import Detected, Detecting
from proxy.errors import Bound, Failure
from proxy.http1.server import ServerConnection
from proxy.http2.server import Http2Server
from proxy.inbound import PATIENCE_S, Inbound, LocalService, Watched
from proxy.ports import LocalPort
from proxy.tcp import relay
from proxy.transports import take_over

log = logging.getLogger(__name__)
log.addFilter(Dam())

MAX_PLACES: Final = 256
"""Addresses of this host, by port, that are remembered; the one asked for longest ago makes room."""


class CapturedInbound:
    """See the module. `cgroup` is the control group of this process, whose connections would come back for ever."""

    def __init__(self, inbound: Inbound, diag: SocketDiag, cgroup: int) -> None:
        self.unmeshed: Literal["allow", "deny"] = "allow"
        self._inbound = inbound
        self._diag = diag
        self._cgroup = cgroup
        self._places: OrderedDict[tuple[LocalPort, str], LocalPort] = OrderedDict()
        inbound.sweep.add(self)

    def expects(self, where: Address) -> bool:
        """See `proxy.capture.sorting.Captured`: what is for no workload's port, somebody else has redirected, and has
        to be a peer of the mesh like any other."""
        inbound = self._inbound
        return any(port == where.port for _, port in inbound.ports) or any(
            each.takes(where.port) for each in inbound.any_port.values()
        )

    async def take(self, accepted: socket.socket, where: Address) -> None:
        """See `proxy.capture.sorting.Captured`."""
        found = self._local(accepted, where)
        if isinstance(found, str):
            self._inbound.stats.count_error("inbound", "tcp", found)
            refuse(accepted)
        else:
            protocol = _Plain(self._inbound, found).protocol()
            if not await serve(accepted, protocol) and isinstance(protocol, Detecting):
                self._inbound.closed(protocol)  # it will hear of nothing

    def _local(self, accepted: socket.socket, where: Address) -> LocalPort | str:
        """The port it is for; or in a word why it is refused."""
        if self._inbound.any_port:
            return self._in_pod(where)
        declared = [(name, local) for (name, port), local in self._inbound.ports.items() if port == where.port]
        if len(declared) > 1:
            declared = [each for each in declared if each[1].port.address == where.host]
        if len(declared) != 1:
            log.warning("refused a connection for %s: several workloads declare the port, none at that address", where)
            return "unexpected"
        if self.unmeshed == "deny":
            return Bound.UNMESHED
        process = whose(self._diag, accepted, where)
        if process is not None and process.cgroup == self._cgroup:
            log.warning("this proxy's own connection to %s was redirected to it: see what redirects it", where)
            return Failure.LOOP.value.label
        return self._place(*declared[0], where.host)

    def _in_pod(self, where: Address) -> LocalPort | str:
        """The same where all ports are one workload's, which is alone in its network: nobody else is there to be asked
        for. Where nobody listens it is refused as the kernel would."""
        any_port = next(iter(self._inbound.any_port.values()))
        if self.unmeshed == "deny":
            return Bound.UNMESHED
        if not any_port.listens(where):
            return Failure.NO_ENDPOINT.value.label
        return any_port.at(where) or Failure.LOOP.value.label

    def _place(self, name: WorkloadName, local: LocalPort, host: str) -> LocalPort:
        """The declared port as it is at the address host."""
        place = self._places.get((local, host))
        if place is None:
            port = replace(local.port, address=host)
            place = self._places[local, host] = LocalPort(name, port, local.dialer, self._inbound.stats)
            while len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)[1].close()
        self._places.move_to_end((local, host))
        return place

    def sweep(self, now: float) -> None:  # noqa: ARG002 - what counts is what is declared
        """See `proxy.sweep.Swept`: forget ports that are declared no longer."""
        for key in [key for key in self._places if key[0] not in self._inbound.ports.values()]:
            self._places.pop(key).close()

    def close(self) -> None:
        self._inbound.sweep.discard(self)
        for place in self._places.values():
            place.close()
        self._places.clear()


class _Plain:
    """One connection with nobody's identity to a port."""

    def __init__(self, inbound: Inbound, local: LocalPort) -> None:
        self._inbound = inbound
        self._local = local
        self._labels = local.labels("", False)

    def protocol(self) -> asyncio.Protocol:
        """What the connection begins with."""
        inbound, speaks = self._inbound, self._local.port.protocol
        if speaks == "tcp":
            return _Begun(self)
        return inbound.opened(
            Detecting(
                inbound.sweep,
                self._detected,
                inbound.closed,
                opaque=speaks == "auto",
                timeout_s=inbound.detect_timeout_s,
            )
        )

    @property
    def traffic(self) -> CallerTraffic:
        return CallerTraffic(self._inbound.stats, self._labels, self._local.names)

    def _detected(self, transport: asyncio.Transport, found: Detected, data: bytes) -> None:
        inbound = self._inbound
        if found == "tcp":
            turned = None if data else self._detected  # a caller that has said nothing may yet speak HTTP
            end = Watched(self.traffic, None, self._local, turned)
            take_over(transport, end, data)
            if not transport.is_closing():
                self.relay(end)
        else:
            kind = Http2Server if found == "http2" else ServerConnection
            service = LocalService(inbound, self._local, self._labels)
            connection = inbound.opened(kind(service, inbound.stats.tcp(self._labels, "src"), inbound.sweep))
            take_over(transport, connection, data)
            if inbound.draining:
                connection.drain()

    def relay(self, end: CallerEnd) -> None:
        inbound, local = self._inbound, self._local
        work = relay(end, "inbound", local.destination, local.dialer, PATIENCE_S, inbound.stats)
        inbound.tasks.start(work, f"relay to {local.target}")


class _Begun(CallerEnd):
    """A caller's end of a relay that begins when the connection does."""

    def __init__(self, plain: _Plain) -> None:
        super().__init__(plain.traffic)
        self._plain = plain

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._plain.relay(self)
