"""Addresses that stand for services: who connects to one means the service by its name, at the connection's port.

No source is asked about such an address, and none may answer for it. One that stands for nothing is a service with no
endpoints rather than no service: outside the mesh there is nobody to be reached at it.
"""

from collections.abc import Callable
from typing import Protocol

from discovery.names import Authority
from discovery.source import Close
from meshd.api.endpoints import EndpointSet, ServiceName

Told = Callable[[str], None]
"""Takes the host that an address stands for; empty: none."""

NAMESPACE = "virtual"
"""The namespace of services that are nothing but an address which stands for none."""


class Virtual(Protocol):
    """Which addresses stand for what (`meshd.agent.names.table`)."""

    def owns(self, address: str) -> bool:
        """Whether the address is of those that stand for services, or could."""

    def host(self, address: str) -> str:
        """The whole name of the service that it stands for; empty: none."""

    def watch(self, address: str, told: Told) -> Close:
        """Call told with `host`, at once and whenever that changes. Until this is closed, an address that stands for a
        service stands for no other."""


class Standing:
    """What an address of `virtual` leads to, told to `answered` until it is closed; `watch` follows a name."""

    def __init__(
        self,
        virtual: Virtual,
        authority: Authority,
        watch: Callable[[Authority, Callable[[EndpointSet | None], None]], Close],
        answered: Callable[[EndpointSet | None], None],
    ) -> None:
        self._authority, self._watch, self._answered = authority, watch, answered
        self._host: str | None = None
        self._unwatch: Close | None = None
        self._leave = virtual.watch(authority.address, self._named)

    def _named(self, host: str) -> None:
        if host == self._host:
            return
        self._host = host
        unwatch, self._unwatch = self._unwatch, None
        if host:
            meant = Authority(host, self._authority.port, self._authority.namespace)
            self._unwatch = self._watch(meant, lambda found: self._found(host, found))
        else:
            self._answered(self._nobody())
        if unwatch is not None:
            unwatch()

    def _found(self, host: str, found: EndpointSet | None) -> None:
        if host == self._host:
            self._answered(self._nobody() if found is None else found)

    def _nobody(self) -> EndpointSet:
        return EndpointSet(ServiceName(self._authority.address, NAMESPACE, self._authority.port or 80))

    def close(self) -> None:
        self._host = None
        self._leave()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
