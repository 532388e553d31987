"""The CA's keys and certificates in its files: written once each, checked against each other whenever they are read."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshd.api.problems import Problem
from meshd.ca import certificates, files
from meshd.ca.certificates import Issuer, KeyPair, Life
from meshd.ca.files import CaFiles


class Material(NamedTuple):
    """What an authority signs with. The root's key is not part of it: it is read when an issuer is made. `bundle_pem`
    are the roots that are believed, this one among them."""

    trust_domain: str
    root: x509.Certificate
    issuer: Issuer
    bundle_pem: str

    def life(self) -> Life:
        """When all that a leaf needs to be believed is good."""
        lives = [Life.of(each) for each in (self.root, self.issuer.certificate, *self.issuer.above)]
        return Life(max(life.not_before for life in lives), min(life.not_after for life in lives))


def create(paths: CaFiles, trust_domain: str, now: float, *, with_issuer: bool = True) -> None:
    """A new root and an issuer below it, in their files."""
    root = certificates.make_root(trust_domain, Life.starting(now, certificates.ROOT_LIFE_S))
    files.write(paths.root_key, certificates.key_pem(root.key, paths.passphrase))
    if with_issuer:
        _make_issuer(paths, trust_domain, root, now)
    files.write(paths.bundle, certificates.pem(root.certificate), mode=0o644)


def load_root(paths: CaFiles) -> tuple[str, x509.Certificate]:
    """The trust domain, and the root of the trust bundle; Problem when there is none."""
    root = _load_certificate(paths.bundle)
    if paths.trust_domain.exists():
        return files.read(paths.trust_domain).decode("ascii", "replace").strip(), root
    return _trust_domain(root, paths.bundle), root


def load_root_pair(paths: CaFiles, now: float) -> KeyPair:
    """The root with its key; Problem when it is over, the key cannot be read, or is another's."""
    root = _load_certificate(paths.bundle)
    _check_life(root, paths, now)
    key = _load_key(paths.root_key, paths.passphrase)
    if key.public_key() != root.public_key():
        raise Problem(f"{paths.root_key}: not the key of the root in {paths.bundle}: restore both from one copy")
    return KeyPair(root, key)


def load(paths: CaFiles, now: float) -> Material:
    """What is in the files. Problem when one is missing or not what it should be, others than its owner can read a key,
    they do not fit each other, or the root is not good now."""
    root, issuer = _load_certificate(paths.bundle), _load_issuer(paths.issuer, paths.passphrase)
    trust_domain = _trust_domain(root, paths.bundle)
    try:
        issuer.certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Problem(
            f"{paths.issuer}: not signed by the root in {paths.bundle}: restore both from one copy"
        ) from error
    _check_life(root, paths, now)
    return Material(trust_domain, root, issuer, certificates.pem(root).decode())


def renew_issuer(paths: CaFiles, material: Material, now: float) -> Material:
    """The same with a new issuer, in its file. Peers need nothing new to verify what it signs: the root is the same.
    Problem when the root is over, its key cannot be read, or the file not be written."""
    root = load_root_pair(paths, now)
    return material._replace(issuer=_make_issuer(paths, material.trust_domain, root, now))


def when(epoch_s: float) -> str:
    """For messages: the time in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_life(root: x509.Certificate, paths: CaFiles, now: float) -> None:
    life = Life.of(root)
    if now < life.not_before:
        raise Problem(f"{paths.bundle}: the root is good from {when(life.not_before)} on: correct this host's clock")
    if now >= life.not_after:
        raise Problem(
            f"{paths.bundle}: the root expired at {when(life.not_after)}: if this host's clock is right, make a new CA "
            "with `meshd ca init`"
        )


def _make_issuer(paths: CaFiles, trust_domain: str, root: KeyPair, now: float) -> Issuer:
    wanted = Life.starting(now, certificates.ISSUER_LIFE_S)
    life = Life(wanted.not_before, min(wanted.not_after, Life.of(root.certificate).not_after))
    issuer = certificates.make_issuer(trust_domain, root, life)
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    key = certificates.key_pem(issuer.key, paths.passphrase)
    files.write(paths.issuer, key + certificates.pem(issuer.certificate))
    return issuer


def _load_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(files.read(file))
    except ValueError as error:
        raise Problem(f"{file}: holds no certificate (PEM): restore it from a copy") from error


def _load_issuer(file: Path, passphrase: bytes | None) -> Issuer:
    key, certificate = _load_key(file, passphrase), _load_certificate(file)
    if certificate.public_key() != key.public_key():
        raise Problem(f"{file}: its certificate is not of its key: restore it from a copy")
    return Issuer(certificate, key)


def _load_key(file: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """The key in file, which is encrypted when there is a passphrase and is not when there is none."""
    content = files.read_secret(file)
    is_encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in content
    if is_encrypted and passphrase is None:
        raise Problem(f"{file}: the key is encrypted: give its passphrase with --passphrase-file")
    if not is_encrypted and passphrase is not None and b"PRIVATE KEY" in content:
        raise Problem(
            f"{file}: the key is not encrypted, and a passphrase is given: leave it out, or make sure of the file"
        )
    try:
        key = load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if is_encrypted:
            raise Problem(f"{file}: the passphrase is not the key's, or the file is damaged") from error
        raise Problem(f"{file}: holds no private key (PEM): restore it from a copy") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Problem(f"{file}: holds a key that is not an ECDSA key: restore it from a copy")
    return key


def _trust_domain(root: x509.Certificate, file: Path) -> str:
    trust_domain = certificates.trust_domain_in(root)
    if not trust_domain:
        raise Problem(f"{file}: the certificate there is not the root of a trust domain: restore it from a copy")
    return trust_domain
