"""What the CA asks of a request before it signs, and what it makes of it: one small object a rule.

    authorise → modify → validate → enforce → (sign → store, in `meshd.ca.authority`)

A check raises Refusal with a reason for the requester. A change returns the life that the leaf is to have. What a leaf
says besides its identity, key and life is no one's to ask for (`meshd.ca.certificates`). Those of JWT-SVIDs are in
`meshd.ca.jwt_rules`, and have some of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID

from meshd.api.names import Identity
from meshd.ca.certificates import LEAF_LIFE_S, NODE_LIFE_S, Life
from meshd.ca.requester import Requester
from meshd.ca.source import Forbidden, Refusal, Unreachable
from meshd.ca.wire import MAX_CSR_BYTES

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for a CSR that it cannot read."""

LEAST_LIFE_S: Final = 600.0
"""A leaf that would end sooner, because its issuer does, would be renewed without pause and hide why."""


Denials = Mapping[tuple[str, str], str]
"""(kind, value) → why it is denied; see `meshd.ca.records.Denied`."""

NOTHING_DENIED: Final[Denials] = {}


class Claim(Protocol):
    """Someone asks for an identity, in whatever form."""

    @property
    def identity(self) -> Identity: ...

    @property
    def now(self) -> float: ...

    @property
    def requester(self) -> Requester: ...

    @property
    def denied(self) -> Denials: ...


A = TypeVar("A", bound=Claim)
A_contra = TypeVar("A_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, by whom, and when; `denied` is what is no longer believed."""

    identity: Identity
    csr: x509.CertificateSigningRequest
    now: float
    requester: Requester
    denied: Denials


class Check(Protocol[A_contra]):
    def __call__(self, asked: A_contra, /) -> None:
        """Returns when asked may pass; Refusal when not."""


class Change(Protocol[A_contra]):
    def __call__(self, asked: A_contra, life: Life, /) -> Life:
        """The life as it is to be; Refusal or Unreachable when there can be none."""


def read_csr(csr_pem: str) -> x509.CertificateSigningRequest:
    """The certificate request (PKCS #10) in PEM; Refusal when it is too large or is none."""
    if len(csr_pem) > MAX_CSR_BYTES:
        raise Refusal(f"the CSR is larger than {MAX_CSR_BYTES >> 10} KiB")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        csr.extensions  # noqa: B018 - read on first use: here, so that the rules need not fear it
    except _UNREADABLE as error:
        raise Refusal("the CSR is not a certificate request (PKCS #10) in PEM", repr(error)) from error
    return csr


@dataclass(frozen=True, slots=True)
class OfTrustDomain:
    """Authorise: the CA speaks for one trust domain."""

    trust_domain: str

    def __call__(self, asked: Claim) -> None:
        if asked.identity.trust_domain != self.trust_domain:
            raise Forbidden(f"{asked.identity} is not of this CA's trust domain, {self.trust_domain}")


def is_granted(asked: Claim) -> None:
    """Authorise: what the requester proved to be says what may be had."""
    if reason := asked.requester.grant(asked.identity):
        raise Forbidden(reason)


def is_not_denied(asked: Claim) -> None:
    """Authorise: neither who asks nor what is asked for is on the deny list."""
    requester = asked.requester
    for kind, value in (("node", requester.node), ("serial", requester.serial), ("identity", str(asked.identity))):
        if value and (kind, value) in asked.denied:
            raise Forbidden(f"the {kind} {value} is denied: {asked.denied[kind, value]}")
    if asked.identity.host and ("node", asked.identity.host) in asked.denied:
        raise Forbidden(f"the node {asked.identity.host} is denied: {asked.denied['node', asked.identity.host]}")


def begin_and_end(asked: Asked, life: Life) -> Life:  # noqa: ARG001 - a Change
    """Modify: from a little before now, for as long as leaves live; those of nodes are used with the CA alone, which
    looks at the deny list each time, and live until after a long weekend."""
    return Life.starting(asked.now, NODE_LIFE_S if asked.identity.host else LEAF_LIFE_S)


def proves_its_key(asked: Asked) -> None:
    """Validate: the requester has the private key (RFC 2986, section 4.2)."""
    try:
        valid = asked.csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refusal("the CSR is signed in a way that is not known here", repr(error)) from error
    if not valid:
        raise Refusal("the CSR's signature does not fit its key")


def has_strong_key(asked: Asked) -> None:
    """Validate: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits: above that it costs every peer dearly."""
    try:
        key = asked.csr.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refusal("the CSR's key is of a kind that is not known here", repr(error)) from error
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()) | ed25519.Ed25519PublicKey():
            return
        case rsa.RSAPublicKey(key_size=bits) if 2048 <= bits <= 8192:
            return
        case rsa.RSAPublicKey(key_size=bits):
            found = f"RSA {bits}"
        case ec.EllipticCurvePublicKey(curve=curve):
            found = f"ECDSA {curve.name}"
        case _:
            found = type(key).__name__.removesuffix("PublicKey")
    raise Refusal(f"the CSR's key is {found}: ECDSA P-256 or P-384, Ed25519, or RSA 2048 to 8192 is accepted")


def names_only_itself(asked: Asked) -> None:
    """Validate: the CSR names no one, or its identity and nothing besides."""
    if list(asked.csr.subject):
        raise Refusal("the CSR has a subject: an identity is a SPIFFE ID and has no other name, so leave it empty")
    try:
        names = asked.csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    if list(names) != [x509.UniformResourceIdentifier(str(asked.identity))]:
        raise Refusal(f"the CSR asks for other names than {asked.identity} alone", repr(list(names)))


def asks_for_names_only(asked: Asked) -> None:
    """Validate: what a certificate is good for is not the requester's to choose."""
    for extension in asked.csr.extensions:
        if extension.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            raise Refusal(
                f"the CSR asks for the extension {extension.oid.dotted_string}: only a subject alternative name may "
                "be asked for"
            )


@dataclass(frozen=True, slots=True)
class WithinIssuer:
    """Enforce: a leaf ends no later than the issuer that signs it."""

    issuer: Life

    def __call__(self, asked: Asked, life: Life) -> Life:
        if asked.now < self.issuer.not_before:
            raise Unreachable("the CA's issuer is not valid yet: the clock of the CA's host is behind")
        not_after = min(life.not_after, self.issuer.not_after)
        if not_after < asked.now + LEAST_LIFE_S:
            raise Unreachable("the CA's issuer is expired, or about to: see the log of the CA")
        return Life(max(life.not_before, self.issuer.not_before), not_after)


@dataclass(frozen=True, slots=True)
class Pipeline(Generic[A]):
    """The rules in the order they are asked; the first that refuses is the one heard of."""

    authorise: Sequence[Check[A]]
    modify: Sequence[Change[A]]
    validate: Sequence[Check[A]]
    enforce: Sequence[Change[A]]

    def decide(self, asked: A) -> Life:
        """The life of what may be signed; Refusal or Unreachable when none may."""
        for check in self.authorise:
            check(asked)
        life = Life(asked.now, asked.now)
        for change in self.modify:
            life = change(asked, life)
        for check in self.validate:
            check(asked)
        for change in self.enforce:
            life = change(asked, life)
        return life


def rules(trust_domain: str, issuer: Life) -> Pipeline[Asked]:
    """The rules of a CA of trust_domain whose issuer lives so long."""
    return Pipeline(
        authorise=(OfTrustDomain(trust_domain), is_granted, is_not_denied),
        modify=(begin_and_end,),
        validate=(has_strong_key, proves_its_key, asks_for_names_only, names_only_itself),
        enforce=(WithinIssuer(issuer),),
    )
