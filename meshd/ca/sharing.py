"""How the CAs on one store come to hand out the same roots, and to have an issuer below the one that signs.

    the CA with the root's key   publishes the bundle with each change of it (`publish`), and signs the issuers that the
                                 others ask for (`lead`)
    every other                  takes what was published (`follow`), and has an issuer made in time: below the other
                                 root of two, to be ready for when that signs, and anew when it is due or asked for

What is believed of what is on the store is said in `meshd.ca.roots`. The keys stay on their hosts, in

    issuer.next   the key of an issuer that was asked for; with its certificate, while the two take the place of
                  issuer.key and issuer.pem, which may be interrupted anywhere
    roots.json    the roots that were taken last, as they were signed: none older are taken

A CA signs only while its roots are those on the store and its issuer is below the first of them (`Peers.take`): one
that was away and does not know of a change signs nothing of before.
"""

import logging
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.problems import Problem
from meshd.ca import certificates, external, files, material, roots
from meshd.ca.certificates import Life
from meshd.ca.external import IssuerFiles
from meshd.ca.files import CaFiles
from meshd.ca.material import Material
from meshd.ca.records import IssuerAnswer, IssuerRequest, Rotation, SignedRoots
from meshd.ca.source import Unreachable
from meshd.ca.store import Conflict, Peers

log = logging.getLogger(__name__)

NONE: Final = 0
"""Taken, where it is none of the roots on the store: then nothing is signed."""

MOST_ASKED: Final = 64
"""CAs whose requests are looked at: more than a mesh has."""

LEADING: Final = "rotation"
"""What one CA with the root's key does, should there be a second one with a copy of it."""

APART_S: Final = 5.0
"""What the clocks of CAs and operators may differ where an issuer is to be newer than a request for it."""


class Made(NamedTuple):
    """An issuer that was signed for the CA called `ca`."""

    ca: str
    certificate: x509.Certificate


class _Next(NamedTuple):
    """An issuer that is not in use: below which root it is to be, and with its chain (PEM) once there is one."""

    root: str
    key: ec.EllipticCurvePrivateKey
    request: IssuerRequest
    chain_pem: str = ""


