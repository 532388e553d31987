"""The four kinds of certificate, field by field (RFC 5280; X509-SVID for the first three).

    root     10 years   CA, pathlen 2    spiffe://TRUST-DOMAIN
    issuer   1 year     CA, pathlen 0    spiffe://TRUST-DOMAIN
    leaf     24 hours   not CA           the SPIFFE ID and no other name; for both sides of TLS. A node's: 7 days
    server   24 hours   not CA           DNS names and addresses, no SPIFFE ID: for the CA's own HTTPS alone

The subject of a leaf is empty, so there is no second name to disagree with the SPIFFE ID; its alternative name is
critical for that reason (RFC 5280, section 4.2.1.6). A leaf has no DNS name: no workload can be taken for the CA.

There are no name constraints. A URI constraint on the trust domain would be honoured by OpenSSL, but verifiers on
rustls-webpki reject every chain that has one (RUSTSEC-2026-0098), and those are the peers a mesh has outside
itself. What an issuer may sign is held by the rules in `meshd.ca.rules`; peers compare whole SPIFFE IDs.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshd.api.names import is_trust_domain

ROOT_LIFE_S: Final = 3652 * 86400.0
ISSUER_LIFE_S: Final = 365 * 86400.0
LEAF_LIFE_S: Final = 86400.0
NODE_LIFE_S: Final = 7 * 86400.0
ROOT_PATH_LENGTH: Final = 2
"""Below a root are issuers, and for a while the root that follows it, with issuers of its own (`certify_root`)."""

BACKDATE_S: Final = 60.0
"""How far before now a certificate begins, for verifiers whose clocks are slow."""


class Life(NamedTuple):
    """From when to when, in seconds since the epoch."""

    not_before: float
    not_after: float

    @classmethod
    def starting(cls, now: float, life_s: float) -> "Life":
        return cls(now - BACKDATE_S, now + life_s)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Life":
        return cls(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())

    def is_due(self, now: float) -> bool:
        """Whether it is time for a successor: two thirds of the life are over."""
        return now >= self.not_before + (self.not_after - self.not_before) * 2 / 3


class KeyPair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Issuer(NamedTuple):
    """What leaves are signed with: made here (ECDSA P-256), or by someone else. `above` are the certificates between it
    and the root, the nearest first."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    above: tuple[x509.Certificate, ...] = ()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_root(trust_domain: str, life: Life) -> KeyPair:
    """A root of trust_domain, signed by itself."""
    key = new_key()
    name = _ca_name("root", key.public_key())
    certificate = _ca(trust_domain, name, name, key.public_key(), life, ROOT_PATH_LENGTH).sign(key, hashes.SHA256())
    return KeyPair(certificate, key)


def make_issuer(trust_domain: str, root: KeyPair, life: Life) -> Issuer:
    """An issuer of trust_domain with a new key, signed by root."""
    key = new_key()
    return Issuer(certify_issuer(trust_domain, key.public_key(), root, life), key)


def certify_issuer(
    trust_domain: str, public_key: ec.EllipticCurvePublicKey, root: KeyPair, life: Life
) -> x509.Certificate:
    """The certificate of an issuer of trust_domain whose key is somewhere else."""
    name = _ca_name("issuer", public_key)
    return _sign(_ca(trust_domain, name, root.certificate.subject, public_key, life, 0), root)


def certify_root(trust_domain: str, root: x509.Certificate, before: KeyPair, life: Life) -> x509.Certificate | None:
    """The root that follows `before` as a certificate below that: who knows only the root before believes it too. None
    where a root has not room for it: its path may be too short, or it was not made here."""
    key = root.public_key()
    constraints = before.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    has_room = constraints.path_length is None or constraints.path_length >= ROOT_PATH_LENGTH
    if not has_room or not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    return _sign(_ca(trust_domain, root.subject, before.certificate.subject, key, life, 1), before)


def make_leaf(
    spiffe_id: str, public_key: CertificatePublicKeyTypes, issuer: Issuer | KeyPair, life: Life
) -> x509.Certificate:
    """A workload's certificate."""
    names = [x509.UniformResourceIdentifier(spiffe_id)]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _sign(_end_entity(names, usages, public_key, issuer, life), issuer)


def make_server(names: Sequence[str], issuer: Issuer | KeyPair, life: Life) -> KeyPair:
    """The CA's certificate for its own HTTPS server, reached by `names`: DNS names and IP addresses."""
    key = new_key()
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    builder = _end_entity([_server_name(name) for name in names], usages, key.public_key(), issuer, life)
    return KeyPair(_sign(builder, issuer), key)


def trust_domain_in(certificate: x509.Certificate) -> str:
    """The trust domain that a CA certificate says it is of (X509-SVID, section 4.2); empty when it says none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return ""
    trust_domain = uri.removeprefix("spiffe://")
    return trust_domain if trust_domain != uri and is_trust_domain(trust_domain) else ""


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS #8 in PEM, encrypted when there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def key_hash(key: CertificatePublicKeyTypes) -> bytes:
    """What stands for a public key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280, section 4.1)."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key.public_bytes(*form)).digest()


def bundle_hash(bundle_pem: str) -> str:
    """What stands for a trust bundle, in whatever order its roots are: hexadecimal."""
    roots = x509.load_pem_x509_certificates(bundle_pem.encode())
    return hashlib.sha256(b"".join(sorted(root.fingerprint(hashes.SHA256()) for root in roots))).hexdigest()


def serial(certificate: x509.Certificate) -> str:
    """As it is stored and logged: lower-case hexadecimal."""
    return f"{certificate.serial_number:032x}"


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _ca_name(role: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    """Names the key too, so that two issuers of one trust domain can be told apart. The trust domain is in the URI: it
    may be longer than a common name (64 characters, RFC 5280 appendix A.1)."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key).digest
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshd"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{role} {digest[:4].hex()}"),
        ]
    )


def _ca(
    trust_domain: str,
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    life: Life,
    path_length: int,
) -> x509.CertificateBuilder:
    names = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
    return (
        _certificate(subject, issuer, key, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def _end_entity(
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    public_key: CertificatePublicKeyTypes,
    issuer: Issuer | KeyPair,
    life: Life,
) -> x509.CertificateBuilder:
    return (
        _certificate(x509.Name([]), issuer.certificate.subject, public_key, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: CertificatePublicKeyTypes, life: Life
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer, subject, public_key)
        .serial_number(secrets.randbits(127) | 1 << 126)  # positive, and of one length: 16 octets
        .not_valid_before(datetime.fromtimestamp(int(life.not_before), UTC))
        .not_valid_after(datetime.fromtimestamp(int(life.not_after), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, by: Issuer | KeyPair) -> x509.Certificate:
    identifier = by.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return builder.add_extension(authority, critical=False).sign(by.key, hashes.SHA256())


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
