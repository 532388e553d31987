"""The short-lived child that does what needs an X.509 library, so that the proxy need not hold one (8 MB).

    python -m proxy.mesh.keys make SPIFFE-ID    a new key (PKCS #8 PEM), and a certificate request for the identity
    python -m proxy.mesh.keys life              from when to when the certificate on standard input is good (epoch s)

What it prints goes through a pipe to the proxy: a key is made where it is used and is never in a file.
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


def life(chain_pem: bytes) -> tuple[float, float]:
    """The validity of the first certificate in chain_pem, in seconds since the epoch. ValueError for anything else."""
    leaf = x509.load_pem_x509_certificate(chain_pem)
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        sys.stdout.buffer.write(make(sys.argv[2]))
    else:
        try:
            print(*life(sys.stdin.buffer.read()))
        except ValueError as error:
            sys.exit(str(error))
