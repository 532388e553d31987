"""The authority of one trust domain: a root, an issuer below it, and a record of what they issued.

    authorise → modify → validate → enforce (`meshd.ca.rules`) → sign → store

It is synchronous and has no clock: `now` (seconds since the epoch) comes in as an argument. Its counterparts are
`meshd.ca.local` and `meshd.ca.api`, which own clock, loop and sockets. The latter calls from several threads: what it
signs with is one value, swapped whole. How leaves are signed and kept is `meshd.ca.issuing`'s.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from meshd.api.control import Certificate
from meshd.api.names import Identity, is_trust_domain
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, files, material, roots, stores
from meshd.ca.audit import AuditLog
from meshd.ca.certificates import Life
from meshd.ca.external import IssuerFiles, check_bundle, prepare
from meshd.ca.external import load as load_external
from meshd.ca.files import CaFiles
from meshd.ca.issuing import Issuing, Signing, Wanted, chain_pem, line
from meshd.ca.jwt_authority import JwtAuthority
from meshd.ca.jwt_keys import JwtKeys
from meshd.ca.material import Material, when
from meshd.ca.records import Issued, Running
from meshd.ca.requester import ITSELF, Requester
from meshd.ca.rotation import described, step
from meshd.ca.rules import rules
from meshd.ca.settings import StoreSettings
from meshd.ca.sharing import LEADING, Made, Sharing, complete
from meshd.ca.source import Unreachable
from meshd.ca.store import Behind, Conflict, Store
from meshd.ca.wire import Bundle, Denial, Renewal

log = logging.getLogger(__name__)

MAINTAIN_EVERY_S: Final = 3600.0

WARN_ROOT_S: Final = 365 * 86400.0
"""A root is in every host's bundle, so its successor takes time to arrive."""


