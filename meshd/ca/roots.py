"""What CAs on one store believe of each other about roots and issuers, whoever else may write to that store.

    the roots     are signed by the keys of the roots themselves. A CA takes those alone that a root has signed which it
                  has itself, and never an older version of them than it has
    an issuer     is asked for with a signature by the issuer until then, which a root in the bundle has signed; the one
                  with the root's key signs for no one else

So who can write to the store, and has no key of a CA, makes neither a root nor an issuer. What is signed is text that
begins with what it is for, and is signed with ECDSA and SHA-256. The first issuer of a CA is an operator's to sign
(`meshd ca sign-intermediate`). The counterpart that does all this in time is `meshd.ca.sharing`.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.certificates import KeyPair, Life
from meshd.ca.records import IssuerRequest, SignedRoots

MOST_ROOTS = 8


def key_hash(certificate: x509.Certificate) -> str:
    """What stands for a root in records: hexadecimal."""
    return certificates.key_hash(certificate.public_key()).hex()


def read_certificates(text: str, what: str) -> list[x509.Certificate]:
    """Those in a record that anybody may have written (PEM); Problem when there are none."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise Problem(f"{what} on the store cannot be read") from error


def signed(trust_domain: str, number: int, bundle_pem: str, pairs: Sequence[KeyPair]) -> SignedRoots:
    """The bundle as that version of it, signed by these."""
    text = _roots_text(trust_domain, number, bundle_pem)
    return SignedRoots(number, bundle_pem, {key_hash(pair.certificate): _sign(pair.key, text) for pair in pairs})


def check(roots: SignedRoots, trust_domain: str, known: Sequence[x509.Certificate]) -> None:
    """Problem when none of the known roots has signed these, or one of them is no root of the trust domain."""
    text = _roots_text(trust_domain, roots.number, roots.bundle_pem)
    if not any(_is_signed(root, roots.signatures.get(key_hash(root), ""), text) for root in known):
        raise Problem(
            "the roots on the store are vouched for by none that this CA has: if they were changed while it was away, "
            "have its issuer.csr signed anew (`meshd ca sign-intermediate`) and copy bundle.pem of another CA"
        )
    found = read_certificates(roots.bundle_pem, "the roots")
    if len(found) > MOST_ROOTS or any(certificates.trust_domain_in(root) not in {"", trust_domain} for root in found):
        raise Problem(f"the roots on the store are not those of {trust_domain}, or too many")


def asked(
    trust_domain: str, key: ec.EllipticCurvePrivateKey, root: str, issuer: x509.Certificate, issuer_key: object
) -> IssuerRequest:
    """A request for an issuer with this key. Problem when the issuer until now has a key of a kind that does not do."""
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise Problem("the issuer's key is not ECDSA: have the next one signed by `meshd ca sign-intermediate`")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr_pem = request.public_bytes(Encoding.PEM).decode()
    signature = _sign(issuer_key, _request_text(trust_domain, root, csr_pem))
    return IssuerRequest(csr_pem, root, certificates.pem(issuer).decode(), signature)


def request_hash(request: IssuerRequest) -> str:
    return hashlib.sha256("\0".join((request.root, request.csr_pem)).encode()).hexdigest()


def read_request(
    request: IssuerRequest, trust_domain: str, known: Sequence[x509.Certificate], now: float
) -> x509.CertificateSigningRequest:
    """What is to be signed. Problem when who asks is no issuer below one of the known roots, or not one now."""
    try:
        issuer = x509.load_pem_x509_certificate(request.issuer_pem.encode())
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise Problem("the request for an issuer cannot be read") from error
    life = Life.of(issuer)
    if not (is_authority and life.not_before <= now < life.not_after and any(is_below(issuer, root) for root in known)):
        raise Problem("the request for an issuer is not from one below a root that is believed")
    if not _is_signed(issuer, request.signature, _request_text(trust_domain, request.root, request.csr_pem)):
        raise Problem("the request for an issuer is not signed by the issuer that it says it is from")
    return csr


def is_below(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _roots_text(trust_domain: str, number: int, bundle_pem: str) -> bytes:
    return f"meshd-ca roots v1\0{trust_domain}\0{number}\0{bundle_pem}".encode()


def _request_text(trust_domain: str, root: str, csr_pem: str) -> bytes:
    return f"meshd-ca issuer request v1\0{trust_domain}\0{root}\0{csr_pem}".encode()


def _sign(key: ec.EllipticCurvePrivateKey, text: bytes) -> str:
    return base64.b64encode(key.sign(text, ec.ECDSA(hashes.SHA256()))).decode()


def _is_signed(signer: x509.Certificate, signature: str, text: bytes) -> bool:
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), text, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
