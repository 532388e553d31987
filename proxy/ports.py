"""Ports of the workloads beside this proxy: those that are declared, and in a pod all that there are.

A pod has one workload and a network of its own, and nobody declares its ports: callers ask for them, as they would
without a mesh. What they ask for is learned when it is asked for, at the address that they asked at, so that an
application which listens on loopback alone is not heard from outside. (Linkerd does the same.) A port is learned where
somebody listens on it, which the kernel says (`proxy.capture.diag`), and forgotten when it has not been used for a
while: callers can try all ports, and nothing has grown but a counter. The proxy's own ports are never anybody's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from meshd.api.documents import WorkloadPort
from meshd.api.endpoints import Endpoint, EndpointSet, ServiceName
from meshd.api.names import Address, WorkloadName
from meshd.api.policy import FailureAccrual, Policy, Timeouts
from proxy.caller import ServerNames
from proxy.capture.diag import Undecided
from proxy.connect import Dialer
from proxy.destination import LOCAL_BENCH_MAX_S, Destination
from proxy.endpoint import LiveEndpoint
from proxy.stats import Labels, Stats

MAX_LEARNED: Final = 1024
"""Ports that are remembered, by address; beyond it the one asked for longest ago that carries nothing makes room."""
MAX_LABELLED: Final = 256
"""Ports that the metrics tell apart, those that somebody has listened on first; a program that listens on one port
after another does not grow them."""
FORGOTTEN_S: Final = 300.0
"""How long a port is remembered that nobody asks for: for longer than a caller keeps an idle connection open."""

_LOCAL: Final = Policy(Timeouts(connect="300ms"), failure_accrual=FailureAccrual(consecutive_failures=0))
"""How the application beside the proxy is treated: it is near (the time is Linkerd's inbound), and there is but one to
ask, so that its failures are its callers' to judge."""


class LocalPort:
    """A port of a workload beside this proxy: where its requests end. One that is not `labelled` shares its series in
    the metrics with all others that are not."""

    def __init__(
        self, workload: WorkloadName, port: WorkloadPort, dialer: Dialer, stats: Stats, *, labelled: bool = True
    ) -> None:
        self._labelled = labelled
        self.workload = str(workload)
        self.port = port
        self.dialer = dialer
        self.target = f"{port.address}:{port.port}"
        self.stats = stats
        self.names = ServerNames()
        loop = asyncio.get_running_loop()
        name = f"{workload}:{port.port}"
        self.destination = Destination(
            name, self._live, loop.call_later, bench_max_s=LOCAL_BENCH_MAX_S, workload=self.workload
        )
        service = ServiceName(workload.name, workload.namespace, port.port)
        self.destination.update(
            EndpointSet(service, (Endpoint(port.address, port.port, protocol=port.protocol),), policy=_LOCAL)
        )

    def _live(self, endpoint: Endpoint) -> LiveEndpoint:
        labels = self.labels("", False)
        stats = self.stats
        return LiveEndpoint(
            endpoint, monotonic(), stats.http(labels), stats.tcp(labels, "dst"), stats.tcp(labels, "dst", relays=True)
        )

    def labels(self, peer: str, tls: bool) -> Labels:
        """Labels of traffic from peer to this port."""
        if not self._labelled:
            return Labels("inbound", self.workload, "", "", peer, tls)
        return Labels("inbound", self.workload, str(self.port.port), self.target, peer, tls)

    def close(self) -> None:
        self.destination.close()


class Kernel(Protocol):
    """Who knows where somebody listens."""

    def listens(self, where: Address) -> bool:
        """Whether a connection to `where` would be accepted. Undecided."""

    def close(self) -> None: ...


class AnyPort:
    """Every port of a workload's pod. `own` tells which are the proxy's. It lives until `close`."""

    def __init__(
        self,
        workload: WorkloadName,
        dialer: Dialer,
        stats: Stats,
        own: Callable[[int], bool],
        kernel: Kernel,
    ) -> None:
        self._workload = workload
        self._dialer = dialer
        self._stats = stats
        self._own = own
        self._kernel = kernel
        self._spoken: Callable[[int], WorkloadPort] = WorkloadPort
        self._learned: OrderedDict[Address, LocalPort] = OrderedDict()
        self._labelled: set[int] = set()

    def use(self, spoken: Callable[[int], WorkloadPort]) -> None:
        """What a port of a number speaks, from now on."""
        self._spoken = spoken
        for where, local in tuple(self._learned.items()):
            if self._port(where) != local.port:
                self._learned.pop(where).close()

    def at(self, where: Address) -> LocalPort | None:
        """What listens there; None where the port is the proxy's own. Where nobody listens (yet) it is made for the one
        who asks, and not kept."""
        if self._own(where.port):
            return None
        local = self._learned.get(where)
        if local is not None:
            self._learned.move_to_end(where)
            return local
        if not self.listens(where) or not self._has_room():
            return self._made(where, labelled=False)
        local = self._learned[where] = self._made(where, labelled=self._label(where.port))
        return local

    def takes(self, port: int) -> bool:
        """Whether a connection to the port is for the workload."""
        return not self._own(port)

    def listens(self, where: Address) -> bool:
        """Whether somebody listens there; true where the kernel does not say."""
        try:
            return self._kernel.listens(where)
        except (Undecided, OSError):
            return True

    def _made(self, where: Address, *, labelled: bool) -> LocalPort:
        return LocalPort(self._workload, self._port(where), self._dialer, self._stats, labelled=labelled)

    def _port(self, where: Address) -> WorkloadPort:
        spoken = self._spoken(where.port)
        return WorkloadPort(where.port, spoken.protocol, where.host)

    def _label(self, port: int) -> bool:
        if port not in self._labelled and len(self._labelled) >= MAX_LABELLED:
            return False
        self._labelled.add(port)
        return True

    def _has_room(self) -> bool:
        if len(self._learned) >= MAX_LEARNED:
            self._forget(0.0, 1)
        return len(self._learned) < MAX_LEARNED

    def _forget(self, unused_s: float, most: int) -> None:
        """Forget as many at most that have carried nothing for so long."""
        now = monotonic()
        for where, local in tuple(self._learned.items()):
            if most and local.destination.idle(now, unused_s):
                self._learned.pop(where).close()
                most -= 1

    def sweep(self, now: float) -> None:  # noqa: ARG002 - each has a clock of its own
        """See `proxy.sweep.Swept`."""
        if self._learned:
            self._forget(FORGOTTEN_S, MAX_LEARNED)

    def close(self) -> None:
        for local in self._learned.values():
            local.close()
        self._learned.clear()
        self._kernel.close()

    def __len__(self) -> int:
        return len(self._learned)
