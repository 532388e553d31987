"""The names by which applications ask for services.

    authority   HOST[:PORT], as in a URL                    web  web.shop:8080  192.0.2.5:8080  [2001:db8::5]:80
    mesh name   NAME                                        the caller's namespace
                NAME.mesh                                   the caller's namespace
                NAME.NAMESPACE, NAME.NAMESPACE.mesh
                NAME.NAMESPACE.svc, NAME.NAMESPACE.svc.cluster.local

Letters' case and a dot at the end make no difference (RFC 4343; RFC 1034, section 3.1). A host of any other form, such
as `web.shop.example`, is no mesh name: a back end either claims it by a form of its own, or nobody does.
"""

import re
from typing import NamedTuple, Self

from meshd.api.names import InvalidName, canonical_address, check_label, is_label

MAX_AUTHORITY_BYTES = 262
"""A DNS name (253 and a dot) or an address in brackets, and `:65535`."""

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/@\s]+))(?::(?P<port>[0-9]{1,5}))?")

_SUFFIXES: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    (("svc", "cluster", "local"), (2,)),
    (("svc",), (2,)),
    (("mesh",), (1, 2)),
    ((), (1, 2)),
)
"""What may follow NAME[.NAMESPACE], and how many labels it may follow; the first that fits is meant."""


class Authority(NamedTuple):
    """What an application asked for, where it asked from. `address` is the host when that is an IP address."""

    host: str
    port: int | None
    namespace: str
    address: str = ""

    @classmethod
    def parse(cls, text: str, namespace: str) -> Self:
        """The authority that text spells for a caller in namespace; InvalidName when it is not HOST[:PORT], or there is
        no such namespace."""
        check_label(namespace, "namespace")
        found = _AUTHORITY.fullmatch(text) if len(text) <= MAX_AUTHORITY_BYTES else None
        if found is None:
            raise InvalidName(f"{text[:MAX_AUTHORITY_BYTES]!r} is not HOST or HOST:PORT, as in web.default:80")
        port = None if found["port"] is None else int(found["port"])
        if port is not None and not 1 <= port <= 65535:
            raise InvalidName(f"{text!r}: a port is 1 to 65535")
        host = (found["v6"] or found["host"].removesuffix(".")).lower()
        address = canonical_address(host)
        if found["v6"] and not address:
            raise InvalidName(f"{text!r}: what stands in brackets is no IPv6 address")
        return cls(address or host, port, namespace, address)


def mesh_name(authority: Authority) -> tuple[str, str] | None:
    """(name, namespace) when the host is a mesh name, else None."""
    if authority.address:
        return None
    labels = tuple(authority.host.split("."))
    for suffix, lengths in _SUFFIXES:
        rest = labels[: len(labels) - len(suffix)]
        if labels[len(rest) :] == suffix and len(rest) in lengths and all(map(is_label, rest)):
            return rest[0], rest[1] if len(rest) == 2 else authority.namespace
    return None
