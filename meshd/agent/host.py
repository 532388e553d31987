"""The host's agent: everything from `meshd.yaml`, certificates from the mesh's CA."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from msgspec.structs import replace

from discovery.chain import Named
from discovery.file import FileSource
from discovery.overlap import overlaps, shadows, unknown
from meshd.agent.agent import AdminService, Agent, NameService, WorkloadService
from meshd.agent.backends import sources_of
from meshd.agent.capturing import plan_of
from meshd.agent.certificates import Signer
from meshd.agent.core import Core
from meshd.agent.credentials import Proof, read_bundle, read_proof
from meshd.agent.daemon import heed_signals, serve
from meshd.agent.local import LOCAL
from meshd.agent.lock import StateLock
from meshd.agent.names.sockets import let_go
from meshd.agent.node import NodeSource, Renewals
from meshd.agent.peer import Access
from meshd.agent.settings import Settings
from meshd.agent.settings_file import load_settings
from meshd.agent.trust import FILE_NAME, TrustFile
from meshd.agent.workload.server import WorkloadServer
from meshd.api.inherited import inherited
from meshd.api.loading import ConfigurationError
from meshd.ca.client import CaClient
from meshd.ca.contacts import Contacts
from meshd.ca.failover import Failover
from meshd.ca.source import CertificateSource
from meshd.capture.keeper import Keeper as CaptureKeeper

log = logging.getLogger(__name__)

FIXED = (
    "trust_domain",
    "node",
    "advertise",
    "state_dir",
    "socket",
    "discovery",
    "workload_api",
    "admin",
    "capture",
    "names",
)
"""What an agent is for as long as it runs."""


def sources(file: Path, settings: Settings) -> list[Named]:
    """Where services are learned from, in the order in which it is believed: the settings file first, for it is at
    hand. Nothing is read before it is started."""
    beside = FileSource(file, settings.trust_domain, beside_settings=True)
    found = [Named("file", beside)]
    for each in settings.discovery:
        found += sources_of(
            each,
            trust_domain=settings.trust_domain,
            node=settings.node_name,
            zone=settings.zone,
            state_dir=Path(settings.state_dir),
        )
    return found


class Checked(NamedTuple):
    """Settings that are good, and how many good documents there are beside them."""

    settings: Settings
    documents: int


def check(file: Path) -> Checked:
    """What is configured; ConfigurationError with all that is wrong, in whatever file."""
    settings = load_settings(file)
    findings = []
    for read in (read_bundle, read_proof):
        try:
            read(settings, str(file))
        except ConfigurationError as error:
            findings += error.findings
    named = sources(file, settings)
    documents = [each.source for each in named if isinstance(each.source, FileSource)]
    for source in documents:
        source.load()
        findings += source.findings
        findings += unknown(source.declared, (*(each.name for each in named), LOCAL))
    findings += overlaps(shadows(source.declared for source in documents))
    if findings:
        raise ConfigurationError(findings)
    return Checked(settings, sum(len(source.documents) for source in documents))


async def run_host(file: Path) -> None:
    """Run until SIGTERM. Problem or ConfigurationError when it cannot start."""
    ended = heed_signals()
    settings = load_settings(file)
    ca, dealings = _Ca.of(settings, file), _Dealings(Contacts(), Renewals())
    lock = StateLock(Path(settings.state_dir))
    try:
        trust = TrustFile(Path(settings.state_dir, FILE_NAME))
        agent = Agent(
            node=settings.node_name,
            zone=settings.zone,
            trust_domain=settings.trust_domain,
            mode="host",
            socket=Path(settings.socket),
            state_dir=Path(settings.state_dir),
            access=Access.of(settings.control.users, str(file))[0],
            signer=Signer(ca.source(dealings), ca.bundle, ", ".join(ca.urls), memory=trust),
            sources=sources(file, settings),
            proxy=settings.proxy,
            capture=settings.capture,
            workload_api=_workload_api(settings),
            admin=_admin(settings, dealings),
            advertise=settings.advertise,
            capturing=_capturing(settings),
            names=_names(settings),
        )
        await serve(agent, _Reload(file, settings, ca, dealings, agent).reload, ended)
    finally:
        lock.release()


def _workload_api(settings: Settings) -> Callable[[Core], WorkloadService] | None:
    path = settings.workload_socket
    return None if path is None else lambda core: WorkloadServer(core, path)


def _capturing(settings: Settings) -> Callable[[Agent], CaptureKeeper]:
    capture, proxy = settings.capture, settings.proxy
    virtual = settings.names.ranges(settings.trust_domain).networks

    def keeper(agent: Agent) -> CaptureKeeper:
        return CaptureKeeper(
            lambda is_open: partial(
                plan_of, capture, proxy, agent.documents.captured(), is_open=is_open, virtual=virtual
            ),
            is_proxy_there=(lambda: agent.has_host_proxy) if capture.fail_open else None,
            remove_on_stop=capture.remove_on_stop,
            changed=agent.capture_changed,
        )

    return keeper


def _names(settings: Settings) -> NameService | None:
    if settings.names.address is None:
        let_go(inherited())
        return None
    from meshd.agent.names.server import NameServer  # noqa: PLC0415 - dnspython, for agents that answer names alone

    return NameServer(settings.names, settings.domains, settings.trust_domain, Path(settings.state_dir))


class _Dealings(NamedTuple):
    """What those who ask the CA are to tell of it, for the metrics; it outlasts them."""

    contacts: Contacts
    renewals: Renewals


def _admin(settings: Settings, dealings: _Dealings) -> Callable[[Agent], AdminService] | None:
    listen = settings.admin_address
    if listen is None:
        return None
    from meshd.admin.page import Page  # noqa: PLC0415 - megabytes, for agents that have the port alone
    from meshd.admin.server import AdminServer  # noqa: PLC0415
    from meshd.agent.metrics import AgentMetrics  # noqa: PLC0415

    return lambda agent: AdminServer(listen, Page(AgentMetrics(agent, *dealings)), agent.waiting_for)


class _Ca(NamedTuple):
    """How the CA is asked, and what its files hold."""

    urls: tuple[str, ...]
    bundle: str
    proof: Proof

    @classmethod
    def of(cls, settings: Settings, file: Path) -> Self:
        return cls(settings.ca.all_urls, read_bundle(settings, str(file)), read_proof(settings, str(file)))

    def source(self, dealings: _Dealings) -> CertificateSource:
        """What signs for this host, as the one it proves to be."""
        token, node = self.proof.token, self.proof.node
        contacts = dealings.contacts.of(self.urls)
        clients = Failover([CaClient(each.url, self.bundle, token, node, each) for each in contacts])
        dealings.renewals.not_after = 0.0  # unless there is a node's certificate, which says until when
        return clients if node is None else NodeSource(clients, node, renewals=dealings.renewals)


class _Reload:
    """SIGHUP: settings, the CA's files, and every document again. All of the new settings or none."""

    def __init__(self, file: Path, settings: Settings, ca: _Ca, dealings: _Dealings, agent: Agent) -> None:
        self._file, self._settings, self._ca, self._dealings, self._agent = file, settings, ca, dealings, agent

    def reload(self) -> None:
        notices = []
        try:
            settings = load_settings(self._file)
            ca = _Ca.of(settings, self._file)
        except ConfigurationError as error:
            notices = [f"{finding} (the settings before stay in force)" for finding in error.findings]
        else:
            fixed = [name for name in FIXED if getattr(settings, name) != getattr(self._settings, name)]
            notices = [f"{self._file}: {name} has changed: restart the agent for it to be in force" for name in fixed]
            self._settings = replace(settings, **{name: getattr(self._settings, name) for name in fixed})
            if ca != self._ca:
                self._ca = ca
                self._agent.core.signer.use(ca.source(self._dealings), ca.bundle)
        for notice in notices:
            log.error("%s", notice)
        access, _ = Access.of(self._settings.control.users, str(self._file))
        self._agent.reload(access, self._settings.proxy, notices)
        log.info("settings and documents read again")