class Sharing:
    """For the CA in its files; `issuer` names those of one whose root is elsewhere. Called by one thread at a time."""

    def __init__(self, paths: CaFiles, peers: Peers, trust_domain: str, issuer: IssuerFiles | None) -> None:
        self._paths, self._peers, self._trust_domain, self._issuer = paths, peers, trust_domain, issuer
        self._next: _Next | None = None
        self._refusal = ""

    def is_current(self, own: Material) -> bool:
        """Whether nothing was published since this CA took the roots that it has."""
        found, _ = self._peers.roots()
        if found is None or found.bundle_pem == own.bundle_pem:
            return True
        return set(_hashes(found)) == set(map(roots.key_hash, x509.load_pem_x509_certificates(own.bundle_pem.encode())))

    def ready_for(self, own: Material) -> str:
        """The root for which there is an issuer besides the one in use; empty for none."""
        if self._issuer is None:
            return roots.key_hash(material.load_next(self._paths)) if self._paths.root_next.exists() else ""
        found = self._next
        return found.root if found is not None and found.chain_pem and found.root != roots.key_hash(own.root) else ""

    # --- with the root's key

    def publish(self, own: Material) -> None:
        """Have the others hand out what this one does. Problem or Unreachable."""
        before, at = self._peers.roots()
        if before is None or before.bundle_pem != own.bundle_pem:
            number = 1 if before is None else before.number + 1
            pairs = material.pairs(self._paths, own)
            made = roots.signed(self._trust_domain, number, own.bundle_pem, pairs)
            try:
                at = self._peers.publish(made, at)
            except Conflict as conflict:
                raise Unreachable(str(conflict)) from conflict
        self._peers.take(at)

    def lead(self, own: Material, rotation: Rotation | None, now: float) -> list[Made]:
        """Sign what the others ask for. Problem where the roots on the store are of a later time than those here."""
        found, at = self._peers.roots()
        if found is None:
            self.publish(own)
        elif found.bundle_pem == own.bundle_pem:
            self._peers.take(at)
        elif rotation is None or rotation.is_over:
            self._peers.take(NONE)
            raise Problem(
                f"{self._paths.directory}: the roots on the store are others than those here: restore the CA's "
                "directory from a copy that was made since they changed"
            )
        if not self._peers.alone(LEADING):
            return []
        made = []
        for ca, (request, answer) in list(self._peers.asked().items())[:MOST_ASKED]:
            if answer is None or answer.request != roots.request_hash(request):
                made += self._answered(ca, request, own, now)
        return made

    def _answered(self, ca: str, request: IssuerRequest, own: Material, now: float) -> list[Made]:
        which = roots.request_hash(request)
        try:
            chain = self._signed(request, own, now)
        except (Problem, ValueError, UnsupportedAlgorithm) as problem:  # the latter two of keys that nobody has
            log.error("the CA %s has no new issuer: %s", ca, problem)
            self._peers.answer(ca, IssuerAnswer(which, "", str(problem)))
            return []
        self._peers.answer(ca, IssuerAnswer(which, b"".join(map(certificates.pem, chain)).decode()))
        return [Made(ca, chain[0])]

    def _signed(self, request: IssuerRequest, own: Material, now: float) -> list[x509.Certificate]:
        known = x509.load_pem_x509_certificates(own.bundle_pem.encode())
        csr = roots.read_request(request, self._trust_domain, known, now)
        root = next((each for each in known if roots.key_hash(each) == request.root), None)
        if root is None:
            raise Problem("an issuer is asked for below a root that is not believed")
        pair = material.pair_of(self._paths, root)
        life = Life.starting(now, certificates.ISSUER_LIFE_S)
        above = material.vouched_for(self._paths, own, root, now)
        return [external.certify(pair, self._trust_domain, csr, life), *above]

    # --- without

    def follow(self, own: Material, rotation: Rotation | None, now: float) -> Material:
        """What to sign with, by what is on the store now. Problem or Unreachable when it cannot be taken up."""
        found, at = self._peers.roots()
        if found is None:  # all roots are elsewhere, and bundles are changed by hand
            return own
        own = self._taken(found, own, now)
        if self._issuer == IssuerFiles(self._paths.issuer, self._paths.issuer_chain):
            own = self._with_issuer(own, found, rotation, now)
        self._peers.take(at if roots.key_hash(own.root) == _hashes(found)[0] else NONE)
        return own

    def _taken(self, found: SignedRoots, own: Material, now: float) -> Material:
        """With the roots that were published, in their files."""
        before = self._held()
        if before == found:
            return own
        if before is not None and found.number <= before.number:
            raise Problem(
                f"the roots on the store are of version {found.number}, and this CA had {before.number}: restore "
                "its data from a newer copy"
            )
        roots.check(found, self._trust_domain, x509.load_pem_x509_certificates(own.bundle_pem.encode()))
        own = self._prepared(own, found, now)
        files.write(self._paths.bundle, found.bundle_pem.encode(), mode=0o644, owner_of=self._paths.directory)
        files.write(self._paths.roots, msgspec.json.encode(found), owner_of=self._paths.directory)
        log.info("the trust bundle has %d roots now (version %d)", found.bundle_pem.count("BEGIN"), found.number)
        return self._loaded(now)

    def _prepared(self, own: Material, found: SignedRoots, now: float) -> Material:
        """With an issuer below one of the roots that there will be."""
        if roots.key_hash(own.root) in _hashes(found):
            return own
        following = self._next or self._left(found.bundle_pem)
        if following is None or not following.chain_pem or following.root not in _hashes(found):
            raise Problem(
                "the mesh's root was changed while this CA was away: have its issuer.csr signed anew "
                "(`meshd ca sign-intermediate`), and copy bundle.pem of another CA"
            )
        return self._promoted(following, now)

    def _with_issuer(self, own: Material, found: SignedRoots, rotation: Rotation | None, now: float) -> Material:
        """With the issuer that this CA is to have; below the other root there is one too, as soon as it is signed."""
        wanted = self._wanted(own, found, rotation, now)
        if not wanted:
            self._next = None
            self._paths.issuer_next.unlink(missing_ok=True)
            return self._without_above(own, found, now)
        following = self._asked(own, wanted)
        if following.chain_pem and wanted == _hashes(found)[0]:
            return self._promoted(following, now)
        return own

    def _wanted(self, own: Material, found: SignedRoots, rotation: Rotation | None, now: float) -> str:
        """The root that another issuer is to be below; empty where none is to be."""
        signs, *others = _hashes(found)
        life = Life.of(own.issuer.certificate)
        made_at = life.not_before + certificates.BACKDATE_S
        is_asked = rotation is not None and rotation.what == "issuer" and made_at < rotation.begun_at - APART_S
        is_asked = is_asked and rotation is not None and rotation.stage in {"asked", "done"}
        if roots.key_hash(own.root) != signs or life.is_due(now) or is_asked:
            return signs
        return others[0] if others else ""

    def _asked(self, own: Material, wanted: str) -> _Next:
        """The issuer below that root, as far as it has come."""
        following = self._next or self._left(own.bundle_pem)
        if following is not None and following.root == wanted:
            self._next = following
        else:
            key = certificates.new_key()
            files.write(self._paths.issuer_next, certificates.key_pem(key, self._paths.passphrase))
            request = roots.asked(self._trust_domain, key, wanted, own.issuer.certificate, own.issuer.key)
            self._peers.ask(request)
            following = self._next = _Next(wanted, key, request)
        if not following.chain_pem:
            answer = self._peers.answered()
            if answer is not None and answer.request == roots.request_hash(following.request):
                following = self._next = following._replace(chain_pem=self._believed(answer, following, own))
        return following

    def _left(self, bundle_pem: str) -> _Next | None:
        """The issuer that was asked for, and signed below one of these roots, before this process began."""
        answer = self._peers.answered() if self._paths.issuer_next.exists() else None
        if answer is None or answer.refusal:
            return None
        key = material.load_key(self._paths.issuer_next, self._paths.passphrase)
        made, *_ = roots.read_certificates(answer.chain_pem, "the issuer")
        for root in x509.load_pem_x509_certificates(bundle_pem.encode()):
            if made.public_key() == key.public_key() and roots.is_below(made, root):
                hashed = roots.key_hash(root)
                return _Next(hashed, key, IssuerRequest("", hashed, "", ""), answer.chain_pem)
        return None

    def _believed(self, answer: IssuerAnswer, following: _Next, own: Material) -> str:
        """The chain in the answer; Problem when it is not what was asked for."""
        if answer.refusal:
            raise Problem(f"the CA with the root's key refuses an issuer: {answer.refusal}")
        chain = roots.read_certificates(answer.chain_pem, "the issuer")
        known = x509.load_pem_x509_certificates(own.bundle_pem.encode())
        root = next((each for each in known if roots.key_hash(each) == following.root), None)
        if root is None or chain[0].public_key() != following.key.public_key() or not roots.is_below(chain[0], root):
            raise Problem("what was answered to the request for an issuer is not the issuer that was asked for")
        return answer.chain_pem

    def _promoted(self, following: _Next, now: float) -> Material:
        """With that issuer, from now on."""
        key = certificates.key_pem(following.key, self._paths.passphrase)
        files.write(self._paths.issuer_next, key + following.chain_pem.encode(), owner_of=self._paths.directory)
        complete(self._paths)
        self._next = None
        own = self._loaded(now)
        log.info("issuer changed: it is good until %s", material.when(Life.of(own.issuer.certificate).not_after))
        return own

    def _without_above(self, own: Material, found: SignedRoots, now: float) -> Material:
        """Without the certificate of the root before for the one that signs, once that is the only one."""
        if len(_hashes(found)) > 1 or not own.issuer.above:
            return own
        chain = certificates.pem(own.issuer.certificate)
        files.write(self._paths.issuer_chain, chain, mode=0o644, owner_of=self._paths.directory)
        return self._loaded(now)

    def _loaded(self, now: float) -> Material:
        assert self._issuer is not None  # else this CA has the root's key
        return external.load(self._paths, self._issuer, now)

    def _held(self) -> SignedRoots | None:
        try:
            return msgspec.json.decode(files.read(self._paths.roots), type=SignedRoots)
        except (Problem, msgspec.DecodeError):
            return None


def complete(paths: CaFiles) -> None:
    """Put the issuer in `issuer.next` in the place of the one in use, if it is there with its certificate: also what
    was interrupted. Problem when it cannot be."""
    if not paths.issuer_next.exists():
        return
    content = files.read_secret(paths.issuer_next)
    key, begins, chain = content.partition(b"-----BEGIN CERTIFICATE-----")
    if not begins:
        return  # a key alone: it was asked for, and is again
    files.write(paths.issuer, key, owner_of=paths.directory)
    files.write(paths.issuer_chain, begins + chain, mode=0o644, owner_of=paths.directory)
    external.write_request(paths)
    paths.issuer_next.unlink()


def _hashes(found: SignedRoots) -> list[str]:
    return [roots.key_hash(each) for each in roots.read_certificates(found.bundle_pem, "the roots")]
