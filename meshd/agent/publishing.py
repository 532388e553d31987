"""This host's workloads, as other hosts may reach them: what registries that take announcements are told.

Of those that the host's proxy serves each port is an endpoint of the service of the workload's name. A workload that is
not ready is announced as one that is not healthy, and one that withdrew is not announced. The proxy of a `meshd run`
listens where no other host can reach it, so its workload is not announced.
"""

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

from discovery.publish import Announcement, Publisher
from meshd.agent.registry import Instance, Registry
from meshd.api.endpoints import Endpoint, ServiceName
from meshd.api.names import Address, Identity, WorkloadName

log = logging.getLogger(__name__)

_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of documentation (RFC 5737, RFC 3849): nothing is sent there."""


def own_address() -> str:
    """The address from which this host reaches others, by its routes; empty when it has none."""
    for family, elsewhere in _ELSEWHERE.items():
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, 9))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return ""


class Publishing:
    """Tells `publishers` of the workloads in `registry` whenever they differ. `advertise` is the address at which other
    hosts reach this one; empty: found out."""

    def __init__(
        self,
        registry: Registry,
        publishers: Sequence[Publisher],
        *,
        trust_domain: str,
        zone: str = "",
        advertise: str = "",
        find_address: Callable[[], str] = own_address,
    ) -> None:
        self._registry, self._publishers = registry, publishers
        self._trust_domain, self._zone = trust_domain, zone
        self._advertise, self._find_address = advertise, find_address
        self._told: tuple[Announcement, ...] | None = None
        self._ended = False

    def refresh(self) -> None:
        """Something about workloads may differ."""
        if self._publishers and not self._ended and (now := tuple(self._announcements())) != self._told:
            self._told = now
            for publisher in self._publishers:
                publisher.publish(now)

    def troubles(self) -> tuple[str, ...]:
        """What keeps registries from having all of it."""
        return tuple(each.trouble for each in self._publishers if each.trouble)

    async def withdraw(self) -> None:
        """The agent ends, and with it what it vouches for."""
        self._ended = True
        for publisher in self._publishers:
            await publisher.withdraw()

    def _announcements(self) -> Iterator[Announcement]:
        address = self._advertise or self._find_address()
        if not address:
            log.error("no workload is announced: this host has no route to others: set `advertise`")
            return
        for instance in self._registry.instances():
            inbound = Address.parse(instance.inbound)
            if not instance.withdrawn and _reachable(inbound.host, address):
                yield from self._of(instance, address, inbound.port)

    def _of(self, instance: Instance, address: str, inbound_port: int) -> Iterator[Announcement]:
        for workload in instance.workloads:
            waiting_for = self._registry.waiting_for(instance, workload)
            identity = str(Identity.of(self._trust_domain, WorkloadName(workload.namespace, workload.name)))
            for port in workload.ports:
                yield Announcement(
                    ServiceName(workload.name, workload.namespace, port.port),
                    Endpoint(address, port.port, identity, inbound_port, port.protocol, zone=self._zone),
                    healthy=not waiting_for,
                    message=f"waits for {', '.join(waiting_for)}" if waiting_for else "",
                )


def _reachable(listens_at: str, advertised: str) -> bool:
    """Whether a listener at one address is reached by who connects to the other."""
    listens = ipaddress.ip_address(listens_at or "0.0.0.0")  # noqa: S104 - it is what an empty host means
    return listens.is_unspecified or not listens.is_loopback or listens_at == advertised
