"""An issuer below a root that is elsewhere: offline, or another system's.

    offline   `meshd ca init --root-only` where the root stays, `meshd ca init --bundle` here; `sign-intermediate` there
    another   the files that it renews (a cert-manager secret, Vault agent): `issuer` of the settings names them

Key and chain are two files. They are looked at again and again, and used as soon as both fit; until then, and when they
are not good, the issuer before stays in use. Nothing here renews an issuer: who has the root does, and the log says
when it is time. The chain begins with the issuer's own certificate and may end with the root or below it.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtensionOID

from meshd.api.names import is_trust_domain
from meshd.api.problems import Problem
from meshd.ca import certificates, files
from meshd.ca.certificates import Issuer, KeyPair, Life
from meshd.ca.files import CaFiles
from meshd.ca.material import Material, when

MOST_CERTIFICATES = 8
"""In a chain: all of it goes to every peer in every handshake."""


_IDENTIFIERS: Final = {
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: "subject",
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: "authority",
}
"""What RFC 5280, sections 4.2.1.1 and 4.2.1.2, asks of a CA's certificate; a root need not have the latter."""


class IssuerFiles(NamedTuple):
    """Where key and chain (PEM) are."""

    key: Path
    chain: Path

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """What differs when one of them was replaced or written to; empty parts for one that is not there."""
        return tuple(_state(file) for file in self)


def prepare(paths: CaFiles, trust_domain: str, bundle_pem: bytes) -> None:
    """A key for an issuer of trust_domain below a root in the bundle, and what its certificate is asked for with.
    Problem when the bundle holds no root, or one of another trust domain."""
    believed = check_bundle(bundle_pem, trust_domain)
    files.write(paths.issuer, certificates.key_pem(certificates.new_key(), paths.passphrase))
    write_request(paths)
    files.write(paths.trust_domain, trust_domain.encode() + b"\n", mode=0o644)
    files.write(paths.bundle, believed.encode(), mode=0o644)


def check_bundle(bundle_pem: bytes, trust_domain: str) -> str:
    """The roots in a bundle, and nothing else that is in it. Problem as of `prepare`."""
    roots = _certificates(bundle_pem, "the bundle")
    for root in roots:
        if (other := certificates.trust_domain_in(root)) not in {"", trust_domain}:
            raise Problem(f"the bundle holds the root of {other}, and this CA is to be of {trust_domain}")
    return b"".join(map(certificates.pem, roots)).decode()


def write_request(paths: CaFiles) -> None:
    """What the certificate of the issuer whose key is here is asked for with."""
    key = _key(paths.issuer, paths.passphrase)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    data = request.public_bytes(Encoding.PEM)
    files.write(paths.issuer_request, data, mode=0o644, owner_of=paths.directory)


def load(paths: CaFiles, where: IssuerFiles, now: float) -> Material:
    """What is in the files. Problem when one is missing or not what it should be, or they do not fit each other and a
    root of the bundle now."""
    trust_domain = files.read(paths.trust_domain).decode("ascii", "replace").strip()
    if not is_trust_domain(trust_domain):
        raise Problem(f"{paths.trust_domain}: holds no trust domain: restore it from a copy")
    if not where.chain.exists() and where.chain == paths.issuer_chain:
        raise Problem(
            f"{where.chain}: is missing: have {paths.issuer_request} signed where the root is "
            f"(`meshd ca sign-intermediate`), and put the certificate there"
        )
    made = read(trust_domain, files.read(paths.bundle), str(paths.bundle), where, now, paths.passphrase)
    if files.read(paths.bundle).decode("ascii", "replace") != made.bundle_pem:
        files.write(paths.bundle, made.bundle_pem.encode(), mode=0o644)
    return made


