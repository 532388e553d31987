"""The agent's page of metrics, as Prometheus reads it: what is on it at a given state of what the agent knows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from discovery.chain import Chain, Named
from discovery.file import FileSource
from meshd.admin.page import Page
from meshd.agent.agent import NameService, Reloaded, WorkloadService
from meshd.agent.certificates import NotSigned, Signer
from meshd.agent.core import Core
from meshd.agent.documents import Documents
from meshd.agent.health.monitor import Check, Verdict
from meshd.agent.local import LocalSource
from meshd.agent.metrics import AgentMetrics
from meshd.agent.node import Renewals
from meshd.agent.peer import Access
from meshd.agent.registry import HOST, Instance, Registry
from meshd.agent.trust import Trust
from meshd.api.control import Certificate, ProxyWorkload, RegisterWorkload
from meshd.api.documents import WorkloadPort
from meshd.api.health import HttpCheck, PortHealth, UnitHealth
from meshd.api.names import Address, Identity, WorkloadName
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.contacts import Contacts
from meshd.ca.source import Forbidden, NotAuthenticated, Refusal, Unreachable
from meshd.ca.wire import Bundle, Denial, Renewal, Token
from tests.support import aio
from tests.support.metrics import samples

NOW = 1.8e9
ROOT = certificates.make_root("prod.example", Life(0.0, 4e9))
BUNDLE = certificates.pem(ROOT.certificate).decode()
WEB = WorkloadName("default", "web")
URLS = ("https://a:4180", "https://b:4180")
GOOD = (
    "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: db}\n"
    "spec: {port: 5432, endpoints: [{address: 192.0.2.1, port: 5432}]}\n"
)


class Ca:
    """A CA that fails as it is told to."""

    fails: Exception | None = None

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        if self.fails is not None:
            raise self.fails
        return Certificate("", NOW - 60, NOW + 86400)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        if self.fails is not None:
            raise self.fails
        return Token("token", NOW, NOW + 300)

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        raise NotImplementedError

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None: ...

    def begun(self) -> float:
        return NOW

    async def health(self) -> None: ...


class Looks:
    """Checks of workloads, and what they found."""

    def __init__(self) -> None:
        self.found: list[Verdict] = []

    def verdicts(self) -> Iterator[Verdict]:
        return iter(self.found)


class Api:
    """A Workload API in use."""

    connections, calls = 3, 5

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class Host:
    """An agent that is not started."""

    core: Core
    documents: Documents
    files: FileSource
    ca: Ca
    contacts: Contacts
    renewals: Renewals
    reloaded: Reloaded
    health: "Looks"
    control_connections: int = 2
    workload_api: WorkloadService | None = None
    names: NameService | None = None

    def says(self) -> dict[str, float]:
        return samples(Page(AgentMetrics(self, self.contacts, self.renewals)).render())

    def sign(self, fails: Exception | None = None) -> None:
        """A certificate and a token are asked for."""
        self.ca.fails = fails
        identity = self.core.identity(WEB)
        for asked in (self.core.signer.sign("", identity), self.core.signer.jwt(identity, ("reports",))):
            try:
                aio.run(asked)
            except NotSigned:
                assert fails is not None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    ca, registry = Ca(), Registry()
    documents = FileSource(tmp_path / "conf.d", "prod.example", clock=lambda: NOW)
    core = Core(
        node="vm1",
        trust_domain="prod.example",
        mode="host",
        registry=registry,
        discovery=Chain((Named("file", documents), Named("local", LocalSource(registry, "prod.example", NOW)))),
        signer=Signer(ca, BUNDLE, ", ".join(URLS), clock=lambda: NOW),
        access=Access.of((), "")[0],
        troubles=lambda: (),
        zone="a",
        clock=lambda: NOW,
    )
    contacts = Contacts()
    contacts.of(URLS)
    places = Documents([Named("file", documents)])
    return Host(core, places, documents, ca, contacts, Renewals(), Reloaded(NOW, whole=True), Looks())


def test_what_there_is_at_first_is_said_and_nothing_that_is_not_known(host: Host) -> None:
    said = host.says()
    assert [
        name for name in said if re.match(r'meshd_agent_build_info\{node="vm1",.*trust_domain="prod.example"', name)
    ]
    assert said['meshd_agent_workloads_registered{origin="run"}'] == 0
    assert said["meshd_agent_certificates_issued_total"] == 0
    assert said['meshd_agent_certificates_failed_total{reason="unreachable"}'] == 0
    assert said["meshd_agent_configuration_last_reload_timestamp_seconds"] == NOW
    assert said["process_resident_memory_bytes"] > 1 << 20
    assert said["process_open_fds"] > 2
    unknown = r"proxies_connected|_ca_reachable|last_contact|control_identity|_last_read_|workload_api"
    assert [name for name in said if re.search(unknown, name)] == []


def test_workloads_and_their_proxies(host: Host) -> None:
    registry = host.core.registry
    workloads = tuple(ProxyWorkload("shop", name, (WorkloadPort(80),), ()) for name in ("api", "db"))
    registry.declare_host(Instance(HOST, 0, 0, workloads, "", "127.0.0.1:4143", ""))
    asked = RegisterWorkload("a" * 32, "default", "web", (WorkloadPort(8080),), (), "", "127.0.0.1:40002", "", 1)
    registry.register(asked, 1000, "run")
    for worker in ("one", "other"):
        registry.attach("a" * 32, 1000, worker)
    said = host.says()
    assert said['meshd_agent_workloads_registered{origin="run"}'] == 1
    assert said['meshd_agent_workloads_registered{origin="documents"}'] == 2
    assert said['meshd_agent_proxies_connected{workload="default/web"}'] == 2
    assert said['meshd_agent_proxies_connected{workload="shop/api"}'] == 0
    assert said["meshd_agent_workloads_announced"] == 0


def test_certificates_that_were_had_and_those_that_were_not(host: Host) -> None:
    host.sign()
    for fails in (NotAuthenticated("who?"), Forbidden("no"), Refusal("bad"), Refusal("bad"), Unreachable("away")):
        host.sign(fails)
    said = host.says()
    assert said["meshd_agent_certificates_issued_total"] == 1
    reasons = {"not_authenticated": 1, "forbidden": 1, "refused": 2, "unreachable": 1}
    assert {
        reason: said[f'meshd_agent_certificates_failed_total{{reason="{reason}"}}'] for reason in reasons
    } == reasons
    assert {reason: said[f'meshd_agent_tokens_failed_total{{reason="{reason}"}}'] for reason in reasons} == reasons
    assert said["meshd_agent_tokens_issued_total"] == 1
    assert said["meshd_agent_ca_healthy"] == 0


def test_the_health_of_workloads(host: Host) -> None:
    assert [name for name in host.says() if "health_checks" in name or "workload_healthy" in name] == []
    page = Check(WEB, PortHealth(http=HttpCheck("/healthz?token=secret")), Address("127.0.0.1", 8080))
    unit = Check(WEB, UnitHealth(unit="web.service"))
    host.health.found = [Verdict(page, True, 5, 2), Verdict(unit, None, 0, 0)]
    said = host.says()
    of_page, of_unit = 'check="GET http://127.0.0.1:8080/healthz"', 'check="unit web.service"'
    assert said[f'meshd_agent_workload_healthy{{{of_page},workload="default/web"}}'] == 1
    assert said[f'meshd_agent_workload_healthy{{{of_unit},workload="default/web"}}'] == 0
    assert said[f'meshd_agent_health_checks_total{{{of_page},result="ok",workload="default/web"}}'] == 3
    assert said[f'meshd_agent_health_checks_total{{{of_page},result="failed",workload="default/web"}}'] == 2


def test_each_ca_and_the_host_s_own_certificate(host: Host) -> None:
    first, second = host.contacts
    first.answered()
    second.answered()
    second.failed()
    host.renewals.not_after, host.renewals.renewed_at, host.renewals.renewed, host.renewals.failed = 9e9, NOW, 2, 1
    said = host.says()
    assert said['meshd_agent_ca_reachable{url="https://a:4180"}'] == 1
    assert said['meshd_agent_ca_reachable{url="https://b:4180"}'] == 0
    assert said['meshd_agent_ca_last_contact_timestamp_seconds{url="https://b:4180"}'] == second.answered_at > NOW - 1e9
    assert said["control_identity_cert_expiration_timestamp_seconds"] == 9e9
    assert said["control_identity_cert_refresh_timestamp_seconds"] == NOW
    assert said['control_identity_cert_refreshes_total{result="ok"}'] == 2
    assert said['control_identity_cert_refreshes_total{result="error"}'] == 1
    host.contacts.of(["https://a:4180"])  # the settings name one alone now
    assert [name for name in host.says() if "https://b" in name] == []


def test_what_is_believed_and_what_is_denied(host: Host) -> None:
    host.core.signer.trust = Trust(7, denied=(Denial("node", "vm9"), Denial("serial", "1"), Denial("serial", "2")))
    said = host.says()
    serial = certificates.serial(ROOT.certificate)
    assert said[f'meshd_agent_trust_root_expiration_timestamp_seconds{{serial="{serial}"}}'] == 4e9
    assert said["meshd_agent_trust_sequence"] == 7
    denied = {kind: said[f'meshd_agent_denied_entries{{kind="{kind}"}}'] for kind in ("node", "serial", "identity")}
    assert denied == {"node": 1, "serial": 2, "identity": 0}


def test_documents_and_how_old_they_are(host: Host) -> None:
    documents = host.files
    of = f'{{source="file {documents.path}"}}'
    documents.path.mkdir()
    (documents.path / "a.yaml").write_text(GOOD)
    (documents.path / "b.yaml").write_text("kind: Servis\n")
    documents.load()
    said = host.says()
    assert said[f"meshd_agent_configuration_documents{of}"] == 1
    assert said[f"meshd_agent_configuration_findings{of}"] == 1
    assert (said[f"meshd_agent_discovery_healthy{of}"], said[f"meshd_agent_discovery_stale{of}"]) == (0, 0)
    assert said[f"meshd_agent_discovery_last_read_timestamp_seconds{of}"] == NOW
    assert said['meshd_agent_discovery_healthy{source="local workloads"}'] == 1

    documents.path.rename(documents.path.with_name("gone"))
    documents.load()
    said = host.says()
    assert said[f"meshd_agent_discovery_stale{of}"] == 1
    assert said[f"meshd_agent_configuration_documents{of}"] == 1
    host.reloaded = Reloaded(NOW + 1, whole=False)
    assert host.says()["meshd_agent_configuration_last_reload_successful"] == 0


def test_services_and_what_changes_of_them(host: Host) -> None:
    documents = host.files
    of = f'{{source="file {documents.path}"}}'
    documents.path.mkdir()
    (documents.path / "a.yaml").write_text(GOOD)
    documents.load()
    said = host.says()
    assert said[f"meshd_agent_discovery_services{of}"] == 1
    assert said[f"meshd_agent_discovery_services_stale{of}"] == 0
    assert said[f"meshd_agent_discovery_services_oldest_read_timestamp_seconds{of}"] == NOW
    assert said[f"meshd_agent_discovery_updates_total{of}"] == 1
    assert said['meshd_agent_discovery_services{source="local workloads"}'] == 0

    documents.load()
    assert host.says()[f"meshd_agent_discovery_updates_total{of}"] == 1
    (documents.path / "a.yaml").write_text(GOOD.replace("192.0.2.1", "192.0.2.2") + "---\n" + GOOD.replace("db", "kv"))
    documents.load()
    assert host.says()[f"meshd_agent_discovery_updates_total{of}"] == 3
    documents.path.rename(documents.path.with_name("gone"))
    documents.load()
    said = host.says()
    assert said[f"meshd_agent_discovery_services_stale{of}"] == said[f"meshd_agent_discovery_services{of}"] == 2
    assert said[f"meshd_agent_discovery_updates_total{of}"] == 3


def test_connections(host: Host) -> None:
    host.workload_api = Api()
    said = host.says()
    assert said["meshd_agent_control_connections"] == 2
    assert said["meshd_agent_workload_api_connections"] == 3
    assert said["meshd_agent_workload_api_streams"] == 5
