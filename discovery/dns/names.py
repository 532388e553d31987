"""Which names are services in the DNS, and what is asked for each; nothing is asked here.

    web.shop                          a mesh name that the settings give records to: SRV, or addresses and a port
    web.example.internal:8080         a name under one of the domains that the settings give over: A and AAAA
    _http._tcp.web.example.internal   likewise: SRV

No other name is claimed, for the DNS has an answer to every one: a workload whose name is mistyped would be looked for
outside, and whoever has that name there would be found.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from discovery.names import Authority, mesh_name
from meshd.api.documents import Protocol
from meshd.api.endpoints import ServiceName

HTTP_PORT = 80

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


def is_host(text: str) -> bool:
    """Whether text is a name to look up: labels of a-z, 0-9, '-' and '_' joined by dots, 253 characters at most."""
    return _HOST.fullmatch(text) is not None


class Key(NamedTuple):
    """A service, and all that has to be known to look it up. `port` is what callers name; it is also the port at the
    addresses, whereas SRV records have their own. With an `identity` the endpoints are meshed."""

    name: str
    namespace: str
    port: int
    host: str
    kind: Literal["address", "srv"]
    identity: str = ""
    inbound_port: int = 0
    protocol: Protocol = "auto"

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.name, self.namespace, self.port)


class Names:
    """The `services` that are given records, by (name, namespace), and all that is under `domains`; one of either at
    least."""

    def __init__(self, services: Mapping[tuple[str, str], Key], domains: Sequence[str]) -> None:
        self.services, self._domains = dict(services), tuple(domains)

    def claim(self, authority: Authority) -> Key | None:
        """The service that authority means here; None where it is none of these."""
        name = mesh_name(authority)
        if name is not None and (given := self.services.get(name)) is not None:
            return given if authority.port in (None, given.port) else None
        host = authority.host
        if not is_host(host) or not any(host == each or host.endswith(f".{each}") for each in self._domains):
            return None
        first, _, rest = host.partition(".")
        is_srv = first.startswith("_") and rest.startswith("_")
        return Key(first, rest, authority.port or HTTP_PORT, host, "srv" if is_srv else "address")

    @property
    def any_host(self) -> str:
        """One that may be asked for to see whether anybody answers."""
        return self._domains[0] if self._domains else next(iter(self.services.values())).host