def read(
    trust_domain: str, bundle_pem: bytes, bundle: str, where: IssuerFiles, now: float, passphrase: bytes | None = None
) -> Material:
    """An issuer of trust_domain in the files at `where`, below a root in a bundle, as `load` has it, and with the same
    Problems; `bundle` is what messages call that."""
    roots = _certificates(bundle_pem, bundle)
    chain = _certificates(files.read(where.chain), str(where.chain))
    key = _key(where.key, passphrase)
    if chain[0].public_key() != key.public_key():
        raise Problem(f"{where.chain}: its first certificate is not of the key in {where.key}")
    above, root = _path(chain, roots, where.chain, bundle)
    for certificate in (chain[0], *above, root):
        _check_issuer(certificate, where.chain, now)
    if (other := certificates.trust_domain_in(chain[0])) not in {"", trust_domain}:
        raise Problem(f"{where.chain}: the issuer is of {other}, and this CA of {trust_domain}")
    roots.sort(key=lambda each: each != root)  # stable: the one in use goes first, by which join tokens name the CA
    ordered = b"".join(map(certificates.pem, roots)).decode()
    return Material(trust_domain, root, Issuer(chain[0], key, above), ordered)


def certify(root: KeyPair, trust_domain: str, csr: x509.CertificateSigningRequest, life: Life) -> x509.Certificate:
    """The certificate of an intermediate, for the key that signed the CSR; nothing else in that is looked at. Problem
    when it is not to be signed."""
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise Problem("the request's key is not ECDSA P-256 or P-384")
    if not csr.is_signature_valid:
        raise Problem("the request's signature does not fit its key")
    within = Life(life.not_before, min(life.not_after, Life.of(root.certificate).not_after))
    return certificates.certify_issuer(trust_domain, key, root, within)


def _path(
    chain: list[x509.Certificate], roots: list[x509.Certificate], file: Path, bundle: str
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """What is between the chain's first certificate and a root, and that root."""
    for index, certificate in enumerate(chain):
        for root in roots:
            if _is_signed_by(certificate, root):
                return tuple(chain[1 : index + 1 + _is_again(chain[index + 1 :], root)]), root
        if index + 1 < len(chain) and not _is_signed_by(certificate, chain[index + 1]):
            raise Problem(f"{file}: certificate {index + 1} is not signed by the one after it")
    raise Problem(f"{file}: does not lead to a root in {bundle}")


def _is_again(after: list[x509.Certificate], root: x509.Certificate) -> bool:
    """Whether the chain goes on with the root itself as a certificate below another, for who knows only that one."""
    return bool(after) and after[0].public_key() == root.public_key() and after[0].issuer != root.issuer


def _is_signed_by(certificate: x509.Certificate, other: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(other)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_issuer(certificate: x509.Certificate, file: Path, now: float) -> None:
    name = certificate.subject.rfc4514_string() or "a certificate"
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        may_sign = is_ca and certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        may_sign = False
    if not may_sign:
        raise Problem(f"{file}: {name} may not sign certificates (basicConstraints CA, keyUsage keyCertSign)")
    for needed, its_name in _IDENTIFIERS.items():
        if not _has(certificate, needed) and (certificate.issuer != certificate.subject or its_name == "subject"):
            raise Problem(f"{file}: {name} has no {its_name} key identifier, and strict verifiers refuse all below it")
    life = Life.of(certificate)
    if not life.not_before <= now < life.not_after:
        raise Problem(f"{file}: {name} is good from {when(life.not_before)} to {when(life.not_after)}, not now")


def _has(certificate: x509.Certificate, extension: x509.ObjectIdentifier) -> bool:
    return any(each.oid == extension for each in certificate.extensions)


def _certificates(content: bytes, what: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise Problem(f"{what}: holds no certificate (PEM)") from error
    if len(found) > MOST_CERTIFICATES:
        raise Problem(f"{what}: holds {len(found)} certificates, and {MOST_CERTIFICATES} is the most")
    return found


def _key(file: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """The key; it may be another user's to write, and a group's to read, as a cluster's secrets are, but not
    everyone's. It is decrypted with the passphrase when it is encrypted."""
    content = files.read(file)
    if file.stat().st_mode & 0o007:
        raise Problem(
            f"{file}: holds a private key that everyone on this host can read: see who may have, then `chmod o=`"
        )
    try:
        key = load_pem_private_key(content, passphrase if b"ENCRYPTED" in content else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Problem(f"{file}: holds no private key (PEM) that can be read") from error
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPrivateKey(key_size=bits) if 2048 <= bits <= 8192:
            return key
        case _:
            raise Problem(f"{file}: the key is neither ECDSA P-256 or P-384 nor RSA of 2048 to 8192 bits")


def _state(file: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
