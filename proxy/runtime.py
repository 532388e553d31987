"""The proxy put together: a configuration in, running listeners out, changed in place when the configuration does.

It is the only module that knows all the others. Who gives it the configuration, a file or an agent, is the business of
`proxy.program`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Final

from msgspec.structs import replace

from meshd.api.control import ProxyConfiguration, ReportState
from meshd.api.names import Identity, WorkloadName
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from proxy import measured
from proxy.admin import Admin
from proxy.capture.callers import Agent
from proxy.capture.sorting import Captured
from proxy.capture.together import Capturing
from proxy.edge import EdgeTls
from proxy.errors import Bound
from proxy.inbound import Inbound
from proxy.listeners import Handler, Listeners
from proxy.mesh.identity import Sign, check
from proxy.mesh.tls import Held, ServerContexts, check_bundle, listener_context
from proxy.metrics import Metrics, State
from proxy.outbound import ForwardProxy, Outbound
from proxy.resolve import Resolver
from proxy.served import ServedWorkload
from proxy.sockets import Listening, has_ipv6
from proxy.stats import Direction, Stats
from proxy.sweep import Sweep

log = logging.getLogger(__name__)

PATIENCE_FOR_CERTIFICATES_S: Final = 5.0
"""How long the inbound listener waits for the certificates of all workloads before it opens with those there are."""


class Proxy:
    """See the module. `changed` is called when `waiting_for` or a certificate has changed; `end` when it is asked, at
    the admin port, to drain and end: None where it is not to be."""

    def __init__(
        self,
        sockets: Listening,
        changed: Callable[[], None] = lambda: None,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.stats = Stats()
        self.connected = False
        self._changed = changed
        self._sweep = Sweep()
        self._tasks = Tasks("proxy")
        self.listeners = Listeners(sockets, self._tasks, changed, self._no_room)
        self._sweep.add(self.listeners)
        self._contexts: ServerContexts = {}
        self._served: dict[WorkloadName, ServedWorkload] = {}
        self._configuration: ProxyConfiguration | None = None
        self._inbound: Inbound | None = None
        self._callers: tuple[Outbound, ...] = ()
        self._capturing: Capturing | None = None
        self._forward = ForwardProxy(lambda: self._callers, self.stats, self._sweep)
        self.metrics = Metrics(self.stats, self._state)
        self._admin = Admin(
            self.waiting_for,
            lambda take: take(self.metrics.page()),
            lambda service, take: take(self.endpoints(service)),
            self._sweep,
            end,
        )
        self._tls = listener_context(self._contexts)
        self._ticking = asyncio.get_running_loop().call_later(Sweep.TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(Sweep.TICK_S, self._tick)  # first: it must never end
        self._sweep.tick(monotonic())

    # --- configuration

    async def apply(
        self,
        wanted: ProxyConfiguration,
        resolver: Resolver,
        *,
        held: dict[str, Held] | None = None,
        signer: Callable[[str], Sign] | None = None,
        caller_agent: Agent | None = None,
    ) -> None:
        """Become what `wanted` says. Certificates are `held` (by NAMESPACE/NAME), or else got from `signer`.
        `caller_agent` says who calls, where connections are captured.
        Problem or ssl.SSLError where it cannot be; then all is as it was."""
        wanted = here(wanted)
        if wanted.trust_bundle_pem:
            try:
                check_bundle(wanted.trust_bundle_pem)
            except ValueError as error:
                raise Problem(f"the trust bundle: {error}") from error
        for workload_name, one in (held or {}).items():
            check(WorkloadName.parse(workload_name), one, wanted.trust_bundle_pem)
        if self._inbound is None:
            self._inbound = Inbound(wanted.trust_domain, self.stats, self._sweep, self._tasks)
        elif wanted.trust_domain != self._inbound.trust_domain:
            raise Problem(f"the trust domain became {wanted.trust_domain}: restart the proxy to change it")
        before, self._configuration = self._configuration, wanted
        self._inbound.denials.use(wanted.denied)
        self.listeners.room.set_limit(wanted.max_connections)
        self._inbound.detect_timeout_s = wanted.detection.timeout_s
        self._capture(before, wanted, caller_agent)
        names = [WorkloadName(workload.namespace, workload.name) for workload in wanted.workloads]
        for gone in self._served.keys() - set(names):
            await self._served.pop(gone).close()
        for name, workload in zip(names, wanted.workloads, strict=True):
            served = self._served.get(name)
            if served is None:
                identity = Identity.of(wanted.trust_domain, name)
                served = self._served[name] = ServedWorkload(
                    identity, resolver, self._inbound, self.listeners, self._contexts, self._changed, wanted.zone
                )
                if signer is not None:
                    served.identity.trust(wanted.trust_bundle_pem)
                    served.tasks.start(served.identity.renew_forever(signer(str(name))), "certificate")
            served.identity.trust(wanted.trust_bundle_pem)
            served.identity.renew_older(wanted.renew_issued_before, wanted.renew_within_s)
            if held is not None and str(name) in held:
                served.identity.install(held[str(name)])
            served.update(workload, wanted.detection)
        self._callers = tuple(served.outbound for served in self._served.values())
        self._tasks.start(self._open_inbound(before, wanted), "inbound")
        self._changed()

    def reread(self) -> None:
        """Read the certificates again that listeners have from files, whatever these look like."""
        for edge in self.edges:
            edge.reread()

    def _capture(
        self, before: ProxyConfiguration | None, wanted: ProxyConfiguration, caller_agent: Agent | None
    ) -> None:
        """Have the listeners, but for the inbound one, as is wanted now; that one tells captured connections apart from
        now on, or no more. What has once captured is kept, for the connections that it has."""
        if wanted.capture is not None and caller_agent is not None:
            assert self._inbound is not None  # made by `apply`
            if self._capturing is None:
                self._capturing = Capturing(
                    caller_agent, self._served_by_name, self.listeners.own, self._inbound, self._tasks
                )
            self._capturing.use(wanted.capture)
        sorting = self._sorting
        captured = sorting.outbound if sorting is not None else None
        for old, new in zip(_outbound(before), _outbound(wanted), strict=True):
            self._move(old, new, self._forward, captured)
        for old, new in zip(admin_of(before), admin_of(wanted), strict=True):
            self._move(old, new, self._admin, essential=True)
        for address in _inbound(wanted):
            self.listeners.sort(address, sorting.inbound if sorting is not None else None)

    @property
    def _sorting(self) -> Capturing | None:
        """What redirected connections are for; None while none is redirected."""
        wanted = self._configuration
        return None if wanted is None or wanted.capture is None or wanted.capture.idle else self._capturing

    def _served_by_name(self, name: WorkloadName) -> Outbound | None:
        served = self._served.get(name)
        return served.outbound if served is not None else None

    def _move(
        self,
        old: str,
        new: str,
        handler: Handler,
        captured: Captured | None = None,
        *,
        essential: bool = False,
    ) -> None:
        """Open a listener where it is wanted now, and close where it was."""
        if old == new:
            self.listeners.sort(new, captured)
            return
        self._close(old)
        if new:
            direction: Direction = "inbound" if essential else "outbound"
            self.listeners.open(new, handler, direction, essential=essential, captured=captured)

    def _close(self, address: str) -> None:
        if address in self.listeners.addresses:
            self.listeners.close(address)

    async def _open_inbound(self, before: ProxyConfiguration | None, wanted: ProxyConfiguration) -> None:
        """Open the inbound listeners once there are certificates to show: until then connections wait in the kernel."""
        addresses = [address for address in _inbound(wanted) if address]
        for old in _inbound(before):
            if old not in addresses:
                self._close(old)
        deadline = monotonic() + PATIENCE_FOR_CERTIFICATES_S
        while self._configuration is wanted and set(addresses) - set(self.listeners.addresses):
            held = [served.identity.held for served in self._served.values()]
            if held and (all(held) or (any(held) and monotonic() > deadline)):
                assert self._inbound is not None  # made by `apply`
                captured = self._sorting.inbound if self._sorting is not None else None
                for address in set(addresses) - set(self.listeners.addresses):
                    self.listeners.open(address, self._inbound, "inbound", self._tls, captured=captured)
                self._changed()
            else:
                await asyncio.sleep(0.05)

    # --- how it is

    def _no_room(self, direction: Direction) -> None:
        self.stats.count_error(direction, "tcp", Bound.CONNECTIONS)

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps the proxy from being ready. With no workload there is nobody to show a certificate for, and so
        nothing to accept from peers: it is ready for the first to come."""
        if self._configuration is None:
            return ("configuration",)
        certificates = tuple(
            f"certificate of {name}"
            for name, served in self._served.items()
            if self._configuration.inbound and not served.identity.held
        )
        inbound = self._configuration.inbound
        is_closed = self._served and inbound and inbound not in self.listeners.addresses
        unopened = (f"listener {inbound}",) if is_closed else ()
        return (*certificates, *unopened, *self.listeners.waiting_for())

    def endpoints(self, service: str) -> bytes:
        """The page of what was measured of the endpoints of a service, or of all of them where it is empty."""
        followed = (
            (str(name), authority, destination)
            for name, served in self._served.items()
            for authority, destination in served.outbound.destinations.followed
        )
        return measured.page(followed, service, monotonic())

    @property
    def edges(self) -> tuple[EdgeTls, ...]:
        """TLS of the listeners that have it for callers outside the mesh."""
        return tuple(edge for served in self._served.values() for edge in served.edges)

    @property
    def held(self) -> Held | None:
        """What is presented for the first workload that has a certificate: for a sidecar, which has one workload."""
        return next((held for served in self._served.values() if (held := served.identity.presents) is not None), None)

    def renew(self, held: Held) -> None:
        """This was not taken by who should have: another is to take its place."""
        for served in self._served.values():
            if served.identity.presents is held:
                served.identity.renew_older(held.certificate.not_before + 1.0, 0.0)

    def state(self, pid: int) -> ReportState:
        """What the agent is told."""
        certificates = tuple(served.identity.state() for served in self._served.values())
        return ReportState(pid, self.waiting_for(), certificates)

    def _state(self) -> State:
        identities = tuple(served.identity for served in self._served.values())
        inbound = self._inbound
        accepted, established = (0, 0) if inbound is None else (inbound.accepted, inbound.established)
        ca_healthy = self._configuration is None or self._configuration.ca_healthy
        lookups = self._capturing.lookups if self._capturing is not None else None
        return State(
            identities, self.waiting_for(), self.connected, accepted, established, ca_healthy, self.edges, lookups
        )

    # --- the end

    async def drain(self, timeout_s: float) -> int:
        """Accept nothing more, finish what is under way for timeout_s at most; how many connections were cut."""
        self.listeners.close_all()
        self._forward.drain()
        if self._capturing is not None:
            self._capturing.outbound.drain()
        for served in self._served.values():
            served.drain()
        if self._inbound is not None:
            self._inbound.drain()
        deadline = monotonic() + timeout_s
        await asyncio.sleep(0.05)  # a connection that was accepted just now is known only when the loop has turned
        while (left := self._open_connections()) and monotonic() < deadline:
            await asyncio.sleep(0.05)
        return left

    def _open_connections(self) -> int:
        """Connections from callers: those with requests and those that relay."""
        relays = sum(series.open for series in self.stats.tcp_series if series.relays and series.peer == "src")
        requests = self._forward.open + self._captured_open() + sum(served.open for served in self._served.values())
        return relays + requests + (0 if self._inbound is None else self._inbound.open)

    def _captured_open(self) -> int:
        return self._capturing.outbound.open if self._capturing is not None else 0

    async def close(self) -> None:
        """End everything now."""
        self._ticking.cancel()
        self.listeners.close_all()
        for served in self._served.values():
            await served.close()
        await self._tasks.cancel()
        if self._capturing is not None:
            self._capturing.close()


def here(wanted: ProxyConfiguration) -> ProxyConfiguration:
    """What of it can be here: who configures a proxy in a pod does not see whether the pod has IPv6."""
    if wanted.capture is None or not wanted.capture.caller or has_ipv6():
        return wanted
    return replace(wanted, capture=replace(wanted.capture, outbound6="", inbound6=""), admin6="")


def _outbound(configuration: ProxyConfiguration | None) -> tuple[str, str]:
    """Where what leaves comes to the proxy; the second is for IPv6. Empty for nowhere."""
    if configuration is None:
        return "", ""
    return configuration.outbound, configuration.capture.outbound6 if configuration.capture is not None else ""


def _inbound(configuration: ProxyConfiguration | None) -> tuple[str, str]:
    """Likewise what comes from other proxies, or was redirected."""
    if configuration is None:
        return "", ""
    return configuration.inbound, configuration.capture.inbound6 if configuration.capture is not None else ""


def admin_of(configuration: ProxyConfiguration | None) -> tuple[str, str]:
    """Likewise where the admin port is."""
    return ("", "") if configuration is None else (configuration.admin, configuration.admin6)
