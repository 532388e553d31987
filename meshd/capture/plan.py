"""What is to be captured on a host, as values: made by the agent from settings and documents, and written down by
`meshd.capture.table`. It names users by number and slices by their place, and asks nobody for anything.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meshd.api.names import Address

VIRTUAL_RANGES: Final = ("240.0.0.0/4",)
"""Where services have addresses that exist nowhere: they are for the proxy, whatever is skipped."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Group:
    """A control group as nftables has it: its path below where control groups are mounted, and how many names there
    are in it but for the mount's own. `id` is what the kernel knows it by, and another of that name does not share."""

    path: str
    level: int
    id: int = 0


@dataclass(frozen=True, slots=True)
class Skips:
    """What is left alone: connections to these ports, and to these networks."""

    ports: tuple[int, ...] = ()
    networks: tuple[Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ports or self.networks)


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the proxy takes what is captured, by IPv4 and by IPv6; None where it listens at no such address."""

    v4: Address | None
    v6: Address | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is captured.

    outbound, inbound   where the proxy listens
    group               processes in it, or below it, are captured; None where there is no such group (yet)
    uids                and those of these users
    exempt              processes of these users never are: the proxy's above all, or it would call itself
    ports               of meshed workloads: what comes for them goes to the proxy's inbound listener
    virtual             networks that are never skipped
    skips               what is not captured, whoever calls; `by_group`: when it is called from there
    is_open             the proxy is away, and connections are to go where they were going
    """

    outbound: Listener
    inbound: Listener
    group: Group | None = None
    uids: tuple[int, ...] = ()
    exempt: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    virtual: tuple[Network, ...] = ()
    skips: Skips = Skips()
    by_group: tuple[tuple[Group, Skips], ...] = ()
    is_open: bool = False

    @property
    def is_empty(self) -> bool:
        """There is nobody to capture."""
        return self.group is None and not self.uids and not self.ports


def networks(texts: Iterable[str], field: str) -> tuple[Network, ...]:
    """The networks that are written there, as in 10.0.0.0/8 or 192.0.2.7; ValueError names the one that is none."""
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ValueError(
                f"{field}[{index}]: {text!r} is not a network, as in 10.0.0.0/8 or 192.0.2.7: {error}"
            ) from error
    return tuple(found)


def listener(listen: str) -> Listener:
    """Where connections are led to that a proxy with the listener `listen` (HOST:PORT, or empty) is to take. One of
    IPv4 that is for the whole loopback, or for every interface, is there for IPv6 too."""
    if not listen:
        return Listener(None, None)
    address = Address.parse(listen)
    if ":" in address.host:
        return Listener(None, address)
    return Listener(address, address.by_ipv6)
