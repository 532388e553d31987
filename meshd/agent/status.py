"""The agent's knowledge as the `Status` that `meshd status` and the demo's table show."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from meshd import __version__
from meshd.agent.core import Core
from meshd.agent.golden import golden
from meshd.agent.registry import HOST, Instance
from meshd.agent.services import source_statuses, stale_services
from meshd.agent.traffic import WINDOW_S, Key, Span
from meshd.api.control import EdgeStatus, ProxyStatus, ProxyWorkload, Status, WorkloadStatus
from meshd.api.names import Identity, WorkloadName

WITHDRAWN = "withdrawn"
"""What a workload that is about to end is said to wait for: nobody is sent to it any more."""


def build_status(core: Core, window_s: float) -> Status:
    """This host now; rates and quantiles over the last window_s seconds, 1 to 60 (what is beyond is cut)."""
    window_s = min(max(window_s, 1.0), WINDOW_S)
    now = core.monotonic()
    spans = {key: tuple(account.over(window_s, now)) for key, account in core.accounts.items()}
    return Status(
        node=core.node,
        trust_domain=core.trust_domain,
        version=__version__,
        mode=core.mode,
        pid=core.pid,
        started_at=core.started_at,
        ca=core.signer.health(),
        discovery=core.discovery.health(),
        configuration=core.troubles(),
        workloads=tuple(_workloads(core, spans)),
        edges=tuple(edges(core.trust_domain, spans.values())),
        sources=source_statuses(core.discovery),
        stale=stale_services(core.discovery),
        proxy=_proxy(core),
    )


def _proxy(core: Core) -> ProxyStatus | None:
    host = core.registry.instance(HOST)
    if host is None:
        return None
    return ProxyStatus(
        workloads=len(host.workloads),
        attached=core.registry.attached(host),
        versions=core.registry.versions(host),
        waiting_for=core.registry.proxy_waits_for(host),
    )


def _workloads(core: Core, spans: dict[str, tuple[Span, ...]]) -> Iterator[WorkloadStatus]:
    pairs = ((each, workload) for each in core.registry.instances() for workload in each.workloads)
    for instance, workload in sorted(pairs, key=lambda pair: (pair[1].namespace, pair[1].name, pair[0].inbound)):
        yield _workload(core, instance, workload, spans.get(instance.key, ()))


def _workload(core: Core, instance: Instance, workload: ProxyWorkload, spans: tuple[Span, ...]) -> WorkloadStatus:
    name = WorkloadName(workload.namespace, workload.name)
    certificate = core.registry.certificate(instance, workload)
    report = core.registry.report_of(instance)
    return WorkloadStatus(
        namespace=workload.namespace,
        name=workload.name,
        identity=str(core.identity(name)),
        ports=tuple(port.port for port in workload.ports),
        pid=instance.pid if instance.key != HOST or report is None else report.pid,
        outbound=instance.outbound,
        inbound=instance.inbound,
        admin=instance.admin,
        waiting_for=(WITHDRAWN,) if instance.withdrawn else core.registry.waiting_for(instance, workload),
        certificate_not_after=certificate.not_after,
        certificate_error=certificate.error,
        golden=golden(span for span in spans if span.key.direction == "inbound" and span.key.workload == str(name)),
    )


def edges(trust_domain: str, spans: Iterable[tuple[Span, ...]]) -> Iterator[EdgeStatus]:
    """Outbound traffic by caller, service, server's identity, protocol and TLS, whichever of the caller's proxies
    carried it."""
    found: defaultdict[Key, list[Span]] = defaultdict(list)
    for each in spans:
        for span in each:
            if span.key.direction == "outbound":
                found[span.key].append(span)
    for key, parts in sorted(found.items()):
        yield EdgeStatus(
            source=key.workload,
            source_identity=str(Identity.of(trust_domain, WorkloadName.parse(key.workload))),
            service=key.service,
            server_identity=key.peer,
            protocol="tcp" if key.protocol == "tcp" else "http",
            tls=key.tls,
            golden=golden(parts),
        )
