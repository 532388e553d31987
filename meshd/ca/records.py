"""What the CA keeps, as values, and what follows from them. Where they are kept is `meshd.ca.store`.

Times are seconds since the epoch. Of secrets there are only hashes: SHA-256 in lower-case hexadecimal, unsalted since
what they are of is random.
"""

import hashlib
from typing import Final, Literal, NamedTuple

from meshd.ca.patterns import is_exact, matches_node

NODE_ORIGIN: Final = "token "
"""What the origin of an entry begins with that came with a node's token."""


class Issued(NamedTuple):
    """A certificate that was issued. `node` is the host that it went to, as far as that was proven; `workload` is
    NAMESPACE/NAME, empty for a host's certificate and for the CA's own server's."""

    serial: str
    identity: str
    requester: str
    not_before: float
    not_after: float
    issued_at: float
    node: str = ""
    workload: str = ""


class Node(NamedTuple):
    """A host that joined: the key it has now (hash of its SubjectPublicKeyInfo), and what it joined with."""

    name: str
    key_hash: str
    origin: str
    joined_at: float
    renewed_at: float
    not_after: float


class Entry(NamedTuple):
    """The nodes that `node` matches may have certificates for the workloads that `workload` matches. `origin` says
    where it is from: `operator`, or `token ID` for one that came with the token by which its node joined."""

    id: str
    node: str
    workload: str
    origin: str
    made_at: float


class JoinToken(NamedTuple):
    """What a host may join with, `uses` times in all, as a node that `node` matches; such a node then has entries for
    `workloads`."""

    id: str
    secret_hash: str
    node: str
    workloads: tuple[str, ...]
    uses: int
    used: int
    made_at: float
    expires_at: float
    revoked_at: float = 0.0

    @property
    def origin(self) -> str:
        return f"{NODE_ORIGIN}{self.id}"

    def state(self, now: float) -> Literal["valid", "revoked", "expired", "used up"]:
        if self.revoked_at:
            return "revoked"
        if now >= self.expires_at:
            return "expired"
        return "valid" if self.used < self.uses else "used up"

    def is_used_by(self, known: Node | None, key_hash: str) -> bool:
        """Whether the node joined with this token and this key before: its answer may have been lost on the way, and
        who has the key has the identity already. So it may ask again, and that is not another use."""
        return known is not None and (known.origin, known.key_hash) == (self.origin, key_hash)

    def refuses(self, name: str, key_hash: str, known: Node | None, now: float) -> str:
        """Why the node `name` may not join with this token and the key of that hash; empty when it may. `known` is
        what is on record of a node of that name."""
        state = self.state(now)
        if state != "valid" and not (state == "used up" and self.is_used_by(known, key_hash)):
            return f"the join token {self.id} is {state}"
        if not matches_node(self.node, name):
            return f"the join token {self.id} is for the node {self.node}, not for {name}"
        if known is not None and known.key_hash != key_hash and not is_exact(self.node):
            return (
                f"the node {name} has joined before, with another key: only a token for exactly this node replaces it "
                f"(`meshd ca token create --node {name}`)"
            )
        return ""


class Denied(NamedTuple):
    """What is no longer believed, though a certificate says it: one serial, all certificates of an identity (SPIFFE
    ID), or a node and all that is asked for from it. `expires_at` is 0 for as long as it is not withdrawn."""

    kind: Literal["serial", "identity", "node"]
    value: str
    reason: str
    made_at: float
    expires_at: float = 0.0


class DenyList(NamedTuple):
    """All that is denied; `sequence` grows with every change of it, and of the trust bundle."""

    sequence: int
    records: tuple[Denied, ...]


Stage = Literal["asked", "prepared", "active", "aborting", "reverting", "done", "aborted"]


class Rotation(NamedTuple):
    """The change of an issuer or of a root, as far as it has come (`meshd.ca.rotation`); the last one stays on record.
    `sequence` is the bundle's number since this stage began. Certificates issued before `issued_before` are to be
    renewed, within `renew_within_s`; 0 when there are none. A stage lasts `settle_s` at least; `force_after_s` is when
    those that have not answered are waited for no longer, 0 for never."""

    what: Literal["issuer", "root"]
    stage: Stage
    begun_at: float
    stage_at: float
    settle_s: float = 0.0
    renew_within_s: float = 0.0
    force_after_s: float = 0.0
    sequence: int = 0
    issued_before: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.stage in ("done", "aborted")


class Held(NamedTuple):
    """What a node said last of itself: it has the bundle of that number, and its oldest certificate in use, its
    workloads' among them, was issued at `oldest`; 0 when it cannot tell."""

    node: str
    sequence: int
    oldest: float
    heard_at: float


class JwtKey(NamedTuple):
    """A public key for JWT-SVIDs (P-256, as a JWK has it), whose private key one CA has, called `ca`. Published from
    `made_at` on, signs from `use_at` on and until `retired_at` (0: it has not been), believed until `not_after`. From
    `succeed_at` on its CA is to have another, which is published for `settle_s` before it signs."""

    kid: str
    x: str
    y: str
    ca: str
    made_at: float
    use_at: float
    not_after: float
    succeed_at: float
    settle_s: float
    retired_at: float = 0.0

    def state(self, now: float) -> Literal["published", "signs", "retired", "expired"]:
        if now >= self.not_after:
            return "expired"
        if self.retired_at:
            return "retired"
        return "published" if now < self.use_at else "signs"


class SignedRoots(NamedTuple):
    """The roots that all CAs on one store hand out (PEM; the one that signs comes first), in the `number`th version.
    `signatures` are by the roots' keys, as far as they are where this was written: hash of the key → base64
    (`meshd.ca.roots`)."""

    number: int
    bundle_pem: str
    signatures: dict[str, str]


class IssuerRequest(NamedTuple):
    """A CA asks for an issuer below the root of that hash: its certificate request, its issuer until now, and a
    signature by that one's key (base64), which shows who asks."""

    csr_pem: str
    root: str
    issuer_pem: str
    signature: str


class IssuerAnswer(NamedTuple):
    """What the CA with the root's key says to a request, that of the hash: the chain (PEM), or why there is none."""

    request: str
    chain_pem: str
    refusal: str = ""


class Running(NamedTuple):
    """A CA daemon that runs, where there are several on one store, as it says of itself. `clock` is its own; `roots`
    and `issuer` are hashes: of the trust bundle that it hands out, and of the key of the root that its issuer is below.
    `ready_for` is that of another root, for which it has an issuer too; empty when there is none. Its issuer was made
    at `issuer_since`."""

    ca: str
    begun_at: float
    clock: float
    has_root_key: bool
    roots: str
    issuer: str
    ready_for: str = ""
    issuer_since: float = 0.0


def hashed(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
