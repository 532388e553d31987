"""The running agent: what is known, the server before it, and what keeps it current. Started whole, stopped whole.

host        `meshd agent`: settings in a file, the mesh's CA, the host's proxy     (`meshd.agent.host`)
embedded    what `meshd run` starts for its user: nothing to set, a CA of its own  (`meshd.agent.embedded`)
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from discovery.chain import Chain, Found, Named
from discovery.following import Following
from discovery.names import Authority
from discovery.publish import Publisher
from discovery.source import Close
from discovery.virtual import Virtual
from meshd.agent.calling import capture_of, everywhere6, has_ipv6
from meshd.agent.certificates import Signer
from meshd.agent.core import Core
from meshd.agent.documents import Documents
from meshd.agent.health.monitor import Monitor
from meshd.agent.listening import ControlSocket
from meshd.agent.local import LOCAL, LocalSource
from meshd.agent.memory import Memory
from meshd.agent.peer import Access
from meshd.agent.publishing import Publishing
from meshd.agent.registry import HOST, Instance, Registry
from meshd.agent.server import ControlServer
from meshd.agent.settings import CaptureSettings, ProxySettings
from meshd.api.tasks import Tasks
from meshd.capture.keeper import Standing

log = logging.getLogger(__name__)

IPV6_EVERY_S = 5.0
BACK_WITHIN_S = 10.0
"""How long the workloads of before a restart have for coming back: their back-off is 5 s at most."""


class Service(Protocol):
    """What the agent serves beside the control API, for as long as it runs. `close` gives up its socket first."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class WorkloadService(Service, Protocol):
    """The Workload API, and how much it is used."""

    @property
    def connections(self) -> int: ...

    @property
    def calls(self) -> int: ...


class AdminService(Service, Protocol):
    """The admin port. `trouble` says why it cannot be had; empty when it can."""

    @property
    def trouble(self) -> str: ...


class CaptureService(Service, Protocol):
    """Capture, and what is wrong with it; `look` compares it with what is to be captured, and puts it right."""

    @property
    def standing(self) -> Standing: ...

    async def look(self) -> None: ...


class NameService(Protocol):
    """The name server (`meshd.agent.names`), and the addresses that it gives. `trouble` says why it does not answer;
    empty when it does. `answered` counts, by what the answers were."""

    @property
    def trouble(self) -> str: ...

    @property
    def virtual(self) -> Virtual: ...

    @property
    def answered(self) -> Mapping[str, int]: ...

    async def start(self, watch: Callable[[Authority, Found], Close]) -> None: ...

    async def close(self) -> None: ...


class Reloaded(NamedTuple):
    """When settings and documents were read last, at the start or on SIGHUP (seconds since the epoch), and whether the
    settings are in force as they are in their file."""

    at: float
    whole: bool


