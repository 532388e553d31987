"""The CA's metrics: what it counted, and what is in its store, read when it is asked. They are in `docs/ca.md`.

Collecting reads the store, so it may block. A store that is away is said (`meshd_ca_store_up`), and the rest is there.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Protocol

from cryptography import x509
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from meshd.admin.page import build_info, counter, counters, gauge, gauges
from meshd.ca import certificates
from meshd.ca.authority import Authority
from meshd.ca.certificates import Life
from meshd.ca.counts import BOUNDS_S, Counts, Durations
from meshd.ca.source import Unreachable
from meshd.ca.store import Store


class Serving(Protocol):
    """The CA's server (`meshd.ca.server`), as far as it is of interest here."""

    @property
    def counts(self) -> Counts: ...

    @property
    def connections(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class CaMetrics(Collector):
    """Of `authority`, and of the server before it."""

    def __init__(self, authority: Authority, server: Serving, clock: Callable[[], float] = time.time) -> None:
        self._authority, self._server, self._clock = authority, server, clock

    def collect(self) -> Iterator[Metric]:
        yield build_info("meshd_ca_build_info", trust_domain=self._authority.trust_domain)
        yield from self._requests()
        yield from self._certificates()
        yield from _kept(self._authority.store, self._clock())

    def _requests(self) -> Iterator[Metric]:
        counts = self._server.counts
        yield from counters(
            "meshd_ca_certificates_issued_total",
            "Certificates that were asked for and issued.",
            ("action",),
            (((action,), count) for action, count in counts.issued.items()),
        )
        yield from counter("meshd_ca_tokens_issued_total", "JWT-SVIDs that were asked for and issued.", counts.tokens)
        yield from counters(
            "meshd_ca_requests_refused_total",
            "Requests that did not get what they asked for.",
            ("action", "reason"),
            (((action, reason), count) for (action, reason), count in counts.refused.copy().items()),
        )
        yield _histogram(counts.took.copy().items())
        yield from gauge("meshd_ca_connections", "Open connections to the API.", self._server.connections)
        yield from gauge("meshd_ca_agents_waiting", "Agents that wait for news.", self._server.waiting)

    def _certificates(self) -> Iterator[Metric]:
        own = self._authority.own
        roots = x509.load_pem_x509_certificates(own.bundle_pem.encode())
        yield from gauges(
            "meshd_ca_root_expiration_timestamp_seconds",
            "When the roots of the trust bundle expire.",
            ("serial",),
            {(certificates.serial(root),): Life.of(root).not_after for root in roots}.items(),
        )
        issuer = own.issuer.certificate
        yield from gauges(
            "meshd_ca_issuer_expiration_timestamp_seconds",
            "When the issuer expires; it is renewed at two thirds of its life.",
            ("serial",),
            [((certificates.serial(issuer),), Life.of(issuer).not_after)],
        )


def _kept(store: Store, now: float) -> Iterator[Metric]:
    """What is in the store."""
    try:
        nodes, entries, denied = len(store.nodes()), len(store.entries()), store.denied()
        tokens = Counter(token.state(now) for token in store.join_tokens())
        authorities = 1 if store.peers is None else len(store.peers.live())
    except Unreachable:
        yield from gauge("meshd_ca_store_up", "Whether the store can be read.", 0)
    else:
        kinds = Counter(each.kind for each in denied.records)
        yield from gauge("meshd_ca_store_up", "Whether the store can be read.", 1)
        yield from gauge("meshd_ca_authorities", "CAs that run on this store.", authorities)
        yield from gauge("meshd_ca_nodes", "Hosts that joined.", nodes)
        yield from gauge("meshd_ca_entries", "Entries: which nodes may have which workloads.", entries)
        yield from gauges(
            "meshd_ca_join_tokens",
            "Join tokens on record.",
            ("state",),
            (((state.replace(" ", "_"),), tokens[state]) for state in ("valid", "revoked", "expired", "used up")),
        )
        yield from gauges(
            "meshd_ca_denied_entries",
            "What is denied.",
            ("kind",),
            (((kind,), kinds[kind]) for kind in ("serial", "identity", "node")),
        )
        yield from gauge(
            "meshd_ca_trust_sequence", "The number of what is believed and denied, as agents have it.", denied.sequence
        )
    yield from counter("meshd_ca_store_errors_total", "Calls of the store that failed.", store.errors)


def _histogram(took: Iterable[tuple[str, Durations]]) -> Metric:
    family = HistogramMetricFamily(
        "meshd_ca_request_duration_seconds",
        "Time until the answer was ready, without that of waiting for news.",
        labels=("action",),
    )
    for action, durations in took:
        bounds = (*(repr(bound) for bound in BOUNDS_S), "+Inf")
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        family.add_metric((action,), buckets, durations.total_s)
    return family
