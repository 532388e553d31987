"""How an authority gives certificates out: one at a time, or those that are asked for at the same time together.

    authorise → modify → validate → enforce (`meshd.ca.rules`) → sign → store → tell the audit log

A certificate is on record, and its line in the audit log, both synced to disk, before anybody has it. Should the
process die in between, there is a record of one that nobody has; the other way round there would be one in the mesh
that the CA does not know of. Those that are asked for together are one transaction and one write of the log: a sync
takes what ten signatures do, and on a slow disk a hundred.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509

from meshd.api.control import Certificate
from meshd.api.logs import about
from meshd.api.names import Identity, InvalidName
from meshd.ca import certificates
from meshd.ca.audit import AuditLog, Line
from meshd.ca.certificates import Life
from meshd.ca.material import Material, when
from meshd.ca.records import Entry, Issued, Node
from meshd.ca.requester import Requester
from meshd.ca.rules import NOTHING_DENIED, Asked, Denials, Pipeline, read_csr
from meshd.ca.source import Forbidden, Unreachable
from meshd.ca.store import Conflict, Store, Undone
from meshd.ca.tokens import new_id

log = logging.getLogger("meshd.ca.authority")
"""On whose behalf this is."""


class Signing(NamedTuple):
    """What is signed with, and by which rules."""

    own: Material
    rules: Pipeline[Asked]


class Wanted(NamedTuple):
    """A certificate of `identity` for the CSR's key, as `requester` asks for it at the time `now`."""

    csr_pem: str
    identity: Identity
    now: float
    requester: Requester


class _Signed(NamedTuple):
    """A certificate that is not on record yet, so that nobody may have it."""

    asked: Asked
    issued: Issued
    certificate: Certificate


class _Stored(NamedTuple):
    """One that is, and what the audit log is to say of it first."""

    certificate: Certificate
    line: Line


class Issuing:
    """Keeps what it signs in `store`, and says so in `audit`, unless that is None."""

    def __init__(self, store: Store, audit: AuditLog | None) -> None:
        self._store, self._audit = store, audit
        self._denied: tuple[int, Denials] = (0, NOTHING_DENIED)

    def issue_all(self, wanted: Sequence[Wanted], signing: Signing) -> list[Certificate | Exception]:
        """For each a certificate, or why there is none: a Refusal of it alone, or Unreachable, of all that would have
        been good, when they cannot be kept."""
        signed = [self._signed(each, signing) for each in wanted]
        kept = iter(self._kept([each for each in signed if isinstance(each, _Signed)]))
        return [next(kept) if isinstance(each, _Signed) else each for each in signed]

    def tell(self, lines: Sequence[Line]) -> None:
        """The log and the audit log; Unreachable when the latter cannot be told."""
        for each in lines:
            who = f"{each.actor} at {each.peer}" if each.peer else each.actor
            known = about(workload=_workload(each.identity), peer=each.actor)
            log.info("issued %s to %s: serial %s, until %s", each.identity, who, each.serial, each.until, extra=known)
        if self._audit is not None and lines:
            self._audit.append(lines)

    def denials(self) -> Denials:
        """The deny list as it is now; it is read again when it has changed."""
        if self._store.sequence() != self._denied[0]:
            found = self._store.denied()
            self._denied = (found.sequence, {(each.kind, each.value): each.reason for each in found.records})
        return self._denied[1]

    def _signed(self, wanted: Wanted, signing: Signing) -> _Signed | Exception:
        identity, requester = wanted.identity, wanted.requester
        try:
            asked = Asked(identity, read_csr(wanted.csr_pem), wanted.now, requester, self.denials())
            life = signing.rules.decide(asked)
            leaf = certificates.make_leaf(str(identity), asked.csr.public_key(), signing.own.issuer, life)
        except Exception as error:  # a Refusal, Unreachable, or a bug: of this one alone in any case
            return error
        life = Life.of(leaf)
        issued = Issued(
            certificates.serial(leaf),
            str(identity),
            str(requester),
            *life,
            wanted.now,
            node=requester.node or identity.host,
            workload="" if identity.host else str(identity.workload),
        )
        return _Signed(asked, issued, Certificate(chain_pem(leaf, signing.own), *life))

    def _kept(self, signed: Sequence[_Signed]) -> list[Certificate | Exception]:
        """On record, and told of."""
        if not signed:  # what is refused is so even where nothing can be stored
            return []
        try:
            try:
                with self._store.together():
                    stored = [self._stored(each) for each in signed]
            except Undone:
                stored = [self._stored_alone(each) for each in signed]
            self.tell([each.line for each in stored if isinstance(each, _Stored)])
        except Unreachable as error:
            return [error] * len(signed)
        return [each.certificate if isinstance(each, _Stored) else each for each in stored]

    def _stored_alone(self, signed: _Signed) -> _Stored | Exception:
        """`_stored`, where it is no matter to the others what becomes of this one."""
        try:
            return self._stored(signed)
        except Unreachable as error:
            return error

    def _stored(self, signed: _Signed) -> _Stored | Exception:
        asked, issued = signed.asked, signed.issued
        try:
            action, sequence = self._record(asked, issued)
        except Conflict as conflict:  # it must not be after all
            refused = Forbidden(str(conflict))
            refused.__cause__ = conflict
            return refused
        return _Stored(signed.certificate, line(action, sequence, issued, asked.requester))

    def _record(self, asked: Asked, issued: Issued) -> tuple[str, int]:
        """Store the certificate with all that follows from it: what was done, and its number."""
        if not asked.identity.host:
            return "sign", self._store.add(issued)
        host, token, now = asked.identity.host, asked.requester.token, asked.now
        key_hash = certificates.key_hash(asked.csr.public_key()).hex()
        if token is None:
            return "renew", self._store.add(issued, Node(host, key_hash, "", now, now, issued.not_after))
        entries = [Entry(new_id(), host, workload, token.origin, now) for workload in token.workloads]
        node = Node(host, key_hash, token.origin, now, now, issued.not_after)
        return "join", self._store.join(token.id, node, issued, entries, now)


def line(action: str, sequence: int, issued: Issued, requester: Requester) -> Line:
    """What the audit log says of a certificate."""
    return Line(
        when(issued.issued_at),
        sequence,
        action,
        "issued",
        requester.name,
        peer=requester.address,
        identity=issued.identity,
        node=issued.node,
        serial=issued.serial,
        until=when(issued.not_after),
    )


def _workload(identity: str) -> str:
    """Whose it is, where it is a workload's: hosts have some, and the CA's own server has names."""
    try:
        found = Identity.parse(identity)
    except InvalidName:
        return ""
    return "" if found.host else str(found.workload)


def chain_pem(leaf: x509.Certificate, own: Material) -> str:
    """The leaf with all that is between it and the root."""
    chain = (leaf, own.issuer.certificate, *own.issuer.above)
    return b"".join(map(certificates.pem, chain)).decode()
