"""JWT-SVIDs: an identity as a token for those it is meant for, signed by the CA (SPIFFE's JWT-SVID; RFC 7515 and 7519).

    token     = header "." claims "." signature      ; each in base64url without padding, which has one spelling
    header    = {"alg":"ES256","kid":KEY,"typ":"JWT"}
    claims    = {"sub":SPIFFE-ID,"aud":[1*16 audience],"iat":TIME,"exp":TIME,"jti":ID}
    signature = r s                                  ; 32 bytes each (RFC 7518, section 3.4)

Made by `meshd.ca.jwt_authority`, checked by the agent for its processes (`meshd.agent.workload.jwts`) and by anybody
who has the keys. What is checked here is the signature before the claims, and strictly: one algorithm; a header with
the three names that the standard has and no other (`crit`, `jwk` and `jku` among those); no name twice in an object; no
number that is not one everywhere. There is no library between, for those let most of that pass, so that a reader as
strict as this one would have to come before them; what would be left to them is one call of `cryptography`. One of them
is asked in the tests: what is good here must be good there.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from meshd.api.names import Identity, InvalidName

ALGORITHM: Final = "ES256"

MAX_TOKEN_CHARACTERS: Final = 32 << 10
"""What is longer is not looked at: sixteen of the longest audiences take 22 KiB where every character is escaped."""

MAX_AUDIENCES: Final = 16
MAX_AUDIENCE_BYTES: Final = 512

LEAST_LIFE_S: Final = 10.0
DEFAULT_LIFE_S: Final = 300.0
MOST_LIFE_S: Final = 3600.0

LEEWAY_S: Final = 30.0
"""How far clocks may differ: from there on `meshd check` warns."""

_COORDINATE_BYTES: Final = 32
_MOST_WHOLE: Final = 2**53
"""Up to here every reader of JSON has the same whole number (RFC 8259, section 6)."""

_TYPES: Final = ("JWT", "JOSE")
_HEADER: Final = {"alg", "kid", "typ"}


class BadToken(Exception):
    """A token that proves nothing; the message says in what way, and holds no more of it than names."""


class Point(NamedTuple):
    """A public key on P-256 as a JWK has it (RFC 7518, section 6.2.1): base64url, without padding."""

    x: str
    y: str

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> "Point":
        numbers = key.public_numbers()
        return cls(*(_encoded(each.to_bytes(_COORDINATE_BYTES)) for each in (numbers.x, numbers.y)))

    def key(self) -> ec.EllipticCurvePublicKey:
        """ValueError when there is no such point on the curve."""
        try:
            x, y = (int.from_bytes(_decoded(each)) for each in self)
        except BadToken as error:
            raise ValueError(str(error)) from error
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()

    def thumbprint(self) -> str:
        """What the key is called (RFC 7638)."""
        members = {"crv": "P-256", "kty": "EC", "x": self.x, "y": self.y}
        return _encoded(hashlib.sha256(_json(members)).digest())


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. `id` tells it from all others; times in whole seconds since the epoch."""

    subject: Identity
    audiences: tuple[str, ...]
    issued_at: int
    expires_at: int
    id: str


class Verified(NamedTuple):
    """What a good token says: whose it is, and all of its claims as they are in it."""

    identity: Identity
    claims: dict[str, Any]


class _Parts(NamedTuple):
    kid: str
    signed: bytes
    claims: bytes
    signature: bytes


def check_audiences(audiences: Sequence[str]) -> None:
    """ValueError when a token cannot be for these: none, too many, one twice, too long, or not to be printed."""
    if not 1 <= len(audiences) <= MAX_AUDIENCES:
        raise ValueError(f"a token is for 1 to {MAX_AUDIENCES} audiences, not {len(audiences)}")
    if len(set(audiences)) != len(audiences):
        raise ValueError("an audience is named twice")
    for audience in audiences:
        if not audience or not audience.isprintable():
            raise ValueError(f"{audience[:80]!a} is no audience: one or more characters, all of them printable")
        if len(audience.encode()) > MAX_AUDIENCE_BYTES:
            raise ValueError(f"an audience has {MAX_AUDIENCE_BYTES} bytes at most")


