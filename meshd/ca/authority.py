"""The authority of one trust domain: a root, an issuer below it, and a record of what they issued.

    authorise → modify → validate → enforce (`meshd.ca.rules`) → sign → store

It is synchronous and has no clock: `now` (seconds since the epoch) comes in as an argument. Its counterparts are
`meshd.ca.local` and `meshd.ca.api`, which own clock, loop and sockets.

A certificate is stored before it is returned. Should the process die in between, there is a record of one that nobody
has; the other way round there would be one in the mesh that the CA does not know of.
"""

import logging
from contextlib import closing
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from meshd.api.control import Certificate
from meshd.api.names import Identity, is_trust_domain
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, files, material
from meshd.ca.certificates import Life
from meshd.ca.files import CaFiles
from meshd.ca.material import Material, when
from meshd.ca.records import Issued
from meshd.ca.rules import Asked, read_csr, rules
from meshd.ca.source import Unreachable
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Store

log = logging.getLogger(__name__)

MAINTAIN_EVERY_S: Final = 3600.0

WARN_ROOT_S: Final = 365 * 86400.0
"""A root is in every host's bundle, so its successor takes time to arrive."""


class Authority:
    """What is in one state directory; `close` lets go of the database."""

    def __init__(self, paths: CaFiles, store: Store, own: Material) -> None:
        self.store = store
        self.trust_domain = own.trust_domain
        self.bundle_pem = certificates.pem(own.root).decode()
        self._files = paths
        self._maintained = float("-inf")
        self._use(own)

    @classmethod
    def create(cls, directory: Path, trust_domain: str, now: float, agent_token: str = "") -> Self:
        """A new CA in directory, which is made if need be. With agent_token, that is what agents prove themselves
        with. Problem when there is a CA already or it cannot be written; Misuse when trust_domain is none."""
        if not is_trust_domain(trust_domain):
            raise Misuse(f"{trust_domain!r} is not a trust domain: DNS labels joined by dots, as in prod.example")
        paths = CaFiles(directory)
        with paths.making():
            with closing(SqliteStore.create(paths.database)) as store:
                if agent_token:
                    store.add_token(agent_token, now)
                    files.write(paths.agent_token, agent_token.encode() + b"\n")
            material.create(paths, trust_domain, now)
        return cls.open(directory, now)

    @classmethod
    def open(cls, directory: Path, now: float) -> Self:
        """The CA in directory, its issuer renewed if that is due. Problem when there is none, it cannot be read, its
        files do not fit each other, it is expired, or others than its owner can read its keys."""
        paths = CaFiles(directory)
        paths.check()
        own = material.load(paths, now)
        authority = cls(paths, SqliteStore.open(paths.database), own)
        try:
            authority.maintain(now)
            authority.check(now)
        except Unreachable as error:
            authority.close()
            raise Problem(f"{directory}: {error}") from error
        return authority

    def issue(self, csr_pem: str, identity: Identity, now: float, requester: str) -> Certificate:
        """A certificate of identity for the CSR's key, by the rules. Refusal or Unreachable when there is none."""
        asked = Asked(identity, read_csr(csr_pem), now)
        life = self._rules.decide(asked)
        leaf = certificates.make_leaf(str(identity), asked.csr.public_key(), self._own.issuer, life)
        self._record(leaf, str(identity), requester, now, workload="" if identity.host else str(identity.workload))
        return Certificate(self._chain(leaf), *Life.of(leaf))

    def issue_server(self, names: tuple[str, ...], now: float) -> tuple[bytes, Life]:
        """A new key and its chain (PEM, together) for the CA's own server at names, and how long they are good.
        Unreachable when they cannot be stored."""
        life = Life.starting(now, certificates.LEAF_LIFE_S)
        pair = certificates.make_server(names, self._own.issuer, life)
        self._record(pair.certificate, " ".join(names), "itself", now)
        return certificates.key_pem(pair.key) + self._chain(pair.certificate).encode(), life

    def check(self, now: float) -> None:
        """Unreachable when nothing that is signed at this time would be good."""
        for what, life in (("root", Life.of(self._own.root)), ("issuer", Life.of(self._own.issuer.certificate))):
            if not life.not_before <= now < life.not_after:
                raise Unreachable(
                    f"the CA's {what} is good from {when(life.not_before)} to {when(life.not_after)}, and the CA's "
                    f"clock says {when(now)}"
                )

    def maintain(self, now: float) -> None:
        """Renew the issuer when two thirds of its life are over, and forget what expired long ago. To be called often;
        what it cannot do it logs, and tries again an hour later. Unreachable when the database cannot be used."""
        if abs(now - self._maintained) < MAINTAIN_EVERY_S:
            return
        self._maintained = now
        if Life.of(self._own.root).not_after < now + WARN_ROOT_S:
            log.warning("the root expires at %s: make a new CA before", _ends(self._own.root))
        if Life.of(self._own.issuer.certificate).is_due(now):
            self._renew_issuer(now)
        self.store.forget_expired(now)

    def close(self) -> None:
        self.store.close()

    def _renew_issuer(self, now: float) -> None:
        try:
            self._use(material.renew_issuer(self._files, self._own, now))
        except Problem as problem:
            log.error("the issuer expires at %s and is not renewed: %s", _ends(self._own.issuer.certificate), problem)
        else:
            log.info("issuer renewed: it is good until %s", _ends(self._own.issuer.certificate))

    def _use(self, own: Material) -> None:
        self._own = own
        self._rules = rules(own.trust_domain, Life.of(own.issuer.certificate))

    def _record(self, leaf: x509.Certificate, names: str, requester: str, now: float, workload: str = "") -> None:
        serial = certificates.serial(leaf)
        self.store.add(Issued(serial, names, requester, *Life.of(leaf), now, workload=workload))
        log.info("issued %s to %s: serial %s, until %s", names, requester, serial, _ends(leaf))

    def _chain(self, leaf: x509.Certificate) -> str:
        return (certificates.pem(leaf) + certificates.pem(self._own.issuer.certificate)).decode()


def _ends(certificate: x509.Certificate) -> str:
    return when(Life.of(certificate).not_after)
