"""The short-lived child that makes a workload's private key: `python -m proxy.mesh.keys SPIFFE-ID`.

It prints the key (PKCS #8 PEM) and a certificate request for the identity (PEM) on its standard output, a pipe to the
proxy, and ends. So the key is made where it is used and is never in a file, and the library that makes it (8 MB)
is not resident in the proxy.
"""

import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make(identity: str) -> bytes:
    """A new P-256 key and a request for `identity` signed with it, both PEM, the key first."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    sys.stdout.buffer.write(make(sys.argv[1]))
