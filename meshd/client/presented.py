"""The certificate that a proxy presents for a workload, as it is presented now.

TLS 1.3 has the server prove itself first. Once it has, the connection is given up: whoever looks has no certificate to
answer with, and needs none for this. Nothing is sent after, so that nothing of it can be taken for a peer.
"""

import socket
import ssl
from typing import Final

from cryptography import x509

from meshd.api.names import Address
from meshd.api.problems import Problem

WITHIN_S: Final = 5.0

MAX_HANDSHAKE_BYTES: Final = 64 << 10


def presented(address: Address, server_name: str) -> x509.Certificate:
    """What the proxy at address presents to those who ask for server_name; Problem when there is no answer. It is not
    verified: it is to be looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    received = 0
    try:
        with socket.create_connection(address, WITHIN_S) as connection:
            while not _shaken(tls):
                connection.sendall(outgoing.read())
                part = connection.recv(16 << 10)
                received += len(part)
                if not part or received > MAX_HANDSHAKE_BYTES:
                    raise Problem(f"{address}: presents no certificate for {server_name}")
                incoming.write(part)
    except ssl.SSLError as error:
        raise Problem(f"{address}: presents no certificate for {server_name}: {error.reason}") from error
    except OSError as error:
        raise Problem(f"{address}: the proxy of {server_name} does not answer: {error.strerror or error}") from error
    certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None  # TLS 1.3 has no server without one
    return x509.load_der_x509_certificate(certificate)


def _shaken(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
