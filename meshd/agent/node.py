"""What this host is in the mesh: its key and certificate, in one file of the agent's, and their renewal.

The key is made here and never leaves; the file has mode 0600. `meshd join` gets the first certificate
(`meshd.agent.join`); from then on the agent proves itself with it to the CA, and renews it, with a new key each time,
at about two thirds of its life. One that expired because the host was off for longer is of no more use: the host joins
again.
"""

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.backoff import Backoff
from meshd.api.clocks import rest_s
from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.api.problems import Problem
from meshd.ca import certificates, files
from meshd.ca.certificates import Life
from meshd.ca.failover import Failover
from meshd.ca.material import when
from meshd.ca.source import NotAuthenticated, Refusal, Unreachable
from meshd.ca.wire import Bundle, Renewal, Token

log = logging.getLogger(__name__)

FILE_NAME: Final = "node.key"

JITTER: Final = 0.05
"""Of the life: hosts that joined together do not all come back together."""

AGAIN_MIN_S, AGAIN_MAX_S = 30.0, 300.0
"""Between attempts where a certificate cannot be had."""

REST_MIN_S: Final = 2.0
"""And after one that is due as soon as it is there: while roots change that is usual for some seconds."""


class Node(NamedTuple):
    """`chain` begins with the node's certificate; it is empty after a join that was interrupted."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate | None:
        return self.chain[0] if self.chain else None

    def is_below(self, root: x509.Certificate) -> bool:
        """Whether its chain leads to that root."""
        try:
            for certificate, above in pairwise((*self.chain, root)):
                certificate.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return bool(self.chain)


def exists(file: Path) -> bool:
    """Whether there is one; Problem where this user may not know."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        who = f"uid {os.geteuid()}"
        raise Problem(f"{file}: {who} may not look for it: {error.strerror}: be root, or the agent's user") from error
    return True


def read(file: Path) -> Node | None:
    """What is in the file; None when there is none. Problem when `write` did not write it, or others can read it, or it
    may not be looked for."""
    if not exists(file):
        return None
    content = files.read_secret(file)
    try:
        key = serialization.load_pem_private_key(content, password=None)
        found = x509.load_pem_x509_certificates(content) if b"BEGIN CERTIFICATE" in content else []
        node = Node(_checked(key, found), tuple(found))
        if node.certificate is not None:
            identity_of(node.certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise Problem(f"{file}: holds no node's key and certificate: remove it, and join this host again") from error
    return node


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whose it is; ValueError when it is no one's of a mesh."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Identity.parse(uri)


def write(file: Path, key: ec.EllipticCurvePrivateKey, chain_pem: str = "") -> None:
    """Keep the key, and its certificate when there is one; whole or not at all."""
    files.write(file, certificates.key_pem(key) + chain_pem.encode(), owner_of=file.parent)


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """A CSR (PEM) of the key; whose it is is said beside it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass(slots=True)
class Renewals:
    """How the node's own certificate is, for the metrics. Times in seconds since the epoch; 0: there is none, or it was
    not renewed since the start."""

    not_after: float = 0.0
    renewed_at: float = 0.0
    renewed: int = 0
    failed: int = 0


class NodeSource:
    """Signs through `source`, to which the node's certificate in `file` is shown. A look at the CA's health (`health`,
    which the agent has every few seconds) renews that certificate when it is due."""

    def __init__(
        self,
        source: Failover,
        file: Path,
        clock: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
        renewals: Renewals | None = None,
    ) -> None:
        """`renewals` is told how it goes. Problem when there is no certificate in the file."""
        self._renewals = renewals or Renewals()
        self._source, self._file, self._clock, self._draw = source, file, clock, draw
        node = read(file)
        if node is None or node.certificate is None:
            raise Problem(f"{file}: this host has not joined: run `meshd join`")
        self._renew_at = 0.0
        self._renewal: Renewal | None = None
        self._backoff, self._rest_s = Backoff(REST_MIN_S, AGAIN_MAX_S, draw), 0.0
        self._use(node.certificate)

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        self._check()
        return await self._source.sign(csr_pem, identity)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        self._check()
        return await self._source.jwt(identity, audiences)

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        self._check()
        return await self._source.news(after, oldest)

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        self._source.trust(bundle_pem, renewal)
        self._renewal = renewal
        self._heed_renewal()

    def begun(self) -> float:
        return self._life.not_before

    async def health(self) -> None:
        self._check()
        await self._source.health()
        now = self._clock()
        is_resting = 0.0 <= now - self._renewals.renewed_at < self._rest_s  # not so for a clock that is set back
        if now >= self._renew_at and not is_resting:
            await self._renew()

    def _check(self) -> None:
        if self._clock() >= self._life.not_after:
            raise NotAuthenticated(
                f"the certificate of this node expired at {when(self._life.not_after)}: join it again with `meshd join`"
            )

    async def _renew(self) -> None:
        key = certificates.new_key()
        try:
            signed = await self._source.sign(request(key), self._identity)
            certificate = x509.load_pem_x509_certificate(signed.chain_pem.encode())
            write(self._file, key, signed.chain_pem)
        except (Refusal, Unreachable, Problem, ValueError) as error:  # it cannot be had, or not be kept
            self._renewals.failed += 1
            self._renew_at = self._clock() + self._draw(AGAIN_MIN_S, AGAIN_MAX_S)
            log.error("this node's certificate is good until %s and not renewed: %s", when(self._life.not_after), error)
            return
        self._source.present(self._file)
        self._use(certificate)
        self._renewals.renewed += 1
        self._renewals.renewed_at = self._clock()
        self._rest_s = self._rest_after(self._renewals.renewed_at)
        log.info("this node's certificate is renewed: it is good until %s", when(self._life.not_after))

    def _use(self, certificate: x509.Certificate) -> None:
        self._identity, self._life = identity_of(certificate), Life.of(certificate)
        self._renewals.not_after = self._life.not_after
        length_s = self._life.not_after - self._life.not_before
        self._renew_at = self._life.not_before + length_s * (2 / 3 + self._draw(-JITTER, JITTER))
        self._heed_renewal()

    def _rest_after(self, now: float) -> float:
        """How long to use a certificate that is due as soon as it is there; 0 for one that is not."""
        if now < self._renew_at and not self._is_older():
            self._backoff.reset()
            return 0.0
        return rest_s(self._backoff.next_s(), self._life.not_after, now)

    def _is_older(self) -> bool:
        return self._renewal is not None and self._life.not_before < self._renewal.issued_before

    def _heed_renewal(self) -> None:
        """Renew before its time what is from before the time that the CA names: also what it has signed since, where
        it names one that is still to come for certificates, which begin some time before they are signed."""
        renewal = self._renewal
        if renewal is not None and self._is_older():
            self._renew_at = min(self._renew_at, self._clock() + self._draw(0.0, renewal.within_s))


def _checked(key: object, chain: list[x509.Certificate]) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an ECDSA key")
    if chain and chain[0].public_key() != key.public_key():
        raise ValueError("the certificate is not the key's")
    return key
