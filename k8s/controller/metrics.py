"""The controller's metrics: what it knows, read off when it is asked. They are in `docs/controller.md`."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from k8s.controller.authority import OwnCertificate
from k8s.controller.core import Core
from k8s.controller.server import ControllerServer
from meshd.admin.page import build_info, counter, counters, gauge, gauges


class Running(Protocol):
    """A controller (`k8s.controller.controller`), as far as it is of interest here."""

    @property
    def core(self) -> Core: ...

    @property
    def server(self) -> ControllerServer: ...

    @property
    def own(self) -> OwnCertificate: ...


class Measured(Protocol):
    """What has metrics of its own."""

    def collect(self) -> Iterable[Metric]: ...


class ControllerMetrics(Collector):
    """Of `controller`, and of what is served beside it."""

    def __init__(self, controller: Running, beside: Iterable[Measured] = ()) -> None:
        self._controller, self._beside = controller, tuple(beside)

    def collect(self) -> Iterator[Metric]:
        yield build_info("meshd_controller_build_info", trust_domain=self._controller.core.trust_domain)
        yield from self._sidecars()
        yield from self._asked()
        yield from self._authority()
        yield from self._discovery()
        for each in self._beside:
            yield from each.collect()

    def _sidecars(self) -> Iterator[Metric]:
        core, server = self._controller.core, self._controller.server
        yield from gauges(
            "meshd_controller_connections",
            "Open connections of sidecars: those that showed a certificate, and those that have none yet.",
            ("certificate",),
            ((("yes",), server.connections - server.strangers), (("no",), server.strangers)),
        )
        yield from gauge("meshd_controller_sidecars", "Sidecars, and workers of them, attached.", core.sidecars.count)
        yield from gauge("meshd_controller_workloads", "Workloads that they are of.", core.sidecars.workloads)
        yield from gauge("meshd_controller_watches", "Destinations that sidecars watch.", core.destinations.watches)
        yield from gauge("meshd_controller_destinations", "Those that differ.", len(core.destinations))
        yield from counter(
            "meshd_controller_reports_left_out_total",
            "Reports of traffic that there was no room for.",
            core.sidecars.left_out,
        )

    def _asked(self) -> Iterator[Metric]:
        core, server = self._controller.core, self._controller.server
        yield from counters(
            "meshd_controller_certificate_requests_total",
            "Certificates that sidecars asked for, by what came of it.",
            ("result",),
            (((result,), count) for result, count in core.issuing.results.items()),
        )
        yield from counters(
            "meshd_controller_token_reviews_total",
            "Tokens that were reviewed, by what came of it.",
            ("result",),
            (((result,), count) for result, count in core.reviews.results.items()),
        )
        yield from counters(
            "meshd_controller_connections_refused_total",
            "Connections that were turned away.",
            ("reason",),
            (((reason,), count) for reason, count in server.turned_away.items()),
        )

    def _authority(self) -> Iterator[Metric]:
        core, own = self._controller.core, self._controller.own
        yield from gauge("meshd_controller_ca_up", "Whether the CA answers.", core.signer.health().healthy)
        yield from gauge(
            "meshd_controller_trust_sequence", "The number of what is believed.", core.signer.trust.sequence
        )
        yield from gauge(
            "meshd_controller_certificate_expiration_timestamp_seconds",
            "When the controller's own certificate expires; 0 where it has none yet.",
            own.not_after,
        )

    def _discovery(self) -> Iterator[Metric]:
        yield from gauges(
            "meshd_controller_discovery_up",
            "Whether a source of services, or of documents, can be read.",
            ("source",),
            (((each.name,), each.healthy) for each in self._controller.core.discovery.health()),
        )
