"""The agent's metrics: what it knows, read off when it is asked. Names and meanings are in `docs/agent.md`.

The certificate that the host proves itself with is the one thing here that Linkerd has too, so it has Linkerd's names;
an alert on what a proxy's certificate has left then says so of a host's.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

from cryptography import x509
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from meshd.admin.page import build_info, counter, counters, gauge, gauges
from meshd.agent.agent import NameService, Reloaded, WorkloadService
from meshd.agent.core import Core
from meshd.agent.documents import Documents
from meshd.agent.health.monitor import Verdict
from meshd.agent.node import Renewals
from meshd.agent.registry import HOST
from meshd.api.names import WorkloadName
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.contacts import Contacts


class Checks(Protocol):
    """What the checks of workloads found (`meshd.agent.health.monitor`)."""

    def verdicts(self) -> Iterator[Verdict]: ...


class Running(Protocol):
    """An agent (`meshd.agent.agent`), as far as it is of interest here."""

    @property
    def core(self) -> Core: ...

    @property
    def documents(self) -> Documents: ...

    @property
    def reloaded(self) -> Reloaded: ...

    @property
    def control_connections(self) -> int: ...

    @property
    def workload_api(self) -> WorkloadService | None: ...

    @property
    def names(self) -> NameService | None: ...

    @property
    def health(self) -> Checks: ...


class AgentMetrics(Collector):
    """Of `agent`, which deals with CAs as `contacts` and `renewals` say."""

    def __init__(self, agent: Running, contacts: Contacts, renewals: Renewals) -> None:
        self._agent, self._contacts, self._renewals = agent, contacts, renewals

    def collect(self) -> Iterator[Metric]:
        core = self._agent.core
        yield build_info("meshd_agent_build_info", node=core.node, trust_domain=core.trust_domain, zone=core.zone)
        yield from self._workloads()
        yield from self._health()
        yield from self._certificates()
        yield from self._ca()
        yield from self._trust()
        yield from self._discovery()
        yield from self._services()
        yield from self._configuration()
        yield from self._connections()
        yield from self._names()

    def _workloads(self) -> Iterator[Metric]:
        registry = self._agent.core.registry
        proxies: Counter[str] = Counter()
        declared = 0
        for instance in registry.instances():
            declared += len(instance.workloads) if instance.key == HOST else 0
            for each in instance.workloads:
                proxies[str(WorkloadName(each.namespace, each.name))] += registry.attached(instance)
        yield from gauges(
            "meshd_agent_workloads_registered",
            "Workloads on this host, by what declares them.",
            ("origin",),
            ((("run",), registry.registered), (("documents",), declared)),
        )
        yield from gauge(
            "meshd_agent_workloads_announced", "Workloads that callers are sent to.", len(registry.announced())
        )
        yield from gauges(
            "meshd_agent_proxies_connected",
            "Proxies, and workers of them, that are connected for a workload.",
            ("workload",),
            (((workload,), count) for workload, count in proxies.items()),
        )

    def _health(self) -> Iterator[Metric]:
        verdicts = tuple(self._agent.health.verdicts())
        yield from gauges(
            "meshd_agent_workload_healthy",
            "Whether the check of the workload passes.",
            ("workload", "check"),
            (((str(each.check.workload), each.check.what), bool(each.passes)) for each in verdicts),
        )
        yield from counters(
            "meshd_agent_health_checks_total",
            "How often it was looked whether the workload is well.",
            ("workload", "check", "result"),
            (
                ((str(each.check.workload), each.check.what, result), count)
                for each in verdicts
                for result, count in (("ok", each.looks - each.failures), ("failed", each.failures))
            ),
        )

    def _certificates(self) -> Iterator[Metric]:
        signed, own = self._agent.core.signer.signed, self._renewals
        yield from counter(
            "meshd_agent_certificates_issued_total",
            "Certificates that workloads here got of the CA.",
            signed.issued,
        )
        yield from counter(
            "meshd_agent_certificates_renewed_total", "Those of them that took another's place.", signed.renewed
        )
        yield from counters(
            "meshd_agent_certificates_failed_total",
            "Certificates that were asked for and not had.",
            ("reason",),
            (((reason,), count) for reason, count in signed.failed.items()),
        )
        yield from counter(
            "meshd_agent_tokens_issued_total", "JWT-SVIDs that workloads here got of the CA.", signed.tokens
        )
        yield from counters(
            "meshd_agent_tokens_failed_total",
            "JWT-SVIDs that were asked for and not had.",
            ("reason",),
            (((reason,), count) for reason, count in signed.tokens_failed.items()),
        )
        if not own.not_after:
            return
        yield from gauge(
            "control_identity_cert_expiration_timestamp_seconds",
            "When the certificate expires by which the CA knows this host.",
            own.not_after,
        )
        if own.renewed_at:
            yield from gauge(
                "control_identity_cert_refresh_timestamp_seconds", "When it was renewed last.", own.renewed_at
            )
        yield from counters(
            "control_identity_cert_refreshes_total",
            "Attempts to renew it.",
            ("result",),
            ((("ok",), own.renewed), (("error",), own.failed)),
        )

    def _ca(self) -> Iterator[Metric]:
        healthy = self._agent.core.signer.health().healthy
        yield from gauge("meshd_agent_ca_healthy", "Whether a CA answers, and signs for this host.", healthy)
        yield from gauges(
            "meshd_agent_ca_reachable",
            "Whether the CA could be asked, by the last call to it.",
            ("url",),
            (((each.url,), each.is_reachable) for each in self._contacts if each.is_reachable is not None),
        )
        yield from gauges(
            "meshd_agent_ca_last_contact_timestamp_seconds",
            "When the CA answered last.",
            ("url",),
            (((each.url,), each.answered_at) for each in self._contacts if each.answered_at),
        )

    def _trust(self) -> Iterator[Metric]:
        signer = self._agent.core.signer
        yield from gauges(
            "meshd_agent_trust_root_expiration_timestamp_seconds",
            "When the roots of the trust bundle expire.",
            ("serial",),
            _roots(signer.trust_bundle_pem),
        )
        yield from gauge(
            "meshd_agent_trust_sequence", "The CA's number of what is believed and denied.", signer.trust.sequence
        )
        denied = Counter(each.kind for each in signer.trust.denied)
        yield from gauges(
            "meshd_agent_denied_entries",
            "What the CA denies.",
            ("kind",),
            (((kind,), denied[kind]) for kind in ("serial", "identity", "node")),
        )

    def _discovery(self) -> Iterator[Metric]:
        chain = self._agent.core.discovery
        sources = tuple(zip(chain.health(), chain.known(), strict=True))
        yield from gauges(
            "meshd_agent_discovery_healthy",
            "Whether the source can be read, and all that is in it is good.",
            ("source",),
            (((health.name,), health.healthy) for health, _ in sources),
        )
        yield from gauges(
            "meshd_agent_discovery_stale",
            "Whether the source cannot be read, and answers with what it knew.",
            ("source",),
            (((health.name,), known.stale) for health, known in sources),
        )
        yield from gauges(
            "meshd_agent_discovery_last_read_timestamp_seconds",
            "When what is known of the source was read.",
            ("source",),
            (((health.name,), known.read_at) for health, known in sources if known.read_at),
        )

    def _services(self) -> Iterator[Metric]:
        chain = self._agent.core.discovery
        sources = tuple(zip(chain.health(), chain.known(), strict=True))
        yield from gauges(
            "meshd_agent_discovery_services",
            "Services that the source knows without being asked, or is asked for.",
            ("source",),
            (((health.name,), known.services) for health, known in sources),
        )
        yield from gauges(
            "meshd_agent_discovery_services_stale",
            "Those of them that are served as they were.",
            ("source",),
            (((health.name,), known.stale_services) for health, known in sources),
        )
        yield from gauges(
            "meshd_agent_discovery_services_oldest_read_timestamp_seconds",
            "When the one was read that was not for the longest time.",
            ("source",),
            (((health.name,), known.oldest_read_at) for health, known in sources if known.oldest_read_at),
        )
        yield from counters(
            "meshd_agent_discovery_updates_total",
            "Changes of what is known of a service.",
            ("source",),
            (((health.name,), known.updates) for health, known in sources),
        )

    def _configuration(self) -> Iterator[Metric]:
        places, reloaded = self._agent.documents.sources, self._agent.reloaded
        yield from gauges(
            "meshd_agent_configuration_documents",
            "Documents in force.",
            ("source",),
            (((each.health().name,), len(each.documents)) for each in places),
        )
        yield from gauges(
            "meshd_agent_configuration_findings",
            "What is refused of the documents; what was last good stays in force.",
            ("source",),
            (((each.health().name,), len(each.findings)) for each in places),
        )
        yield from gauge(
            "meshd_agent_configuration_last_reload_timestamp_seconds",
            "When settings and documents were read last, at the start or on SIGHUP.",
            reloaded.at,
        )
        yield from gauge(
            "meshd_agent_configuration_last_reload_successful",
            "Whether the settings are in force as they were in their file then.",
            reloaded.whole,
        )

    def _connections(self) -> Iterator[Metric]:
        yield from gauge(
            "meshd_agent_control_connections", "Connections to the control API.", self._agent.control_connections
        )
        api = self._agent.workload_api
        if api is None:
            return
        yield from gauge("meshd_agent_workload_api_connections", "Connections to the Workload API.", api.connections)
        yield from gauge("meshd_agent_workload_api_streams", "Calls that it is answering.", api.calls)

    def _names(self) -> Iterator[Metric]:
        if self._agent.names is None:
            return
        yield from counters(
            "meshd_agent_names_queries_total",
            "Questions to the name server, by what the answers were.",
            ("result",),
            (((result,), count) for result, count in self._agent.names.answered.items()),
        )


@lru_cache(maxsize=2)
def _roots(bundle_pem: str) -> tuple[tuple[tuple[str], float], ...]:
    found = x509.load_pem_x509_certificates(bundle_pem.encode())
    return tuple({(certificates.serial(root),): Life.of(root).not_after for root in found}.items())
