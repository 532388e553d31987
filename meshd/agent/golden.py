"""The golden metrics of traffic over a window: success rate, requests a second, latency quantiles.

As in Linkerd's `stat`, rates are of what was answered: a request still under way counts for neither side.
"""

from collections.abc import Iterable

from meshd.agent.histogram import quantile
from meshd.agent.traffic import NOTHING, Span
from meshd.api.control import LATENCY_BOUNDS_MS, Golden


def golden(spans: Iterable[Span]) -> Golden:
    """The spans taken together, whose lengths may differ: each is a rate by itself, and rates add up."""
    counted = total = NOTHING
    rps = read_per_s = written_per_s = 0.0
    connections = mtls = 0
    for span in spans:
        counted, total = counted.plus(span.counted), total.plus(span.total)
        connections += span.open_connections
        mtls += span.total.requests if span.key.tls else 0
        if span.seconds > 0:
            rps += (span.counted.successes + span.counted.failures) / span.seconds
            read_per_s += span.counted.read_bytes / span.seconds
            written_per_s += span.counted.write_bytes / span.seconds
    answered = counted.successes + counted.failures
    p50, p95, p99 = (quantile(q, counted.buckets, LATENCY_BOUNDS_MS) for q in (0.5, 0.95, 0.99))
    return Golden(
        success_rate=counted.successes / answered if answered else None,
        rps=rps,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        open_connections=connections,
        read_bytes_per_s=read_per_s,
        write_bytes_per_s=written_per_s,
        requests=total.requests,
        successes=total.successes,
        mtls_requests=mtls,
    )
