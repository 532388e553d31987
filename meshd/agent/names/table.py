"""Which address stands for which service: the same after restarts, and on every host as far as that can be.

An address follows from the service's name by a hash; where it is taken, the next that is free is. Only names that hash
alike may so have other addresses on another host, depending on which was asked for first: with a thousand services in
a /4, one pair in five hundred meshes.

Who looked an address up may use it for as long as a process lives, and so it is nobody else's while it is remembered:
names are forgotten only when MAX_NAMES are remembered, the one that was not used for the longest time first, and none
that was used within KEEP_S.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from discovery.dns.names import is_host
from discovery.source import Close
from discovery.virtual import Told
from meshd.agent.names.settings import Ranges
from meshd.api.followers import Followers

MAX_NAMES = 65_536

KEEP_S = 7 * 86400.0

FORGOTTEN_AT_ONCE = 64
"""Those that are looked through for one that can be forgotten."""


class Given(NamedTuple):
    """The addresses of a service; `used_at` in seconds since the epoch. No `v6`: there is none."""

    host: str
    v4: str
    v6: str
    used_at: float


class Table:
    """Addresses of `ranges`. `changed` is called when there is something new to remember."""

    def __init__(
        self,
        ranges: Ranges,
        *,
        clock: Callable[[], float] = time.time,
        max_names: int = MAX_NAMES,
    ) -> None:
        self.ranges, self._clock, self._max = ranges, clock, max_names
        self.changed: Callable[[], None] = lambda: None
        self._given: dict[str, Given] = {}  # by host, the one that was used last at the end
        self._hosts: dict[str, str] = {}  # by address
        self._below: Counter[str] = Counter()
        self._watching: dict[str, Followers[[str]]] = {}

    def __len__(self) -> int:
        return len(self._given)

    # --- what is remembered -------------------------------------------------------------------------------------

    def all(self) -> Iterable[Given]:
        """All of them, the one that was used last at the end."""
        return tuple(self._given.values())

    def restore(self, given: Iterable[Given]) -> int:
        """Take over what was remembered, as far as it can be: how many were not."""
        refused = 0
        now = self._clock()
        for each in sorted(given, key=lambda each: each.used_at):
            if self._fits(each):
                self._add(each._replace(used_at=min(each.used_at, now)))
            else:
                refused += 1
        return refused

    def _fits(self, given: Given) -> bool:
        addresses = [address for address in (given.v4, given.v6) if address]
        try:
            kinds = [ip_address(address).version if self.ranges.own(address) else 0 for address in addresses]
        except ValueError:
            return False
        wanted = [4] if self.ranges.v6 is None else [4, 6]
        is_new = given.host not in self._given and not any(address in self._hosts for address in addresses)
        return kinds == wanted and is_new and is_host(given.host) and len(self) < self._max

    # --- names to addresses -------------------------------------------------------------------------------------

    def known(self, host: str) -> Given | None:
        """What stands for the service of that whole name already."""
        return self._used(host)

    def give(self, host: str) -> Given | None:
        """What stands for it, now and from now on; None when all there is stands for others."""
        if (given := self._used(host)) is not None:
            return given
        if len(self) >= self._max and not self._forget():
            return None
        digest = hashlib.sha256(host.encode()).digest()
        v4 = self._free(self.ranges.v4, digest[:8])
        v6 = "" if self.ranges.v6 is None else self._free(self.ranges.v6, digest[8:16])
        if v4 is None or v6 is None:
            return None
        given = Given(host, v4, v6, self._clock())
        self._add(given)
        self.changed()
        self._tell(given, host)
        return given

    def is_above(self, host: str) -> bool:
        """Whether a name that is known ends in `.host`."""
        return self._below[host] > 0

    def _used(self, host: str) -> Given | None:
        given = self._given.pop(host, None)
        if given is not None:
            given = self._given[host] = given._replace(used_at=self._clock())
        return given

    def _free(self, network: IPv4Network | IPv6Network, drawn: bytes) -> str | None:
        """The address that was drawn, or the next that is free; never the network's first, nor its last, which is the
        broadcast address of the whole range."""
        usable = network.num_addresses - 2
        first = int.from_bytes(drawn) % usable
        for step in range(min(len(self) + 1, usable)):
            address = str(network[1 + (first + step) % usable])
            if address not in self._hosts:
                return address
        return None

    def _add(self, given: Given) -> None:
        self._given[given.host] = given
        self._hosts[given.v4] = given.host
        if given.v6:
            self._hosts[given.v6] = given.host
        self._below.update(_above(given.host))

    def _forget(self) -> bool:
        """Have room for another, if there can be."""
        for host in list(self._given)[:FORGOTTEN_AT_ONCE]:
            given = self._given[host]
            if given.used_at > self._clock() - KEEP_S:
                return False
            if given.v4 in self._watching or given.v6 in self._watching:
                self._used(host)
                continue
            del self._given[host]
            self._hosts.pop(given.v4)
            self._hosts.pop(given.v6, None)
            for above in _above(host):
                self._below[above] -= 1
                if not self._below[above]:
                    del self._below[above]
            return True
        return False

    # --- addresses to names (discovery.virtual.Virtual) ---------------------------------------------------------

    def owns(self, address: str) -> bool:
        return self.ranges.own(address)

    def host(self, address: str) -> str:
        return self._hosts.get(address, "")

    def watch(self, address: str, told: Told) -> Close:
        watching = self._watching.setdefault(address, Followers())
        leave = watching.follow(told)
        host = self.host(address)
        self._used(host)
        told(host)

        def close() -> None:
            leave()
            if not watching and self._watching.get(address) is watching:
                del self._watching[address]
                self._used(self.host(address))

        return close

    def _tell(self, given: Given, host: str) -> None:
        for address in (given.v4, given.v6):
            if (watching := self._watching.get(address)) is not None:
                watching.tell(host)


def _above(host: str) -> list[str]:
    """The names that it is below of."""
    labels = host.split(".")
    return [".".join(labels[place:]) for place in range(1, len(labels))]
