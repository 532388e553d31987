"""Certificate signing requests, as a proxy makes them, and as it must not."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes


def csr(
    key: CertificateIssuerPrivateKeyTypes | None = None,
    names: Sequence[x509.GeneralName] = (),
    subject: x509.Name | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> str:
    """A request (PEM) of `key`, else of a new one. As it stands it names nobody: who it is for is said beside it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()
