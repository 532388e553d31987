"""What the proxy counts, as plain integers on slotted objects: nothing else is cheap enough for every request.

Three kinds of series: `HttpTraffic` (requests, and responses by status with their latencies), `TcpTraffic` (connections
and bytes) and `RetryTraffic` (what policy had asked again). Whoever handles traffic holds the object of its labels and
adds to it; `proxy.metrics` reads them when scraped and `proxy.control` reports them to the agent. Nothing here computes
a rate.
"""

import errno
import ssl
from bisect import bisect_left
from typing import Literal, NamedTuple

from meshd.api.control import LATENCY_BOUNDS_MS

MAX_SERIES = 10_000
"""Beyond this many label sets of a kind, further ones share one series whose labels are empty: what peers name
(services, identities) must not grow the proxy without bound."""

Direction = Literal["inbound", "outbound"]


class Labels(NamedTuple):
    """What tells series apart.

    `workload` (NAMESPACE/NAME) is the process this proxy works for; `service` what was asked for (NAME.NAMESPACE:PORT,
    or HOST:PORT outside the mesh; inbound: the port); `target` the address (HOST:PORT) the traffic went to; `peer` the
    other end's verified SPIFFE ID; `tls` whether the connection to it was TLS that this
    proxy ended: mutual TLS between proxies, or that of a listener for callers outside the mesh. `sni`: the bytes
    relayed are TLS of the application's own, which asks for this server name ("": for none); None where they are not.
    """

    direction: Direction
    workload: str = ""
    service: str = ""
    target: str = ""
    peer: str = ""
    tls: bool = False
    sni: str | None = None


class Responses:
    """Responses of one status: how many took how long."""

    __slots__ = ("buckets", "sum_ms")

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_BOUNDS_MS) + 1)
        self.sum_ms = 0.0


GRPC_FAILURES = frozenset(("2", "4", "7", "13", "14", "15"))
"""UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS: Linkerd's failures."""


def is_success(status: int, grpc_status: str) -> bool:
    """Whether a response counts as a success, as Linkerd classifies: under 500, and of gRPC its status decides."""
    return status < 500 and grpc_status not in GRPC_FAILURES


class HttpTraffic:
    """Requests and responses of one label set, the responses by status and, of gRPC, by its status too ("" else)."""

    __slots__ = ("_usual", "labels", "requests", "responses")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.requests = 0
        self.responses: dict[tuple[int, str], Responses] = {}
        self._usual: Responses | None = None  # those of 200 that are not gRPC's

    def record(self, status: int, seconds: float, grpc_status: str = "") -> None:
        """Count a response that ended `seconds` after its request began."""
        responses = self._usual if status == 200 and not grpc_status else self.responses.get((status, grpc_status))
        if responses is None:
            responses = self.responses[status, grpc_status] = Responses()
            if status == 200 and not grpc_status:
                self._usual = responses
        latency_ms = seconds * 1000.0
        responses.buckets[bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1
        responses.sum_ms += latency_ms


class RetryTraffic:
    """Requests to one service for whose answer policy names a retry.

    `requests` were asked again, once for each time; `successes` of those got an answer that policy does not name, and
    no 5xx. The others were not asked (again): as often as policy's limit already (`limit_exceeded`), or the budget was
    used up (`overflow`). What is tried again because it was never sent is no retry, and is not counted here.
    """

    __slots__ = ("labels", "limit_exceeded", "overflow", "requests", "successes")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.requests = 0
        self.successes = 0
        self.limit_exceeded = 0
        self.overflow = 0


class TcpTraffic:
    """Connections of one label set. `peer` is the side they are with: `src` the caller's, `dst` the endpoint's.

    `relays` is whether they carry opaque bytes: then their number and outcome are what is known of the traffic, as
    requests are for HTTP. `closed` counts by errno, "" for an orderly end. `undecided` are open too, but whether
    they are of these labels is not known yet: they are counted as opened when it is (`proxy.caller`).
    """

    __slots__ = ("closed", "labels", "opened", "peer", "read_bytes", "relays", "undecided", "written_bytes")

    def __init__(self, labels: Labels, peer: Literal["src", "dst"], relays: bool) -> None:
        self.labels = labels
        self.peer = peer
        self.relays = relays
        self.opened = 0
        self.undecided = 0
        self.closed: dict[str, int] = {}
        self.read_bytes = 0
        self.written_bytes = 0

    def close(self, error: BaseException | None) -> None:
        """Count the end of a connection."""
        name = "" if error is None else errno_name(error)
        self.closed[name] = self.closed.get(name, 0) + 1

    @property
    def open(self) -> int:
        return self.opened + self.undecided - sum(self.closed.values())


def errno_name(error: BaseException) -> str:
    """How an error is called in a label: its errno's name, else its class (a small, fixed set)."""
    name = type(error).__name__
    if isinstance(error, ssl.SSLError):
        return name  # its number is OpenSSL's
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, name) if isinstance(number, int) else name


class Stats:
    """All series of this process."""

    def __init__(self) -> None:
        self._http: dict[Labels, HttpTraffic] = {}
        self._tcp: dict[tuple[Labels, str, bool], TcpTraffic] = {}
        self._retries: dict[Labels, RetryTraffic] = {}
        self.errors: dict[tuple[Direction, str, str], int] = {}

    def http(self, labels: Labels) -> HttpTraffic:
        """The series of these labels, made if need be."""
        traffic = self._http.get(labels)
        if traffic is None:
            if len(self._http) >= MAX_SERIES:
                labels = Labels(labels.direction)
            traffic = self._http.setdefault(labels, HttpTraffic(labels))
        return traffic

    def tcp(self, labels: Labels, peer: Literal["src", "dst"], relays: bool = False) -> TcpTraffic:
        """The series of these labels, made if need be."""
        traffic = self._tcp.get((labels, peer, relays))
        if traffic is None:
            if len(self._tcp) >= MAX_SERIES:
                labels = Labels(labels.direction)
            traffic = self._tcp.setdefault((labels, peer, relays), TcpTraffic(labels, peer, relays))
        return traffic

    def retries(self, labels: Labels) -> RetryTraffic:
        """The retries of these labels, made if need be: for where policy names an answer, not for every request."""
        traffic = self._retries.get(labels)
        if traffic is None:
            if len(self._retries) >= MAX_SERIES:
                labels = Labels(labels.direction)
            traffic = self._retries.setdefault(labels, RetryTraffic(labels))
        return traffic

    def count_error(self, direction: Direction, kind: Literal["http", "tcp"], error: str) -> None:
        """Count a failure of the proxy's own making; `error` is one of a fixed set of words."""
        key = (direction, kind, error)
        self.errors[key] = self.errors.get(key, 0) + 1

    @property
    def http_series(self) -> tuple[HttpTraffic, ...]:
        return tuple(self._http.values())

    @property
    def retry_series(self) -> tuple[RetryTraffic, ...]:
        return tuple(self._retries.values())

    @property
    def tcp_series(self) -> tuple[TcpTraffic, ...]:
        return tuple(self._tcp.values())
