"""TLS between proxies: TLS 1.3, ALPN `meshd/1`, certificates of both sides checked against the trust bundle.

A chain that verifies says only that the CA knows the peer. Who it is stands in the SPIFFE ID (the one URI among the
certificate's subject alternative names, X509-SVID section 2), and `peer_of` reads it: the caller compares
it with whom it expects. DNS names are not looked at.
"""

import ssl
from typing import Any, Final, NamedTuple

from meshd.api.control import CONTROL_ALPN, Certificate
from meshd.api.names import Identity, InvalidName, WorkloadName
from meshd.api.tls import present
from proxy.mesh.header import ALPN

HANDSHAKE_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0


class IdentityMismatch(Exception):
    """The peer is not who it must be."""


class NoCertificate(Exception):
    """The workload has none yet, so nothing can be opened in its name."""


class Held(NamedTuple):
    """What a proxy has in its hands for a workload."""

    certificate: Certificate
    key_pem: bytes

    @property
    def pem(self) -> bytes:
        """The key and the chain."""
        return self.key_pem + b"\n" + self.certificate.chain_pem.encode()


class WorkloadContext(ssl.SSLContext):
    """A TLS context that presents one workload's certificate; `workload` says whose."""

    workload: WorkloadName


def context(server: bool, workload: WorkloadName, held: Held, bundle_pem: str) -> WorkloadContext:
    """A context for one side of mesh connections of `workload`. ssl.SSLError where the material does not fit."""
    made = WorkloadContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.workload = workload
    _restrict(made)
    made.load_verify_locations(cadata=bundle_pem)
    present(made, held.pem)
    if server:
        made.num_tickets = 0  # each connection shows its certificate; none resumes on an older one's word
    return made


def control_context(anchors_pem: str, held: Held | None) -> ssl.SSLContext:
    """A context for connections to a cluster's controller, which anchors_pem vouches for; with `held`, the proxy shows
    who it is. ssl.SSLError where the material does not fit."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(made, CONTROL_ALPN)
    made.load_verify_locations(cadata=anchors_pem)
    if held is not None:
        present(made, held.pem)
    return made


def check_bundle(bundle_pem: str) -> None:
    """ValueError where there is no trust bundle in bundle_pem."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bundle_pem)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError("no certificates (PEM)") from error


def _restrict(made: ssl.SSLContext, alpn: str = ALPN) -> None:
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.set_alpn_protocols([alpn])


def listener_context(choose: "ServerContexts") -> ssl.SSLContext:
    """The context an inbound listener starts handshakes with. It has no certificate: the server name asked for chooses
    the workload, and a name of none is answered with the alert `unrecognized_name` (RFC 6066, section 3)."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(made)

    def chosen(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        context = choose.get(name or "")
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None

    made.sni_callback = chosen
    return made


ServerContexts = dict[str, WorkloadContext]
"""TLS server name → the context that presents its workload; replaced entry by entry as certificates are renewed."""


class Peer(NamedTuple):
    """Who a verified certificate is of, and its serial number: lower-case hexadecimal of 32 digits or more, as the CA
    writes it."""

    identity: Identity
    serial: str


def peer_of(connection: Any, alpn: str = ALPN) -> Peer:
    """Who the other end of an `ssl.SSLObject` is. IdentityMismatch where its certificate names no identity of ours, or
    the connection is not the mesh's protocol."""
    if connection.selected_alpn_protocol() != alpn:
        raise IdentityMismatch(f"the peer does not speak {alpn}")
    certificate = connection.getpeercert() or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(names) != 1:
        raise IdentityMismatch(f"the peer's certificate has {len(names)} URI names where it must have one SPIFFE ID")
    try:
        identity = Identity.parse(names[0])
    except InvalidName as error:
        raise IdentityMismatch(f"the peer's certificate names {error}") from error
    return Peer(identity, f"{int(certificate['serialNumber'], 16):032x}")
