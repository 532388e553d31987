"""The CA's HTTPS API: what is said over it. The server is `meshd.ca.api`, the client `meshd.ca.client`.

    POST /v1/sign     SignRequest                                 →  meshd.api.control.Certificate
    POST /v1/jwt      JwtRequest                                  →  Token
    POST /v1/join     JoinRequest, `Authorization: Bearer TOKEN`  →  Joined
    GET  /v1/bundle                                               →  Bundle
    GET  /v1/bundle?after=SEQUENCE&wait=SECONDS                   →  Bundle, when it is another, or after that time,
                   &oldest=SECONDS                                   or at once where too many wait
    GET  /v1/health                                               →  Health

With `after` a node says which bundle it has, and with `oldest` when its oldest certificate in use was issued (seconds
since the epoch): a root is withdrawn when nobody needs it any more.

Bodies are JSON. Who has something signed proves who it is by a certificate in TLS or by `Authorization: Bearer`
(`meshd.ca.attest`), who joins by a join token there. A status other than 200 comes with an `Error`.
"""

from typing import Literal

from msgspec import Struct

MAX_CSR_BYTES = 16 << 10
"""A P-256 request takes 400 bytes, one of RSA 8192 takes 3,000."""

MAX_BODY_BYTES = 2 * MAX_CSR_BYTES
"""Of a request: the CSR with its newlines escaped, and the rest."""

MAX_ANSWER_BYTES = 512 << 10
"""The longest is a bundle with a full deny list: 5,000 records of 80 bytes."""


class SignRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate of `identity` (a SPIFFE ID) for the key that signed the CSR (PEM)."""

    csr_pem: str
    identity: str


class JwtRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A JWT-SVID of `identity` for these audiences, good for `life_s` seconds; 0: as long as the CA usually has it."""

    identity: str
    audiences: tuple[str, ...]
    life_s: float = 0.0


class Token(Struct, frozen=True):
    """A JWT-SVID, and from when to when it is good, in seconds since the epoch."""

    token: str
    issued_at: float
    expires_at: float


class JoinRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate of the node called `node` (a DNS label) for the key that signed the CSR (PEM)."""

    csr_pem: str
    node: str


class Joined(Struct, frozen=True):
    """The node's certificate, as in `meshd.api.control.Certificate`, and all that it is to believe from now on."""

    trust_domain: str
    bundle_pem: str
    chain_pem: str
    not_before: float
    not_after: float


class Denial(Struct, frozen=True, omit_defaults=True):
    """What is no longer believed: one certificate (`value` is its serial number, in lower-case hexadecimal), or all of
    an identity (a SPIFFE ID). A node is here as itself and by the serials of all that went to it. `expires_at` is 0
    for as long as it is not withdrawn."""

    kind: Literal["serial", "identity", "node"]
    value: str
    expires_at: float = 0.0


class Renewal(Struct, frozen=True):
    """Certificates that are good from before `issued_before` on (seconds since the epoch) are to be renewed: within so
    many seconds, each at a time of its own."""

    issued_before: float
    within_s: float


class Jwk(Struct, frozen=True):
    """A key that JWT-SVIDs of the trust domain are signed with (P-256; `x` and `y` as in RFC 7518, section 6.2.1), to
    be believed until `not_after` (seconds since the epoch)."""

    kid: str
    x: str
    y: str
    not_after: float


class Bundle(Struct, frozen=True):
    """The roots that everything in the trust domain chains to (PEM), what is denied all the same, and the keys of
    JWT-SVIDs. `sequence` is another with every change of these. One who has that number already, and found no place to
    wait, is told to ask again in `again_s` seconds, and all else is left out."""

    trust_domain: str
    bundle_pem: str
    sequence: int = 0
    denied: tuple[Denial, ...] = ()
    renewal: Renewal | None = None
    jwt_keys: tuple[Jwk, ...] = ()
    again_s: float = 0.0


class Health(Struct, frozen=True, omit_defaults=True):
    """The CA is well; `now` is its clock, in seconds since the epoch. `other_since`, for a node that asks (`?node=1`,
    and its certificate): since when the node of that name has another key than it shows; 0 where it has not."""

    trust_domain: str
    now: float
    other_since: float = 0.0


class Error(Struct, frozen=True):
    """Why not, for a person to read."""

    error: str
