"""The authority of one trust domain: a root, an issuer below it, and what they issued.

It is synchronous and has no clock: `now` (seconds since the epoch) comes in as an argument. Its counterparts are
`meshd.ca.local` and `meshd.ca.api`, which own clock, loop and sockets.

A certificate is stored before it is returned: there is none in the mesh that the CA does not know of.
"""

import logging
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshd.api.control import Certificate
from meshd.api.names import Identity, is_trust_domain
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, files
from meshd.ca.certificates import KeyPair, Life
from meshd.ca.files import CaFiles
from meshd.ca.rules import Asked, read_csr, rules
from meshd.ca.source import Unreachable
from meshd.ca.store import Issued, Store

log = logging.getLogger(__name__)

MAINTAIN_EVERY_S = 3600.0
WARN_ROOT_S = 365 * 86400.0
"""A root is in every host's bundle, so its successor takes time to arrive."""


class Authority:
    """What is in one state directory; `close` lets go of the database."""

    def __init__(self, paths: CaFiles, store: Store, root: x509.Certificate, issuer: KeyPair) -> None:
        self._files, self.store, self._root = paths, store, root
        self.trust_domain = _trust_domain(root, paths.bundle)
        self.bundle_pem = certificates.pem(root).decode()
        self._maintained = float("-inf")
        self._use(issuer)

    @classmethod
    def create(cls, directory: Path, trust_domain: str, now: float, agent_token: str = "") -> Self:
        """A new CA in directory, which is made if need be. With agent_token, that is what agents prove themselves
        with. Problem when there is a CA already or it cannot be written; Misuse when trust_domain is none."""
        if not is_trust_domain(trust_domain):
            raise Misuse(f"{trust_domain!r} is not a trust domain: DNS labels joined by dots, as in prod.example")
        paths = CaFiles(directory)
        with paths.making():
            with closing(Store.create(paths.database)) as store:
                if agent_token:
                    store.add_token(agent_token, now)
                    files.write(paths.agent_token, agent_token.encode() + b"\n")
            root = certificates.make_root(trust_domain, Life.starting(now, certificates.ROOT_LIFE_S))
            files.write(paths.root_key, certificates.key_pem(root.key))
            issuer = certificates.make_issuer(trust_domain, root, Life.starting(now, certificates.ISSUER_LIFE_S))
            files.write(paths.issuer, _together(issuer))
            files.write(paths.bundle, certificates.pem(root.certificate), mode=0o644)
        return cls.open(directory, now)

    @classmethod
    def open(cls, directory: Path, now: float) -> Self:
        """The CA in directory, its issuer renewed if that is due. Problem when there is none, it cannot be read, its
        files do not fit each other, it is expired, or others than its owner can read its keys."""
        paths = CaFiles(directory)
        paths.check()
        root, issuer = _load_root(paths.bundle), _load_pair(paths.issuer)
        try:
            issuer.certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise Problem(
                f"{paths.issuer}: not signed by the root in {paths.bundle}: restore both from one copy"
            ) from error
        _check_life(root, paths.bundle, now)
        authority = cls(paths, Store.open(paths.database), root, issuer)
        try:
            authority.maintain(now)
            authority.check(now)
        except Unreachable as error:
            authority.close()
            raise Problem(f"{paths.issuer}: {error}") from error
        return authority

    def issue(self, csr_pem: str, identity: Identity, now: float, requester: str) -> Certificate:
        """A certificate of identity for the CSR's key, by the rules. Refusal or Unreachable when there is none."""
        asked = Asked(identity, read_csr(csr_pem), requester, now)
        life = self._pipeline.decide(asked)
        leaf = certificates.make_leaf(str(identity), asked.csr.public_key(), self._issuer, life)
        self._record(leaf, str(identity), requester, now)
        log.info("issued %s for %s to %s until %s", certificates.serial(leaf), identity, requester, _ends(leaf))
        return Certificate(self._chain(leaf), *Life.of(leaf))

    def issue_server(self, names: tuple[str, ...], now: float) -> tuple[bytes, Life]:
        """A new key and its chain (PEM, together) for the CA's own server at names, and how long they are good."""
        pair = certificates.make_server(names, self._issuer, Life.starting(now, certificates.LEAF_LIFE_S))
        self._record(pair.certificate, " ".join(names), "self", now)
        return certificates.key_pem(pair.key) + self._chain(pair.certificate).encode(), Life.of(pair.certificate)

    def check(self, now: float) -> None:
        """Unreachable when nothing can be signed at this time."""
        for what, life in (("root", Life.of(self._root)), ("issuer", Life.of(self._issuer.certificate))):
            if now < life.not_before:
                raise Unreachable(f"the CA's {what} is not valid before {_time(life.not_before)}: correct the clock")
            if now >= life.not_after:
                raise Unreachable(f"the CA's {what} expired at {_time(life.not_after)}")

    def maintain(self, now: float) -> None:
        """Renew the issuer when two thirds of its life are over, and forget what expired long ago. To be called often;
        what it cannot do it logs, and tries again an hour later."""
        if abs(now - self._maintained) < MAINTAIN_EVERY_S:
            return
        self._maintained = now
        if Life.of(self._root).not_after < now + WARN_ROOT_S:
            log.warning("the root expires at %s: bring out a new one before", _ends(self._root))
        self.store.forget_expired(now)
        if not Life.of(self._issuer.certificate).is_due(now):
            return
        try:
            self._renew_issuer(now)
        except Problem as problem:
            log.error("the issuer expires at %s and is not renewed: %s", _ends(self._issuer.certificate), problem)
        else:
            log.info("issuer renewed: it is good until %s", _ends(self._issuer.certificate))

    def close(self) -> None:
        self.store.close()

    def _renew_issuer(self, now: float) -> None:
        """A new issuer below the same root: peers need nothing new to verify what it signs."""
        key = _load_key(self._files.root_key)
        if key.public_key() != self._root.public_key():
            raise Problem(f"{self._files.root_key}: not the key of the root in {self._files.bundle}")
        wanted = Life.starting(now, certificates.ISSUER_LIFE_S)
        life = Life(wanted.not_before, min(wanted.not_after, Life.of(self._root).not_after))
        issuer = certificates.make_issuer(self.trust_domain, KeyPair(self._root, key), life)
        files.write(self._files.issuer, _together(issuer))
        self._use(issuer)

    def _use(self, issuer: KeyPair) -> None:
        self._issuer = issuer
        self._pipeline = rules(self.trust_domain, Life.of(issuer.certificate))

    def _record(self, leaf: x509.Certificate, names: str, requester: str, now: float) -> None:
        self.store.add(Issued(certificates.serial(leaf), names, requester, *Life.of(leaf), now))

    def _chain(self, leaf: x509.Certificate) -> str:
        return (certificates.pem(leaf) + certificates.pem(self._issuer.certificate)).decode()


