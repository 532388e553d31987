"""Names in the mesh: workloads, services, and the SPIFFE identities they map to.

    workload   NAMESPACE/NAME                              default/web
    identity   spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME  spiffe://prod.example/ns/default/sa/web
    host       spiffe://TRUST-DOMAIN/node/HOST             spiffe://prod.example/node/vm1

A NAME or NAMESPACE is a DNS label (RFC 1123, section 2.1), so that the same word is good in a URI, in a TLS server
name and in a Kubernetes object. Identities follow the SPIFFE-ID specification, section 2; of its syntax only the
two shapes above are accepted, because every other shape is somebody else's.
"""

import re
from ipaddress import ip_address
from typing import NamedTuple, Self

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SPIFFE = re.compile(r"spiffe://([a-z0-9.-]{1,255})/(?:ns/([^/]+)/sa/([^/]+)|node/([^/]+))")

DEFAULT_NAMESPACE = "default"


class InvalidName(ValueError):
    """A name that is not of its form; the message says which form was expected."""


def is_label(text: str) -> bool:
    """Whether text is a DNS label: 1 to 63 of a-z, 0-9 and '-', not at an end."""
    return _LABEL.fullmatch(text) is not None


def is_trust_domain(text: str) -> bool:
    """Whether text is one or more DNS labels joined by dots, 255 characters at most."""
    return len(text) <= 255 and all(is_label(label) for label in text.split("."))


def check_label(text: str, what: str) -> str:
    """text itself; InvalidName when it is not a DNS label. `what` names it in the message."""
    if not is_label(text):
        raise InvalidName(
            f"{what} {text!r} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'"
        )
    return text


class WorkloadName(NamedTuple):
    """One kind of process: what gets an identity. Written NAMESPACE/NAME; a bare NAME is in `default`."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str, namespace: str = DEFAULT_NAMESPACE) -> Self:
        """The workload that text names; InvalidName when a part is not a DNS label."""
        space, slash, name = text.rpartition("/")
        return cls(check_label(space if slash else namespace, "namespace"), check_label(name, "workload name"))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Identity(NamedTuple):
    """A SPIFFE identity of one of the two shapes that meshd issues; `host` is empty for a workload's."""

    trust_domain: str
    namespace: str
    name: str
    host: str = ""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The identity that uri spells; InvalidName when it is not one of ours."""
        found = _SPIFFE.fullmatch(uri)
        if found is None or not is_trust_domain(found[1]):
            raise InvalidName(
                f"{uri!r} is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME or spiffe://TRUST-DOMAIN/node/HOST"
            )
        domain, namespace, name, host = found.groups()
        if host is not None:
            return cls(domain, "", "", check_label(host, "host"))
        return cls(domain, check_label(namespace, "namespace"), check_label(name, "workload name"))

    @classmethod
    def of(cls, trust_domain: str, workload: WorkloadName) -> Self:
        return cls(trust_domain, workload.namespace, workload.name)

    @classmethod
    def of_host(cls, trust_domain: str, host: str) -> Self:
        return cls(trust_domain, "", "", host)

    @property
    def workload(self) -> WorkloadName:
        return WorkloadName(self.namespace, self.name)

    @property
    def server_name(self) -> str:
        """The TLS server name (SNI) under which a proxy presents this identity."""
        if self.host:
            return f"{self.host}.node.{self.trust_domain}"
        return f"{self.name}.{self.namespace}.sa.{self.trust_domain}"

    def __str__(self) -> str:
        if self.host:
            return f"spiffe://{self.trust_domain}/node/{self.host}"
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.name}"


class Address(NamedTuple):
    """A TCP address as written in settings: HOST:PORT, or [HOST]:PORT for IPv6."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that text spells; InvalidName when a part is missing or the port is not 0 to 65535."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise InvalidName(f"{text!r}: an IPv6 address is written in brackets, as in [::1]:4140")
        if not colon or not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise InvalidName(f"{text!r} is not HOST:PORT, as in 127.0.0.1:4140")
        return cls(host, int(port))

    @property
    def by_ipv6(self) -> Self | None:
        """The same by IPv6, of one that is for the whole loopback or for every interface by IPv4; None of others."""
        other = {"127.0.0.1": "::1", "0.0.0.0": "::"}.get(self.host)  # noqa: S104 - compared with, not bound
        return None if other is None else self._replace(host=other)

    @property
    def everywhere(self) -> tuple[Self, ...]:
        """All that a listener there is for: one of every interface by IPv4 is one by IPv6 too."""
        other = self.by_ipv6 if self.host == "0.0.0.0" else None  # noqa: S104 - compared with, not bound
        return (self,) if other is None else (self, other)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_another_hosts(text: str) -> bool:
    """Whether text is an IP address that can be another host's: not loopback, link-local and the like."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return not (
        plain.is_loopback
        or plain.is_unspecified
        or plain.is_link_local
        or plain.is_multicast
        or getattr(address, "scope_id", None)
    )


def canonical_address(text: str) -> str:
    """The one spelling of an IP address, empty when text is none. An IPv4 address in one of IPv6 (::ffff:192.0.2.1) is
    as it is in IPv4, where the kernel goes: nothing is to be another place by its spelling."""
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)