class Agent:
    """An agent at `socket`, which it takes at once: what cannot be had is a Problem from the constructor.

    `sources` are files and registries in the order in which they are believed; this host's own workloads come after
    them, and are announced at the address `advertise` where a registry takes it. What it remembers is in `state_dir`.
    `proxy` is the host's proxy, None when this agent has none. `workload_api` makes the Workload API, `admin` the admin
    port, `capturing` what keeps capture in force, `names` answers for names; not every agent has them.
    """

    def __init__(
        self,
        *,
        node: str,
        trust_domain: str,
        mode: Literal["host", "embedded"],
        socket: Path,
        state_dir: Path,
        access: Access,
        signer: Signer,
        sources: Sequence[Named],
        proxy: ProxySettings | None,
        zone: str = "",
        workload_api: Callable[[Core], WorkloadService] | None = None,
        admin: "Callable[[Agent], AdminService] | None" = None,
        advertise: str = "",
        capture: CaptureSettings = CaptureSettings(enabled=False),  # noqa: B008 - frozen
        capturing: "Callable[[Agent], CaptureService] | None" = None,
        names: NameService | None = None,
    ) -> None:
        self.registry = Registry()
        self.documents = Documents(sources, (*(each.name for each in sources), LOCAL))
        self.registries = tuple(each.source for each in sources if isinstance(each.source, Following))
        self._proxy, self._capture = proxy, capture
        self._notices: tuple[str, ...] = ()
        self._settling: asyncio.TimerHandle | None = None
        self._stopping = self._settled = False
        self._memory = Memory(state_dir / "announced.json")
        self._local = LocalSource(self.registry, trust_domain, time.time(), self._memory.recall())
        self.core = Core(
            node=node,
            trust_domain=trust_domain,
            mode=mode,
            registry=self.registry,
            discovery=Chain((*sources, Named(LOCAL, self._local)), None if names is None else names.virtual),
            signer=signer,
            access=access,
            troubles=self._troubles,
            documents=self.documents,
            zone=zone,
        )
        publishers = [each.registry for each in self.registries if isinstance(each.registry, Publisher)]
        self._publishing = Publishing(
            self.registry, publishers, trust_domain=trust_domain, zone=zone, advertise=advertise
        )
        signer.changed = self.core.changed
        signer.oldest = self._oldest_certificate
        self._server = ControlServer(self.core, ControlSocket(socket))
        self.workload_api = None if workload_api is None else workload_api(self.core)
        self._admin = None if admin is None else admin(self)
        self.capturing = None if capturing is None else capturing(self)
        self.names = names
        self.reloaded = Reloaded(0.0, whole=True)
        self._waiting_for: tuple[str, ...] = ("documents", "control socket")
        self._socket = socket
        self._tasks = Tasks("agent")
        self.health = Monitor(self.registry)
        self._has_ipv6 = has_ipv6()

    @property
    def control_connections(self) -> int:
        """How many are open."""
        return self._server.connections

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps the agent from being ready; a CA that is away does not."""
        return self._waiting_for

    async def start(self) -> None:
        """Read the documents and follow them, then answer on the socket."""
        if self._admin is not None:
            await self._admin.start()
        loop = asyncio.get_running_loop()
        self.documents.start(self._documents_changed)
        await self.documents.recalled()  # a proxy that comes back serves no workload of which it is not told
        self._documents_changed()
        if self.capturing is not None:
            self._waiting_for = ("capture", "control socket")
            await self.capturing.start()  # first of all, since units wait for the agent to be ready
        for registry in self.registries:
            registry.start()
        self.reloaded = Reloaded(self.core.clock(), whole=True)
        self._waiting_for = ("control socket",)
        self.registry.subscribe(self._remember)
        self.registry.subscribe(self._publishing.refresh)
        self._publishing.refresh()
        self.registry.subscribe(self.core.signer.renewed)
        self._settling = loop.call_later(BACK_WITHIN_S, self._settle)
        for trouble in self.core.signer.troubles():
            log.error("%s", trouble)
        self._tasks.start(self.core.signer.watch(), "watch CA")
        self._tasks.start(self.core.signer.follow(), "follow CA")
        self._tasks.start(self._follow_ipv6(), "follow IPv6")
        if self.names is not None:
            await self.names.start(self.core.discovery.watch)
        await self._server.start()
        if self.workload_api is not None:
            await self.workload_api.start()
        self._waiting_for = ()
        log.info(
            "agent of %s in %s answers at %s (%s)", self.core.node, self.core.trust_domain, self._socket, self.core.mode
        )

    async def stop(self) -> None:
        """Give the socket up first, so that a successor can have it, then end what is open. That all connections end is
        not remembered as the end of what they stood for."""
        self._stopping = True
        self._waiting_for = ("its end",)
        if self._settling is not None:
            self._settling.cancel()
        await self._server.close()
        if self.workload_api is not None:
            await self.workload_api.close()
        if self.names is not None:
            await self.names.close()
        await self._tasks.cancel()
        if self.capturing is not None:
            await self.capturing.close()
        await self.documents.close()
        await self.health.close()
        await self._publishing.withdraw()
        for registry in self.registries:
            await registry.close()
        if self._admin is not None:
            await self._admin.close()

    @property
    def has_host_proxy(self) -> bool:
        """Whether the host's proxy is attached."""
        host = self.registry.instance(HOST)
        return host is not None and self.registry.attached(host) > 0

    def _oldest_certificate(self) -> float:
        """0 for as long as proxies of before a restart may be about to come back."""
        if not self._settled:
            return 0.0
        return min([self.registry.oldest_certificate(), *(oldest() for oldest in self.core.holds)])

    def _settle(self) -> None:
        self._settled = True
        self._local.settle()
        self._remember()
        self.core.signer.renewed()

    def _remember(self) -> None:
        if not self._stopping:
            self._memory.keep(self.registry.announced() | self._local.expected)

    # --- reload -------------------------------------------------------------------------------------------------

    def reload(self, access: Access, proxy: ProxySettings | None, notices: Iterable[str]) -> None:
        """What may change while running: who may do what, the host's proxy, what the operator is to be told."""
        self.core.access, self._proxy, self._notices = access, proxy, tuple(notices)
        self.documents.load()
        self.reloaded = Reloaded(self.core.clock(), whole=not self._notices)
        self._documents_changed()

    def _documents_changed(self) -> None:
        self.documents.settle()
        self.core.discovery.use(self.documents.rules())
        selectors = self.documents.selectors()
        if selectors != self.core.selectors:
            self.core.selectors = selectors
            self.core.changed()
        if self._proxy is not None:
            self.core.detection = self._proxy.detection
            self.core.max_connections = self._proxy.max_connections
            self.health.use(self.documents.checks())  # first, so that none is announced before it was looked at
            self.registry.declare_host(self._host(self._proxy))

    def _host(self, proxy: ProxySettings) -> Instance:
        """The host's proxy: it serves every workload that is declared."""
        return Instance(
            key=HOST,
            uid=0,
            pid=0,
            workloads=self.documents.workloads(),
            outbound=proxy.outbound,
            inbound=proxy.inbound,
            admin=proxy.admin,
            admin6=everywhere6(proxy.admin) if has_ipv6() else "",
            workers=proxy.workers,
            capture=capture_of(self._capture, proxy, idle=not self._captures()),
        )

    def capture_changed(self) -> None:
        """There is somebody to capture now, or nobody any more."""
        if self._proxy is not None:
            self.registry.declare_host(self._host(self._proxy))

    async def _follow_ipv6(self) -> None:
        """A host may get IPv6 while it runs, or lose it; the kernel is asked, which has it in memory."""
        while True:
            await asyncio.sleep(IPV6_EVERY_S)
            if (now := has_ipv6()) != self._has_ipv6:
                self._has_ipv6 = now
                log.info("this host has %s: its proxy is told", "IPv6 now" if now else "no IPv6 any more")
                self.capture_changed()

    def _captures(self) -> bool:
        """Whether somebody is captured, or is about to be: the proxy hears of it before the kernel does."""
        standing = self.capturing.standing if self.capturing is not None else None
        return bool(self._capture.users or self.documents.captured()) or (standing is not None and standing.is_used)

    def _troubles(self) -> tuple[str, ...]:
        admin = (self._admin.trouble,) if self._admin is not None and self._admin.trouble else ()
        captured = self.capturing.standing.troubles if self.capturing is not None else ()
        names = (self.names.trouble,) if self.names is not None and self.names.trouble else ()
        found = (*self.core.signer.troubles(), *self._notices, *admin, *names, *map(str, self.documents.findings))
        return (*found, *self._publishing.troubles(), *captured)
