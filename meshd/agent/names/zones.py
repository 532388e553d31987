"""Which names are the mesh's, and what each of them means. Pure: names in, meanings out.

    mesh, svc, …                     a domain itself
    api.mesh, api.shop.mesh,
    api.shop.svc[.cluster.local]     a service: one service, however it is written
    web.service.consul, …            a name of another form, which discovery may know or not
    shop.svc                         a namespace, perhaps
    3.2.1.240.in-addr.arpa           the address of a service

All else is not the mesh's.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

import dns.exception
import dns.name
from dns.name import Name

from discovery.dns.names import is_host
from meshd.agent.names.settings import Ranges
from meshd.api.names import is_label

_V4, _V6 = dns.name.from_text("in-addr.arpa."), dns.name.from_text("ip6.arpa.")


class Place(NamedTuple):
    """What a name means, and in which `zone` it is. Of a service `host` is its whole name, as it is asked of discovery
    and remembered. `above`: what the whole names end in that are below the name, where there can be any."""

    zone: Name
    kind: Literal["apex", "service", "above", "address", "nothing"]
    host: str = ""
    address: str = ""
    above: str = ""


class Zones:
    """The `domains` and the reverse zones of `ranges`; a service without a namespace is in `namespace`."""

    def __init__(self, domains: Sequence[str], ranges: Ranges, namespace: str) -> None:
        names = [dns.name.from_text(domain) for domain in domains]
        self._zones = sorted(names, key=len, reverse=True)  # the longest that fits is meant
        self._ranges, self._namespace = ranges, namespace

    def place(self, name: Name) -> Place | None:
        """What name means; None where it is not the mesh's."""
        for zone in self._zones:
            if name.is_subdomain(zone):
                return self._in(zone, name)
        if name.is_subdomain(_V4):
            return self._reverse(name, _V4)
        return self._reverse(name, _V6) if name.is_subdomain(_V6) else None

    def _in(self, zone: Name, name: Name) -> Place:
        host, suffix = _text(name), _text(zone)
        if name == zone:
            return Place(zone, "apex")
        if not is_host(host):
            return Place(zone, "nothing")
        labels = host.removesuffix(f".{suffix}").split(".")
        if suffix not in ("mesh", "svc", "svc.cluster.local"):
            return Place(zone, "service", host, above=host)
        if all(map(is_label, labels)):
            if len(labels) == 2:
                return Place(zone, "service", f"{labels[0]}.{labels[1]}.mesh")
            if len(labels) == 1 and suffix == "mesh":
                return Place(zone, "service", f"{labels[0]}.{self._namespace}.mesh", above=f"{labels[0]}.mesh")
            if len(labels) == 1:
                return Place(zone, "above", above=f"{labels[0]}.mesh")
        return Place(zone, "service", host) if len(labels) > 2 else Place(zone, "nothing")

    def _reverse(self, name: Name, root: Name) -> Place | None:
        """An address, or what is above some, its labels being the address's digits from the last to the first."""
        network = self._ranges.v4 if root is _V4 else self._ranges.v6
        if network is None:
            return None
        bits, digits = (8, 4) if root is _V4 else (4, 32)
        needed = -(-network.prefixlen // bits)
        labels = _text(name.relativize(root)).split(".")[::-1]
        if len(labels) < needed:
            return None
        zone = Name((*name.labels[len(labels) - needed :],))
        values = [_digit(label, bits) for label in labels]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or len(values) > digits:
            inside = None not in values[:needed] and self._address(values[:needed], bits, digits) in network
            return Place(zone, "nothing") if inside else None
        address = self._address(known, bits, digits)
        if address not in network:
            return None
        if len(known) == digits:
            return Place(zone, "address", address=str(address))
        return Place(zone, "apex") if len(known) == needed else Place(zone, "above")

    @staticmethod
    def _address(values: Sequence[int | None], bits: int, digits: int) -> IPv4Address | IPv6Address:
        number = 0
        for value in (*values, *[0] * (digits - len(values))):
            number = number << bits | (value or 0)
        return IPv4Address(number) if digits == 4 else IPv6Address(number)


def _text(name: Name) -> str:
    """In small letters, without a dot at the end; what is no text is none of ours, and spelt so."""
    try:
        return name.to_text(omit_final_dot=True).lower()
    except (dns.exception.DNSException, UnicodeError):
        return "?"


def _digit(label: str, bits: int) -> int | None:
    """One label of a reverse name as its number, spelt as it is spelt."""
    if bits == 8:
        is_good = label.isascii() and label.isdigit() and len(label) <= 3 and str(int(label)) == label
        return int(label) if is_good and int(label) < 256 else None
    return int(label, 16) if len(label) == 1 and label in "0123456789abcdef" else None
