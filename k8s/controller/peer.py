"""Who is at the other end of a connection: a sidecar, by the certificate that TLS found good; or nobody yet."""

import asyncio
import ssl
from typing import NamedTuple

from meshd.api.control import CONTROL_ALPN
from meshd.api.names import Identity, InvalidName


class Peer(NamedTuple):
    """`identity` is None without a certificate; `serial` is its certificate's number, in lower-case hexadecimal as the
    CA writes it, which is good until `not_after` (seconds since the epoch). `trouble` says why this can be nobody."""

    address: str
    identity: Identity | None = None
    serial: str = ""
    not_after: float = 0.0
    trouble: str = ""

    @classmethod
    def at(cls, transport: asyncio.BaseTransport) -> "Peer":
        tls = transport.get_extra_info("ssl_object")
        found = transport.get_extra_info("peername")
        address = str(found[0]) if found else "a peer that has gone"
        if tls.selected_alpn_protocol() != CONTROL_ALPN:
            return cls(address, trouble=f"the control API is spoken here, to those who say {CONTROL_ALPN} (ALPN)")
        certificate = tls.getpeercert()
        if not certificate:
            return cls(address)
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        try:
            identity = Identity.parse(names[0] if len(names) == 1 else "")
        except InvalidName as error:
            return cls(address, trouble=f"the certificate is no workload's: {error}")
        if identity.host:
            return cls(address, trouble=f"the certificate is that of the host {identity.host}, and no workload's")
        serial = f"{int(certificate['serialNumber'], 16):032x}"
        return cls(address, identity, serial, float(ssl.cert_time_to_seconds(certificate["notAfter"])))

    def __str__(self) -> str:
        return self.address if self.identity is None else f"{self.identity.workload} at {self.address}"
