"""A workload that this proxy serves: its identity, its way out and its ports, from configuration to running parts."""

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from meshd.api.control import ProxyWorkload
from meshd.api.detection import Detection, listed
from meshd.api.documents import Upstream, WorkloadPort
from meshd.api.names import Identity, WorkloadName
from meshd.api.tasks import Tasks
from proxy.capture.diag import SocketDiag
from proxy.connect import Dialer
from proxy.edge import EdgeTls
from proxy.inbound import Inbound
from proxy.listeners import Listeners
from proxy.mesh.identity import WorkloadIdentity
from proxy.mesh.tls import ServerContexts
from proxy.outbound import Outbound, UpstreamListener
from proxy.ports import AnyPort, LocalPort
from proxy.resolve import Destinations, Resolver


def _spoken(port: WorkloadPort, workload: ProxyWorkload, detection: Detection) -> WorkloadPort:
    """A port of workload, with its protocol as far as configuration knows it."""
    if port.protocol == "auto" and detection.is_opaque(port.port, listed(port.port, workload.opaque_ports)):
        return replace(port, protocol="tcp")
    return port


class ServedWorkload:
    """See the module. It lives until `close`; `update` changes its ports and upstreams in place."""

    def __init__(
        self,
        identity: Identity,
        resolver: Resolver,
        inbound: Inbound,
        listeners: Listeners,
        contexts: ServerContexts,
        changed: Callable[[], None],
        zone: str,
    ) -> None:
        self.name: WorkloadName = identity.workload
        self.identity = WorkloadIdentity(identity, contexts, changed)
        self.tasks = Tasks(str(self.name))
        self._inbound = inbound
        self._listeners = listeners
        self._upstreams: dict[Upstream, UpstreamListener] = {}
        loop = asyncio.get_running_loop()
        stats, sweep = inbound.stats, inbound.sweep
        dialer = Dialer(self.tasks, sweep, self.identity, listeners.own, inbound.denials)
        destinations = Destinations(self.name, resolver, stats, dialer, loop.call_later, listeners.own, zone)
        self.outbound = Outbound(str(self.name), destinations, dialer, stats, sweep, self.tasks)
        sweep.add(destinations)

    def update(self, wanted: ProxyWorkload, detection: Detection) -> None:
        """Serve these ports and upstreams, and no others."""
        self.outbound.detection = detection
        if wanted.any_port:
            self._update_ports(())
            self._update_any_port(wanted, detection)
        else:
            self._take_no_other()
            self._update_ports(tuple(_spoken(port, wanted, detection) for port in wanted.ports))
        self._update_upstreams(wanted.upstreams)

    def _update_ports(self, wanted: tuple[WorkloadPort, ...]) -> None:
        ports = self._inbound.ports
        by_number = {port.port: port for port in wanted}
        for key, local in tuple(ports.items()):
            if key[0] == self.name and by_number.get(key[1]) != local.port:
                ports.pop(key).close()
        for port in wanted:
            if (self.name, port.port) not in ports:
                ports[self.name, port.port] = LocalPort(self.name, port, self.outbound.dialer, self._inbound.stats)

    def _update_any_port(self, wanted: ProxyWorkload, detection: Detection) -> None:
        inbound, any_port = self._inbound, self._inbound.any_port.get(self.name)
        if any_port is None:
            any_port = inbound.any_port[self.name] = AnyPort(
                self.name, self.outbound.dialer, inbound.stats, self._listeners.own_port, SocketDiag()
            )
            inbound.sweep.add(any_port)
        listed_ports = {port.port: port for port in wanted.ports}
        any_port.use(lambda number: _spoken(listed_ports.get(number) or WorkloadPort(number), wanted, detection))

    def _take_no_other(self) -> None:
        """No port is taken but those that are declared."""
        any_port = self._inbound.any_port.pop(self.name, None)
        if any_port is not None:
            self._inbound.sweep.discard(any_port)
            any_port.close()

    def _update_upstreams(self, wanted: tuple[Upstream, ...]) -> None:
        for upstream in tuple(self._upstreams):
            if upstream not in wanted:
                self._listeners.close(upstream.listen)
                self._upstreams.pop(upstream).close()
        for upstream in wanted:
            if upstream not in self._upstreams:
                renew = partial(self._listeners.renew, upstream.listen)
                listener = UpstreamListener(upstream, self.outbound, renew)
                self._upstreams[upstream] = listener
                tls = listener.edge.context if listener.edge else None
                self._listeners.open(upstream.listen, listener, "outbound", tls)

    @property
    def edges(self) -> tuple[EdgeTls, ...]:
        """TLS of those of its upstreams that have it."""
        return tuple(listener.edge for listener in self._upstreams.values() if listener.edge is not None)

    def drain(self) -> None:
        """Let each connection to an upstream end after the request under way."""
        for listener in self._upstreams.values():
            listener.drain()

    @property
    def open(self) -> int:
        """HTTP connections to its upstreams."""
        return sum(listener.open for listener in self._upstreams.values())

    async def close(self) -> None:
        """Serve it no more."""
        self._update_ports(())
        self._take_no_other()
        self._update_upstreams(())
        self.identity.withdraw()
        self._inbound.sweep.discard(self.outbound.destinations)
        self.outbound.destinations.close()
        await self.tasks.cancel()
