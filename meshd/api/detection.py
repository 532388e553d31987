"""How a proxy comes to know what a port of protocol `auto` speaks: by its number, else by the first bytes.

A port whose number is among the opaque ones carries opaque bytes, and nothing is waited for: in these protocols the
server speaks first, or nothing that a proxy knows. Linkerd's list is the default.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from meshd.api.durations import parse_duration

OpaquePorts = tuple[Annotated[int, Meta(ge=1, le=65535)], ...]

DEFAULT_OPAQUE_PORTS: Final[OpaquePorts] = (25, 587, 3306, 4444, 5432, 6379, 9300, 11211)
"""SMTP and submission, MySQL, Galera, PostgreSQL, Redis, Elasticsearch among its nodes, memcached."""

DEFAULT_DETECT_TIMEOUT: Final = "10s"

_LEAST_S: Final = 0.1
_MOST_S: Final = 600.0


class Detection(Struct, frozen=True):
    """`timeout_s`: how long the first bytes are waited for before the connection is taken for opaque."""

    opaque_ports: tuple[int, ...] = DEFAULT_OPAQUE_PORTS
    timeout_s: float = 10.0

    def is_opaque(self, port: int, said: bool | None = None) -> bool:
        """Whether a port of protocol `auto` is opaque; `said` is what its own document says, None for nothing."""
        return port in self.opaque_ports if said is None else said


def listed(port: int, opaque_ports: OpaquePorts | None) -> bool | None:
    """What a document with this list says of a port: None where it has no list."""
    return None if opaque_ports is None else port in opaque_ports


def parse_detect_timeout(text: str) -> float:
    """`detectTimeout` in seconds; ValueError when it is no duration, or none that makes sense."""
    timeout_s = parse_duration(text)
    if not _LEAST_S <= timeout_s <= _MOST_S:
        raise ValueError(f"detectTimeout {text} is not from 100ms to 10m")
    return timeout_s