class Authority:
    """What is in one state directory; `close` lets go of the database. `audit` is None where no one would read it.
    `jwts` signs tokens."""

    def __init__(
        self,
        paths: CaFiles,
        store: Store,
        own: Material,
        audit: AuditLog | None,
        external: IssuerFiles | None = None,
    ) -> None:
        self.store = store
        self._audit = audit
        self._issuing = Issuing(store, audit)
        self._last: Bundle | None = None
        self._begun_at = 0.0
        self._sharing: Sharing | None = None
        if store.peers is not None:
            self._sharing = Sharing(paths, store.peers, own.trust_domain, external)
        self._share_lock = threading.Lock()
        self._trouble = ""
        self.trust_domain = own.trust_domain
        self._files = paths
        self._state = paths.state() if external is None else ()
        self._external = external
        self._external_state = external.state() if external is not None else ()
        self._maintained = self._now = float("-inf")
        self.jwts = JwtAuthority(
            own.trust_domain,
            JwtKeys(paths, store, store.peers.name if store.peers is not None else ""),
            store,
            audit,
            self._issuing.denials,
        )
        self._use(own)

    @classmethod
    def create(
        cls,
        directory: Path,
        trust_domain: str,
        now: float,
        agent_token: str = "",
        *,
        audited: bool = True,
        passphrase: bytes | None = None,
        store: StoreSettings = stores.SQLITE,
    ) -> Self:
        """A new CA in directory, which is made if need be. With agent_token, that is what agents prove themselves
        with. Problem when there is a CA already or it cannot be written; Misuse when trust_domain is none."""
        _check_trust_domain(trust_domain)
        paths = CaFiles(directory, passphrase)
        with paths.making():
            material.create(paths, trust_domain, now)
            with closing(stores.create(paths, store, trust_domain)) as made:
                if agent_token:
                    made.add_token(agent_token, now)
                    files.write(paths.agent_token, agent_token.encode() + b"\n")
        return cls.open(directory, now, audited=audited, passphrase=passphrase, store=store)

    @classmethod
    def create_below(
        cls,
        directory: Path,
        trust_domain: str,
        bundle_pem: bytes,
        passphrase: bytes | None = None,
        store: StoreSettings = stores.SQLITE,
    ) -> None:
        """A CA in directory without a root of its own: its issuer is signed by, or is, someone else's
        (`meshd.ca.external`). Errors as of `create`."""
        _check_trust_domain(trust_domain)
        paths = CaFiles(directory, passphrase)
        with paths.making():
            prepare(paths, trust_domain, bundle_pem)
            stores.join(paths, store, trust_domain).close()

    @classmethod
    def believe(
        cls, directory: Path, trust_domain: str, bundle_pem: bytes, store: StoreSettings = stores.SQLITE
    ) -> bool:
        """Have the CA in directory, which `create_below` made, believe the roots in bundle_pem in the place of those
        that it believed; whether they are others. It must not be running. Problem when it is another CA, or one of
        several whose bundle is in Consul."""
        paths = CaFiles(directory)
        paths.check()
        if not paths.trust_domain.exists() or paths.root_key.exists() or store.consul.address:
            raise Problem(
                f"{directory}: the CA there is not below a root that is elsewhere, with a bundle that comes from there"
            )
        if (other := material.load_root(paths)[0]) != trust_domain:
            raise Problem(f"{directory}: the CA there is of the trust domain {other}, not {trust_domain}")
        wanted = check_bundle(bundle_pem, trust_domain)
        if certificates.bundle_hash(wanted) == certificates.bundle_hash(files.read(paths.bundle).decode()):
            return False
        stores.renumber(paths, store, trust_domain)  # first: a number too many does no harm
        files.write(paths.bundle, wanted.encode(), mode=0o644, owner_of=directory)
        return True

    @classmethod
    def open(
        cls,
        directory: Path,
        now: float,
        *,
        audited: bool = True,
        passphrase: bytes | None = None,
        external: IssuerFiles | None = None,
        store: StoreSettings = stores.SQLITE,
    ) -> Self:
        """The CA in directory, its issuer renewed if that is due, or, where its root is elsewhere, read from `external`
        or its own files. Problem when there is none, it cannot be read, its files do not fit each other, it is expired,
        or others than its owner can read its keys."""
        paths = CaFiles(directory, passphrase)
        paths.check()
        if paths.root_key.exists() and not paths.database.exists() and not paths.issuer.exists():
            raise Problem(
                f"{directory}: holds a root alone, which signs intermediates: see `meshd ca sign-intermediate`"
            )
        if paths.trust_domain.exists():
            complete(paths)
            external = external or IssuerFiles(paths.issuer, paths.issuer_chain)
            own = load_external(paths, external, now)
        elif external is not None:
            raise Problem(f"{directory}: this CA has a root of its own, and the settings name an issuer elsewhere")
        else:
            own = material.load(paths, now)
        audit = AuditLog(paths.audit) if audited else None
        authority = cls(paths, stores.open_store(paths, store, own.trust_domain), own, audit, external)
        try:
            authority.maintain(now)
            authority.check(now)
            authority._share(now)
            authority.jwts.keep(now)
        except Unreachable as error:
            authority.close()
            raise Problem(f"{directory}: {error}") from error
        except Problem:
            authority.close()
            raise
        return authority

    @property
    def own(self) -> Material:
        """What it signs with: another value after each change."""
        return self._signing.own

    @property
    def bundle_pem(self) -> str:
        """The roots that are believed now."""
        return self._signing.own.bundle_pem

    def issue(self, csr_pem: str, identity: Identity, now: float, requester: Requester) -> Certificate:
        """A certificate of identity for the CSR's key, by the rules. Refusal or Unreachable when there is none."""
        (answer,) = self.issue_all([Wanted(csr_pem, identity, now, requester)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def issue_all(self, wanted: Sequence[Wanted]) -> list[Certificate | Exception]:
        """For each a certificate, or what `issue` raises instead: what is wrong with one is no matter to the others."""
        answers = self._issuing.issue_all(wanted, self._signing)
        behind = [index for index, answer in enumerate(answers) if isinstance(answer, Behind)]
        if behind and self._has_caught_up():
            again = self._issuing.issue_all([wanted[index] for index in behind], self._signing)
            for index, answer in zip(behind, again, strict=True):
                answers[index] = answer
        return answers

    def issue_server(self, names: tuple[str, ...], now: float) -> tuple[bytes, Life]:
        """A new key and its chain (PEM, together) for the CA's own server at names, and how long they are good.
        Unreachable when they cannot be stored."""
        own = self._signing.own
        life = Life.starting(now, certificates.LEAF_LIFE_S)
        pair = certificates.make_server(names, own.issuer, life)
        issued = Issued(
            certificates.serial(pair.certificate), " ".join(names), str(ITSELF), *Life.of(pair.certificate), now
        )
        self._issuing.tell([line("serve", self.store.add(issued), issued, ITSELF)])
        return certificates.key_pem(pair.key) + chain_pem(pair.certificate, own).encode(), life

    def bundle(self) -> Bundle:
        """What whoever verifies is to know. Unreachable when the deny list cannot be read."""
        denied, rotation = self.store.denied(), self.store.rotation()  # first the number: what is read later is newer
        if self._external is None and self._files.state() != self._state:
            self._reread_changed()  # another process has changed them, and then the number
        if self._external is not None and self._sharing is not None:
            self._share_if_changed(self._sharing)  # another CA has
        records = tuple(Denial(each.kind, each.value, each.expires_at) for each in denied.records)
        renewal = None
        if rotation is not None and rotation.issued_before:
            renewal = Renewal(rotation.issued_before, rotation.renew_within_s)
        self._last = Bundle(
            self.trust_domain, self.bundle_pem, denied.sequence, records, renewal, self.jwts.public(self._now)
        )
        return self._last

    def last_bundle(self) -> Bundle:
        """The bundle; while the store cannot be read, as it was when it last could be."""
        try:
            return self.bundle()
        except Unreachable:
            if self._last is None:
                raise
            return self._last

    def refused(self, action: str, requester: str, peer: str, identity: str, reason: str, now: float) -> None:
        """Tell the audit log of a refusal; Unreachable when it cannot be told."""
        if self._audit is None:
            return
        sequence: int | None
        try:
            sequence = self.store.next_audit()
        except Unreachable:
            sequence = None  # why it is refused may be just that the store is away
        self._audit.write(now, sequence, action, "refused", requester, peer=peer, identity=identity, reason=reason)

    def root_hashes(self) -> frozenset[bytes]:
        """Of the public keys of the roots: what join tokens name their CA by."""
        roots = x509.load_pem_x509_certificates(self.bundle_pem.encode())
        return frozenset(certificates.key_hash(root.public_key()) for root in roots)

    def check(self, now: float) -> None:
        """Unreachable when nothing that is signed at this time would be good."""
        if self._trouble:
            raise Unreachable(self._trouble)
        own = self._signing.own
        for what, certificate in (("root", own.root), ("issuer", own.issuer.certificate)):
            life = Life.of(certificate)
            if not life.not_before <= now < life.not_after:
                raise Unreachable(
                    f"the CA's {what} is good from {when(life.not_before)} to {when(life.not_after)}, and the CA's "
                    f"clock says {when(now)}"
                )

    def maintain(self, now: float) -> None:
        """Renew the issuer when two thirds of its life are over, and forget what expired long ago. To be called often;
        what it cannot do it logs, and tries again an hour later. Unreachable when the database cannot be used."""
        self._now = now
        if self._external is not None:
            self._reload_issuer(self._external, now)
        if abs(now - self._maintained) < MAINTAIN_EVERY_S:
            return
        self._maintained = now
        own = self._signing.own
        if Life.of(own.root).not_after < now + WARN_ROOT_S:
            log.warning("the root expires at %s: make a new CA before", _ends(own.root))
        if Life.of(own.issuer.certificate).is_due(now):
            if self._external is None:
                self._renew_issuer(now)
            else:
                log.warning("the issuer expires at %s: have it renewed where its root is", when(own.life().not_after))
        self.store.forget_expired(now)

    def rotate(self, now: float) -> None:
        """Bring a rotation of issuer or root, and the keys of JWT-SVIDs, as far as may be now. To be called every
        second or so. Problem or Unreachable when it cannot be."""
        self._now = now
        self._share(now)
        self._beat(now)
        self.jwts.keep(now)
        rotation = self.store.rotation()
        if self._external is not None or rotation is None or rotation.is_over or not self._leads():
            return
        with self._files.changing():
            self._reread(now)
            rotation = self.store.rotation()
            stepped = step(self._files, self.store, self.own, rotation, now) if rotation is not None else None
            if stepped is None:
                return
            self._use(stepped.own)
            self._state = self._files.state()
            if self._sharing is not None:
                self._sharing.publish(stepped.own)
            try:
                made, sequence = self.store.rotate(rotation, stepped.rotation)
            except Conflict:  # an operator was faster, and is heeded the next time
                return
        text = described(made, ())
        log.info("rotation of the %s", text)
        if self._audit is not None:
            self._audit.write(now, sequence, "rotate", "changed", str(ITSELF), subject=text)

    def close(self) -> None:
        self.store.close()

    def _beat(self, now: float) -> None:
        """Tell the other CAs on the store, if there may be any, that this one runs."""
        if self.store.peers is None:
            return
        own, self._begun_at = self.own, self._begun_at or now
        ready_for = "" if self._sharing is None else self._sharing.ready_for(own)
        self.store.peers.beat(
            Running(
                self.store.peers.name,
                self._begun_at,
                now,
                self._files.root_key.exists(),
                certificates.bundle_hash(own.bundle_pem),
                roots.key_hash(own.root),
                ready_for,
                Life.of(own.issuer.certificate).not_before + certificates.BACKDATE_S,
            )
        )

    def _leads(self) -> bool:
        """Whether this CA is the one that brings a rotation on."""
        return self.store.peers is None or self.store.peers.alone(LEADING)

    def _share_if_changed(self, sharing: Sharing) -> None:
        try:
            is_current = sharing.is_current(self.own)
        except Problem as problem:
            raise Unreachable(str(problem)) from problem
        if not is_current:
            self._share(self._now)

    def _has_caught_up(self) -> bool:
        """Whether what other CAs have changed is taken up now."""
        try:
            self._share(self._now)
        except Unreachable as error:
            log.warning("what other CAs have changed is not taken up: %s", error)
            return False
        return True

    def _share(self, now: float) -> None:
        """Have the roots, and an issuer, as all CAs on the store have them. Unreachable when that cannot be now."""
        if self._sharing is None:
            return
        rotation = self.store.rotation()
        made: list[Made] = []
        try:
            with self._share_lock, self._files.changing():
                if self._external is None:
                    self._reread(now)
                    made = self._sharing.lead(self.own, rotation, now)
                elif (found := self._sharing.follow(self.own, rotation, now)) is not self.own:
                    self._use(found)
                    self._external_state = self._external.state()
        except Problem as problem:
            self._trouble = str(problem)
            raise Unreachable(self._trouble) from problem
        self._trouble = ""
        for each in made:
            self._signed_issuer(each, now)

    def _signed_issuer(self, made: Made, now: float) -> None:
        until, serial = Life.of(made.certificate).not_after, certificates.serial(made.certificate)
        log.info("issued an issuer to the CA %s: serial %s, until %s", made.ca, serial, when(until))
        if self._audit is not None:
            self._audit.write(
                now,
                self.store.next_audit(),
                "sign-intermediate",
                "issued",
                f"ca {made.ca}",
                identity=f"spiffe://{self.trust_domain}",
                serial=serial,
                until=until,
            )

    def _reread(self, now: float) -> None:
        """Sign with what is in the files."""
        state = self._files.state()
        if state != self._state:
            self._use(material.load(self._files, now))
            self._state = state

    def _reread_changed(self) -> None:
        """The same for those who ask for the bundle: Unreachable when the files cannot be read."""
        try:
            self._reread(self._now)
        except Problem as problem:
            raise Unreachable(f"what the CA signs with cannot be read again: {problem}") from problem

    def _renew_issuer(self, now: float) -> None:
        own = self._signing.own
        try:
            with self._files.changing():
                self._use(material.renew_issuer(self._files, own, now))
                self._state = self._files.state()
        except Problem as problem:
            log.error("the issuer expires at %s and is not renewed: %s", _ends(own.issuer.certificate), problem)
        else:
            log.info("issuer renewed: it is good until %s", _ends(self._signing.own.issuer.certificate))

    def _reload_issuer(self, external: IssuerFiles, now: float) -> None:
        """Use what has been put into its files, once it is good."""
        state = external.state()
        if state == self._external_state:
            return
        self._external_state = state
        try:
            self._use(load_external(self._files, external, now))
        except Problem as problem:
            log.error("the issuer in its files is not taken, the one before stays in use: %s", problem)
        else:
            log.info("issuer read again: it is good until %s", _ends(self._signing.own.issuer.certificate))

    def _use(self, own: Material) -> None:
        self._signing = Signing(own, rules(own.trust_domain, own.life()))


def create_root(directory: Path, trust_domain: str, now: float, passphrase: bytes | None = None) -> None:
    """A root alone in directory, to sign intermediates with. Errors as of `Authority.create`."""
    _check_trust_domain(trust_domain)
    paths = CaFiles(directory, passphrase)
    with paths.making():
        material.create(paths, trust_domain, now, with_issuer=False)


def _check_trust_domain(text: str) -> None:
    if not is_trust_domain(text):
        raise Misuse(f"{text!r} is not a trust domain: DNS labels joined by dots, as in prod.example")


def _ends(certificate: x509.Certificate) -> str:
    return when(Life.of(certificate).not_after)
