"""Certificates of every kind, the wrong ones too: made here, and not by the CA of the product, which would refuse."""

import datetime
import ssl
import time
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshd.api.control import Certificate
from meshd.api.names import Identity
from proxy.mesh.tls import Held

TRUST_DOMAIN = "mesh.example"


def identity(name: str, trust_domain: str = TRUST_DOMAIN) -> str:
    """The SPIFFE ID of a workload in the namespace `default`."""
    return str(Identity(trust_domain, "default", name))


class Root:
    """A root certificate, and leaves straight below it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a root for tests")])
        public = self._key.public_key()
        self._certificate = (
            _builder(name, name, public, -3600.0, 86400.0)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle_pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def held(self, *uris: str, hosts: tuple[str, ...] = (), begins_s: float = -60.0, ends_s: float = 3600.0) -> Held:
        """A certificate that names `uris` and `hosts` (DNS names), good from and to so many seconds from now, and its
        key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(x509.Name([]), self._certificate.subject, key.public_key(), begins_s, ends_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(host) for host in hosts]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        chain = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        now = time.time()
        return Held(Certificate(chain, now + begins_s, now + ends_s), private)


def write(held: Held, directory: Path, name: str) -> None:
    """Lay NAME.pem and NAME.key into directory."""
    (directory / f"{name}.pem").write_text(held.certificate.chain_pem)
    (directory / f"{name}.key").write_bytes(held.key_pem)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins_s: float, ends_s: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=begins_s))
        .not_valid_after(now + datetime.timedelta(seconds=ends_s))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def shaken(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None) -> tuple[ssl.SSLObject, ...]:
    """Both sides after a whole handshake in memory, the client's first, for a server of that name. ssl.SSLError when
    one side refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return here, there
