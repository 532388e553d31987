"""How an agent finds out whether a workload can serve, as documents say it: of a port, and of a systemd unit.

spec:
  ports: [{port: 8080, health: {http: {path: /healthz}, interval: 10s}}]
  health: {unit: web.service}
"""

import re
from typing import Annotated

from msgspec import Meta, Struct

from meshd.api.durations import parse_duration

UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(?:service|scope|socket|mount|swap)")
"""systemd's name of a unit that has processes."""

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 3600.0

MIN_TIMEOUT_S = 0.01

MAX_PATH_BYTES = 2048

_PATH = re.compile(r"/[!-~]*")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_STATUSES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")

Statuses = tuple[tuple[int, int], ...]
"""Ranges of HTTP statuses, both ends belonging to them."""


def parse_statuses(text: str) -> Statuses:
    """The statuses of `200-399`, `200`, `200,204,300-399`; ValueError when text is not of that form."""
    ranges = []
    for part in text.split(","):
        found = _STATUSES.fullmatch(part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"{text!r} is no list of HTTP statuses, as in 200-399 or 200,204")
        ranges.append((int(found[1]), int(found[2] or found[1])))
    return tuple(ranges)


class HttpCheck(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A GET of `path` by HTTP/1.1, whose answer has a status that is expected. Redirects are not followed. `host` is
    what the request says in Host, the port's address where it is empty."""

    path: str = "/"
    expect: str = "200-399"
    host: str = ""

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or len(self.path) > MAX_PATH_BYTES:
            raise ValueError(f"path: {self.path[:80]!r} is not a path as it stands in a request, as in /healthz")
        if self.host and not _HOST.fullmatch(self.host):
            raise ValueError(f"host: {self.host!r} is not HOST or HOST:PORT")
        try:
            parse_statuses(self.expect)
        except ValueError as error:
            raise ValueError(f"expect: {error}") from error

    @property
    def statuses(self) -> Statuses:
        return parse_statuses(self.expect)


class TcpCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """The port accepts a connection. The kernel does that for a process, even one that hangs."""


class GrpcCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """`grpc.health.v1.Health/Check` says SERVING of `service`; of the server as a whole where that is empty."""

    service: Annotated[str, Meta(max_length=255)] = ""


class _Pace(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """How often it is looked, how long that may take, and after how many looks in a row it is believed."""

    interval: str = "10s"
    timeout: str = "1s"
    healthy_after: Annotated[int, Meta(ge=1, le=100)] = 1
    unhealthy_after: Annotated[int, Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        interval_s = _within("interval", self.interval, MIN_INTERVAL_S, MAX_INTERVAL_S, "100ms and 1h")
        _within("timeout", self.timeout, MIN_TIMEOUT_S, interval_s, f"10ms and the interval, {self.interval}")

    @property
    def interval_s(self) -> float:
        return parse_duration(self.interval)

    @property
    def timeout_s(self) -> float:
        return parse_duration(self.timeout)


def _within(field: str, text: str, low_s: float, high_s: float, limits: str) -> float:
    try:
        found_s = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if not low_s <= found_s <= high_s:
        raise ValueError(f"{field}: {text} is not within {limits}")
    return found_s


class PortHealth(_Pace, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The health of a port, by one of these."""

    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    grpc: GrpcCheck | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("http", "tcp", "grpc") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a check is exactly one of http, tcp and grpc; found {' and '.join(given) or 'none'}")


class UnitHealth(_Pace, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The health of a workload that is a systemd unit: whether that is active."""

    unit: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not UNIT.fullmatch(self.unit):
            raise ValueError(f"unit: {self.unit!r} is not the name of a unit that has processes, as in web.service")