def _load_root(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(files.read(file))
    except ValueError as error:
        raise Problem(f"{file}: holds no certificate (PEM): restore it from a copy") from error


def _load_pair(file: Path) -> KeyPair:
    key = _load_key(file)
    certificate = _load_root(file)
    if certificate.public_key() != key.public_key():
        raise Problem(f"{file}: its certificate is not of its key: restore it from a copy")
    return KeyPair(certificate, key)


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(files.read_secret(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Problem(f"{file}: holds no private key (PEM, not encrypted): restore it from a copy") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Problem(f"{file}: holds a key that is not an ECDSA key: restore it from a copy")
    return key


def _trust_domain(root: x509.Certificate, file: Path) -> str:
    """The trust domain that the root is of, by its SPIFFE ID (X509-SVID, section 4.2)."""
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        uri = ""
    trust_domain = uri.removeprefix("spiffe://")
    if trust_domain == uri or not is_trust_domain(trust_domain):
        raise Problem(f"{file}: the certificate there is not the root of a trust domain: restore it from a copy")
    return trust_domain


def _check_life(root: x509.Certificate, file: Path, now: float) -> None:
    life = Life.of(root)
    if now < life.not_before:
        raise Problem(f"{file}: the root is not valid before {_time(life.not_before)}: correct this host's clock")
    if now >= life.not_after:
        raise Problem(f"{file}: the root expired at {_time(life.not_after)}: make a new CA with `meshd ca init`")


def _together(pair: KeyPair) -> bytes:
    return certificates.key_pem(pair.key) + certificates.pem(pair.certificate)


def _ends(certificate: x509.Certificate) -> str:
    return _time(Life.of(certificate).not_after)


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
