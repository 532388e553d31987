"""How callers are to treat a service: time-outs, retries, what counts as a failing endpoint, and limits.

Written in a `Service` document's spec and handed to the proxies as it stands. A duration is written with its unit
(`500ms`, `10s`); an empty one means none.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from meshd.api.durations import parse_duration

GRPC_CODES = {
    "cancelled": "1", "unknown": "2", "deadline-exceeded": "4", "resource-exhausted": "8", "aborted": "10",
    "internal": "13", "unavailable": "14",
}  # fmt: skip
"""The gRPC statuses that may be tried again, by the words of Linkerd's annotations."""

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


def _check(*durations: str) -> None:
    for duration in durations:
        if duration:
            parse_duration(duration)


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`request`: from a request's head to its answer's end. `response`: to its answer's head. `idle`: between two
    pieces of an answer. An answer that is late is 504, or cut off where it has begun. `connect`: for an endpoint to
    accept a connection, TLS not counted; one that is late is left alone for a while, and another is asked."""

    request: str = ""
    response: str = ""
    idle: str = ""
    connect: str = "1s"

    def __post_init__(self) -> None:
        _check(self.request, self.response, self.idle)
        if not 0.001 <= parse_duration(self.connect) <= 60.0:
            raise ValueError(f"connect {self.connect} is not from 1ms to 60s")


class RetryBudget(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Retries may be `ratio` of the requests of the last `ttl`, and `minPerSecond` besides."""

    ratio: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.2
    min_per_second: Annotated[float, Meta(ge=0.0, le=100_000.0)] = 10.0
    ttl: str = "10s"

    def __post_init__(self) -> None:
        if not 1.0 <= parse_duration(self.ttl) <= 60.0:
            raise ValueError(f"ttl {self.ttl} is not from 1s to 60s")


class Retries(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which answers are asked for again: `on` names `5xx`, `gateway-error` (502 to 504), single statuses (`429`), and
    gRPC statuses (`unavailable`). `methods`: `safe` ones (GET, HEAD, OPTIONS, TRACE), `idempotent` ones (PUT and
    DELETE too), or `all`. A body of up to 64 KiB is kept for it.

    A connection that could not be made is always tried again, whatever stands here: nothing was sent.
    """

    on: tuple[str, ...] = ()
    limit: Annotated[int, Meta(ge=0, le=10)] = 1
    methods: Literal["safe", "idempotent", "all"] = "safe"
    budget: RetryBudget = RetryBudget()

    def __post_init__(self) -> None:
        for word in self.on:
            if word not in ("5xx", "gateway-error", *GRPC_CODES) and not (
                word.isascii() and word.isdigit() and 400 <= int(word) <= 599
            ):
                known = ", ".join(("5xx", "gateway-error", "400 to 599", *GRPC_CODES))
                raise ValueError(f"retries on {word!r}: expected one of {known}")


class FailureAccrual(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """When an endpoint is taken out: after `consecutiveFailures` answers in a row that are failures (0: never), or when
    less than `successRateThreshold` of the answers within `successRateWindow` are successes (0: never), of
    `successRateMinRequests` at least. It is probed with single requests after a pause from `minPenalty`, doubled to
    `maxPenalty`, with jitter. Never more than `maxEjected` of the endpoints are out for their answers."""

    consecutive_failures: Count = 7
    success_rate_threshold: Share = 0.0
    success_rate_window: str = "10s"
    success_rate_min_requests: Count = 5
    min_penalty: str = "1s"
    max_penalty: str = "60s"
    jitter_ratio: Share = 0.5
    max_ejected: Share = 0.5

    def __post_init__(self) -> None:
        _check(self.success_rate_window, self.min_penalty, self.max_penalty)
        if not 0 < parse_duration(self.min_penalty) <= parse_duration(self.max_penalty):
            raise ValueError(f"minPenalty {self.min_penalty} is not from 1ms to maxPenalty {self.max_penalty}")
        if not 1 <= parse_duration(self.success_rate_window) <= 600:
            raise ValueError(f"successRateWindow {self.success_rate_window} is not from 1s to 10m")


class Limits(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What one caller's proxy sends a service at a time: `requests` under way, and `waiting` for an endpoint; further
    ones are answered 503 at once. Linkerd's numbers."""

    requests: Count = 100_000
    waiting: Count = 10_000


class Policy(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """All of it."""

    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    failure_accrual: FailureAccrual = FailureAccrual()
    limits: Limits = Limits()
