"""The CA's keys and certificates in its files: written once each, checked against each other whenever they are read."""

from contextlib import suppress
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
    return pair_of(paths, root)


def load(paths: CaFiles, now: float) -> Material:
    """What is in the files. Problem when one is missing or not what it should be, others than its owner can read a key,
    they do not fit each other, or the root is not good now."""
    roots, issuer = _load_certificates(paths.bundle), _load_issuer(paths.issuer, paths.passphrase)
    trust_domain = _trust_domain(roots[0], paths.bundle)
    above = [root for root in roots if _is_below(issuer.certificate, root)]
    if not above:
        raise Problem(f"{paths.issuer}: not signed by the root in {paths.bundle}: restore both from one copy")
    _check_life(above[0], paths, now)
    return Material(trust_domain, above[0], issuer, b"".join(map(certificates.pem, roots)).decode())


def renew_issuer(paths: CaFiles, material: Material, now: float) -> Material:
    """The same with a new issuer, in its file. Peers need nothing new to verify what it signs: the root is the same.
    Problem when the root is over, its key cannot be read, or the file not be written."""
    root = load_root_pair(paths, now)
    return material._replace(issuer=_make_issuer(paths, material.trust_domain, root, now))


# --- one root after another: each of these may be interrupted anywhere, and is then done again


def prepare_root(paths: CaFiles, material: Material, now: float) -> Material:
    """The same with another root, which is believed too and signs nothing yet."""
    if not paths.root_next.exists():
        made = certificates.make_root(material.trust_domain, Life.starting(now, certificates.ROOT_LIFE_S))
        _write(paths, paths.root_next, certificates.key_pem(made.key, paths.passphrase), made.certificate)
    _write_bundle(paths, material.root, _load_certificate(paths.root_next))
    return load(paths, now)


def change_root(paths: CaFiles, material: Material, now: float, *, back: bool = False) -> Material:
    """The same with a new issuer: below the root in `root.next`, or back below that of `root.key`. Both are believed.
    What is signed below the next one is believed by who knows only the one before, too, where that has a key here."""
    other = _load_certificate(paths.root_next)
    roots = _load_certificates(paths.bundle)
    before = next((root for root in roots if root != other), None)
    if before is None:
        raise Problem(f"{paths.bundle}: holds one root alone, and another is in {paths.root_next}: restore a copy")
    wanted, left = (before, other) if back else (other, before)
    if material.root != wanted:
        above = None if back else _certify_next(paths, material.trust_domain, wanted, left, now)
        _make_issuer(paths, material.trust_domain, pair_of(paths, wanted), now, above)
    _write_bundle(paths, wanted, left)
    return load(paths, now)


def withdraw_root(paths: CaFiles, material: Material, now: float) -> Material:
    """The same with the root that signs and no other."""
    if paths.root_next.exists():
        if _load_certificate(paths.root_next) == material.root:
            pair = pair_of(paths, material.root)
            _write(paths, paths.root_key, certificates.key_pem(pair.key, paths.passphrase))
        issuer = material.issuer
        assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
        _write(paths, paths.issuer, certificates.key_pem(issuer.key, paths.passphrase), issuer.certificate)
    _write_bundle(paths, material.root)
    paths.root_next.unlink(missing_ok=True)
    return load(paths, now)


def load_next(paths: CaFiles) -> x509.Certificate:
    """The root in `root.next`; Problem when there is none."""
    return _load_certificate(paths.root_next)


def pairs(paths: CaFiles, material: Material) -> list[KeyPair]:
    """The roots that are believed, with their keys: those whose key is here."""
    found = []
    for root in x509.load_pem_x509_certificates(material.bundle_pem.encode()):
        with suppress(Problem):
            found.append(pair_of(paths, root))
    return found


def vouched_for(paths: CaFiles, material: Material, root: x509.Certificate, now: float) -> list[x509.Certificate]:
    """What goes above an issuer below root, while that follows another: root, vouched for by the one before."""
    if not paths.root_next.exists() or load_next(paths) != root:
        return []
    before = [each for each in x509.load_pem_x509_certificates(material.bundle_pem.encode()) if each != root]
    found = [_certify_next(paths, material.trust_domain, root, each, now) for each in before]
    return [each for each in found if each is not None]


def _certify_next(
    paths: CaFiles, trust_domain: str, root: x509.Certificate, before: x509.Certificate, now: float
) -> x509.Certificate | None:
    """root, vouched for by the one before it; None where that is about to end, or its key is not here: then only who
    has heard of the new root believes in it."""
    life = Life(now - certificates.BACKDATE_S, min(Life.of(root).not_after, Life.of(before).not_after))
    if life.not_after < now + certificates.ISSUER_LIFE_S:
        return None
    try:
        return certificates.certify_root(trust_domain, root, pair_of(paths, before), life)
    except Problem:
        return None


def pair_of(paths: CaFiles, root: x509.Certificate) -> KeyPair:
    """root with its key; Problem when that is in neither file."""
    for file in (paths.root_next, paths.root_key):
        if file == paths.root_key or file.exists():
            key = load_key(file, paths.passphrase)
            if key.public_key() == root.public_key():
                return KeyPair(root, key)
    raise Problem(f"{paths.root_key}: not the key of the root in {paths.bundle}: restore both from one copy")


def _write_bundle(paths: CaFiles, *roots: x509.Certificate) -> None:
    """The one that signs comes first: it is what join tokens name the CA by."""
    wanted = b"".join(map(certificates.pem, roots))
    if files.read(paths.bundle) != wanted:
        files.write(paths.bundle, wanted, mode=0o644, owner_of=paths.directory)


def _write(paths: CaFiles, file: Path, key_pem: bytes, *chain: x509.Certificate) -> None:
    files.write(file, key_pem + b"".join(map(certificates.pem, chain)), owner_of=paths.directory)


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


def _make_issuer(
    paths: CaFiles, trust_domain: str, root: KeyPair, now: float, above: x509.Certificate | None = None
) -> Issuer:
    wanted = Life.starting(now, certificates.ISSUER_LIFE_S)
    life = Life(wanted.not_before, min(wanted.not_after, Life.of(root.certificate).not_after))
    issuer = certificates.make_issuer(trust_domain, root, life)
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    key = certificates.key_pem(issuer.key, paths.passphrase)
    _write(paths, paths.issuer, key, issuer.certificate, *((above,) if above is not None else ()))
    return issuer._replace(above=(above,) if above is not None else ())


def _is_below(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _load_certificate(file: Path) -> x509.Certificate:
    return _load_certificates(file)[0]


def _load_certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(files.read(file))
    except ValueError as error:
        raise Problem(f"{file}: holds no certificate (PEM): restore it from a copy") from error


def _load_issuer(file: Path, passphrase: bytes | None) -> Issuer:
    key, (certificate, *above) = load_key(file, passphrase), _load_certificates(file)
    if certificate.public_key() != key.public_key():
        raise Problem(f"{file}: its certificate is not of its key: restore it from a copy")
    return Issuer(certificate, key, tuple(above))


def load_key(file: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
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
