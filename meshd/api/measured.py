"""What a proxy measured of the endpoints that it calls: the page `/endpoints` of its admin port, JSON.

    GET /endpoints?service=web.default:80     one service, by its full name; without `service` all of them

The proxy writes it (`proxy.measured`), `meshd endpoints` reads it (`meshd.client.measured`).
"""

from typing import Literal

from msgspec import Struct

MAX_MEASURED = 10_000
"""Endpoints on a page; what is beyond is counted in `left_off`."""


class MeasuredEndpoint(Struct, frozen=True):
    """One endpoint. `state`: it may be asked (`in`), it was taken out for a `reason` and is left alone for `out_s`, or
    it is being tried again (`probing`). `failures`: answers in a row that were failures. `latency_ms` is the peak EWMA
    of its answers, decayed until now, and `load` what is balanced by: that times what is `pending`
    and one, over its weight. `connections` are those that carry opaque bytes."""

    address: str
    port: int
    identity: str
    state: Literal["in", "out", "probing"]
    reason: Literal["", "connection", "answers"]
    out_s: float
    failures: int
    latency_ms: float
    load: float
    pending: int
    connections: int


class MeasuredDestination(Struct, frozen=True):
    """A service as one workload (NAMESPACE/NAME) asks for it, by `authority`. `worker`: whose measurements they are,
    where the proxy has workers; else 0."""

    workload: str
    authority: str
    service: str
    endpoints: tuple[MeasuredEndpoint, ...]
    worker: int = 0


class Measured(Struct, frozen=True):
    """The page. `silent`: workers that did not answer in time."""

    destinations: tuple[MeasuredDestination, ...] = ()
    left_off: int = 0
    silent: tuple[int, ...] = ()
