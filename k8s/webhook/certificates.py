"""The webhook's own authority: a root that the API server believes for this one name, and certificates from it. Pure.

    issuer      signs now
    following   the next issuer: believed already, and signs nothing yet
    previous    the last one: signs no more, and is believed until it expires

The API server is told of all of them (`caBundle`), so that none of its calls meets a certificate that it does not
believe yet, or no more: an issuer signs only when its own certificate has been in the webhook configurations for
SPREAD_S. All replicas share what is here, in a Secret; the certificates that they show are each one's own, and short.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshd.ca.certificates import KeyPair, Life, key_pem, make_server, new_key, pem

AUTHORITY_LIFE_S: Final = 365 * 86400.0
SERVING_LIFE_S: Final = 86400.0
BACKDATE_S: Final = 3600.0
"""For an API server whose clock is slow."""
SPREAD_S: Final = 600.0
"""In which every API server has heard of a new bundle; they watch the configurations, so that it takes seconds."""


class Unreadable(ValueError):
    """The Secret holds something else than what was put there."""


class Authority(NamedTuple):
    """What all replicas share."""

    issuer: KeyPair
    following: KeyPair | None = None
    previous: x509.Certificate | None = None

    @property
    def bundle(self) -> bytes:
        """What is to be believed, PEM, in an order that does not change when the next becomes the issuer."""
        pair = [each.certificate for each in (self.issuer, self.following) if each is not None]
        known = [*pair, *([self.previous] if self.previous else [])]
        return b"".join(pem(each) for each in sorted(known, key=lambda each: each.not_valid_before_utc))


def begun(name: str, now: float) -> Authority:
    return Authority(_root(name, now))


def kept(authority: Authority, name: str, now: float) -> Authority:
    """What it is to be now: one that follows where the issuer is in its last third, and none that has expired. The same
    where there is nothing to do; anew where nobody looked for so long that the issuer has expired."""
    if Life.of(authority.issuer.certificate).not_after <= now:
        return begun(name, now)
    if authority.previous is not None and Life.of(authority.previous).not_after <= now:
        authority = authority._replace(previous=None)
    if authority.following is None and Life.of(authority.issuer.certificate).is_due(now):
        authority = authority._replace(following=_root(name, now))
    return authority


def promoted(authority: Authority, now: float) -> Authority:
    """With the next as the issuer, once everybody has had the time to hear of it; else the same."""
    following = authority.following
    if following is None or Life.of(following.certificate).not_before + BACKDATE_S + SPREAD_S > now:
        return authority
    return Authority(following, None, authority.issuer.certificate)


def serving(authority: Authority, names: Sequence[str], now: float) -> KeyPair:
    """A certificate to show, for as long as its issuer allows at most."""
    most = Life.of(authority.issuer.certificate).not_after
    return make_server(names, authority.issuer, Life(now - BACKDATE_S, min(now + SERVING_LIFE_S, most)))


def is_due(shown: KeyPair, authority: Authority, now: float) -> bool:
    """Whether another is to be shown: it is in its last third, or its issuer is another."""
    life = Life.of(shown.certificate)
    return life.is_due(now) or shown.certificate.issuer != authority.issuer.certificate.subject


def _root(name: str, now: float) -> KeyPair:
    """For servers below it alone, and for no CA."""
    key = new_key()
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshd"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"{name[:40]} {identifier.digest.hex()[:8]}"),
    ])  # fmt: skip
    from_s, until_s = now - BACKDATE_S, now + AUTHORITY_LIFE_S
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(from_s))
        .not_valid_after(_time(until_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate, key)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- as a Secret's data

_PARTS: Final = ("issuer", "following", "previous")


def data_of(authority: Authority) -> dict[str, str]:
    """As the API has the data of a Secret: base64."""
    found: dict[str, bytes] = {}
    for name, part in zip(_PARTS, authority, strict=True):
        if isinstance(part, KeyPair):
            found[f"{name}.key"] = key_pem(part.key)
            part = part.certificate  # noqa: PLW2901 - the certificate is kept of either
        if part is not None:
            found[f"{name}.crt"] = pem(part)
    return {name: base64.b64encode(content).decode() for name, content in sorted(found.items())}


def authority_in(data: Mapping[str, str]) -> Authority | None:
    """What a Secret holds; None where it is still empty. Unreadable."""
    if not data:
        return None
    try:
        plain = {name: base64.b64decode(value, validate=True) for name, value in data.items()}
        issuer = _pair(plain, "issuer")
        if issuer is None:
            raise Unreadable("it has no issuer.crt and issuer.key")
        previous = x509.load_pem_x509_certificate(plain["previous.crt"]) if "previous.crt" in plain else None
        return Authority(issuer, _pair(plain, "following"), previous)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error) as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def _pair(plain: Mapping[str, bytes], name: str) -> KeyPair | None:
    if f"{name}.crt" not in plain or f"{name}.key" not in plain:
        return None
    certificate = x509.load_pem_x509_certificate(plain[f"{name}.crt"])
    key = serialization.load_pem_private_key(plain[f"{name}.key"], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise Unreadable(f"{name}.key is not the key of {name}.crt")
    return KeyPair(certificate, key)