def sign(claims: Claims, key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    """The token (JWS, compact serialisation)."""
    header = _json({"alg": ALGORITHM, "kid": kid, "typ": "JWT"})
    body = _json(
        {
            "aud": list(claims.audiences),
            "exp": claims.expires_at,
            "iat": claims.issued_at,
            "jti": claims.id,
            "sub": str(claims.subject),
        }
    )
    signed = f"{_encoded(header)}.{_encoded(body)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES))}"


def verify(
    token: str, keys: Mapping[str, ec.EllipticCurvePublicKey], audience: str, trust_domain: str, now: float
) -> Verified:
    """Whose the token is, and what it says, where it is one of trust_domain for `audience`, good now, and signed by one
    of keys, which are by their kid. BadToken when it is not."""
    parts = _split(token)
    key = keys.get(parts.kid)
    if key is None:
        raise BadToken(f"no key of this trust domain is called {parts.kid[:80]!a}")
    _check_signature(parts, key)
    claims = _object(parts.claims, "claims")
    identity = _subject(claims.get("sub"), trust_domain)
    _check_audience(claims.get("aud"), audience)
    _check_times(claims, now)
    return Verified(identity, claims)


def _split(token: str) -> _Parts:
    """The parts of a token whose header is as it has to be."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise BadToken(f"the token is longer than {MAX_TOKEN_CHARACTERS} characters")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise BadToken("that is no token: three parts with a dot between, in base64url")
    head, body, signature = map(_decoded, parts)
    header = _object(head, "header")
    if header.get("alg") != ALGORITHM:
        raise BadToken(f"the token's alg is not {ALGORITHM}")
    if other := header.keys() - _HEADER:
        raise BadToken(f"a JWT-SVID's header has no {min(other)[:80]!a} (JWT-SVID, section 2)")
    if header.get("typ", "JWT") not in _TYPES:
        raise BadToken("the token's typ is not JWT")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise BadToken("the token does not say by which key it is signed (kid)")
    return _Parts(kid, token.rpartition(".")[0].encode(), body, signature)


def _check_signature(parts: _Parts, key: ec.EllipticCurvePublicKey) -> None:
    if len(parts.signature) != 2 * _COORDINATE_BYTES:
        raise BadToken("the signature is none of ES256: 64 bytes")
    r, s = (int.from_bytes(each) for each in (parts.signature[:_COORDINATE_BYTES], parts.signature[_COORDINATE_BYTES:]))
    try:
        key.verify(encode_dss_signature(r, s), parts.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise BadToken("the signature is not the key's") from error


def _subject(subject: object, trust_domain: str) -> Identity:
    try:
        identity = Identity.parse(subject if isinstance(subject, str) else "")
    except InvalidName as error:
        raise BadToken("the token's sub is no workload's identity") from error
    if identity.trust_domain != trust_domain or identity.host:
        raise BadToken(f"the token's sub is no workload of {trust_domain}")
    return identity


def _check_audience(found: object, audience: str) -> None:
    """A single one may be without a list (RFC 7519, section 4.1.3)."""
    audiences = [found] if isinstance(found, str) else found
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise BadToken("the token does not say for whom it is (aud)")
    if not audience or audience not in audiences:
        raise BadToken(f"the token is not for {audience[:80]!a}")


def _check_times(claims: Mapping[str, object], now: float) -> None:
    expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise BadToken("the token does not say until when it is good (exp)")
    if expires <= now - LEEWAY_S:
        raise BadToken("the token has expired")
    if any(each is not None and each > now + LEEWAY_S for each in (begins, issued)):
        raise BadToken("the token is not good yet: compare the clocks")


def _time(claims: Mapping[str, object], name: str) -> float | None:
    found = claims.get(name)
    if name in claims and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise BadToken(f"the token's {name} is no time: seconds since the epoch, as a number")
    return found  # type: ignore[return-value]


def _object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object that all who read it read in the same way."""
    try:
        found = json.loads(
            data.decode(),
            object_pairs_hook=_named_once,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's {what} cannot be read as JSON, or in more than one way") from error
    if not isinstance(found, dict):
        raise BadToken(f"the token's {what} is no JSON object")
    return found


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _whole(text: str) -> int:
    found = int(text)
    if abs(found) > _MOST_WHOLE:
        raise ValueError("a number that not all read alike")
    return found


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError("a number that is too large")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """What text, in base64url without padding (RFC 7515, section 2), is the one spelling of."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("a part of the token is not base64url") from error
    if _encoded(data) != text:
        raise BadToken("a part of the token is not base64url as it should be: no padding, no bits that mean nothing")
    return data
