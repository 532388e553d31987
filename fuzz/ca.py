"""What the CA reads of strangers, a join token or a certificate request; and what agents do, a JWT-SVID."""

import base64
from typing import Final

import jwt as pyjwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from meshd.api.names import Identity
from meshd.ca import jwt
from meshd.ca.certificates import LEAF_LIFE_S, Life
from meshd.ca.requester import AnyWorkload, Requester
from meshd.ca.rules import NOTHING_DENIED, Asked, read_csr, rules
from meshd.ca.source import Refusal
from meshd.ca.tokens import MalformedToken, PrintedToken
from tests.support.csr import csr

NOW: Final = 1_800_000_000.0
WEB: Final = Identity.parse("spiffe://prod.example/ns/default/sa/web")
OWN: Final = x509.UniformResourceIdentifier(str(WEB))
AGENT: Final = Requester("an agent", AnyWorkload("it"))
RULES: Final = rules("prod.example", Life(NOW - 86400, NOW + 90 * 86400))
KEY: Final = ec.derive_private_key(0x6D657368, ec.SECP256R1())

_HEAD, _FOOT = "-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----\n"

TOKENS: Final = [PrintedToken("abcdefgh23", bytes(range(32)), bytes(32)).text().encode(), b"meshd-join-v2.", b""]
REQUESTS: Final = [
    base64.b64decode("".join(csr(KEY, names).splitlines()[1:-1])) for names in ((), (OWN,), (OWN, x509.DNSName("web")))
]

KID: Final = jwt.Point.of(KEY.public_key()).thumbprint()
JWT: Final = jwt.sign(jwt.Claims(WEB, ("reports",), int(NOW), int(NOW) + 300, "0f"), KEY, KID)
JWTS: Final = [JWT.encode(), JWT.rpartition(".")[0].encode() + b".", b"..", b"eyJhbGciOiJub25lIn0.e30."]
PARTS: Final = [
    b'{"alg":"ES256","kid":"%s","typ":"JWT"}\0{"aud":["reports"],"exp":1800000300,"iat":1.8e9,"sub":"%s"}'
    % (KID.encode(), str(WEB).encode()),
    b'{"alg":"ES256","kid":"%s"}\0{"aud":"reports","exp":1800000300,"sub":"%s","a":{"b":[1,-2.5e3,null,true,"\\u00e9"]}}'
    % (KID.encode(), str(WEB).encode()),
    b'{"alg":"none","crit":["b64"],"b64":false}\0{"exp":NaN,"exp":1e999}',
]
_IN_TIME: Final[pyjwt.types.Options] = {
    "verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_jti": False
}  # fmt: skip


def token(data: bytes) -> None:
    """A join token: none, or one whose only spelling this is."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = PrintedToken.parse(text)
    except MalformedToken:
        return
    assert found.text() == text
    assert len(found.secret) == len(found.root_hash) == 32


def request(data: bytes) -> None:
    """A certificate request (DER): refused, or signed by its key and of no name but the one that is asked for."""
    pem = f"{_HEAD}{base64.encodebytes(data).decode()}{_FOOT}"
    try:
        found = read_csr(pem)
        life = RULES.decide(Asked(WEB, found, NOW, AGENT, NOTHING_DENIED))
    except Refusal:
        return
    assert found.is_signature_valid
    assert not list(found.subject)
    assert [list(each.value) for each in found.extensions] in ([], [[OWN]])
    assert life.not_after == NOW + LEAF_LIFE_S


def jwt_token(data: bytes) -> None:
    """A JWT-SVID as text: refused, or the very one that was signed."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        _verify(text)
    except jwt.BadToken:
        return
    assert text == JWT


def jwt_parts(data: bytes) -> None:
    """Header and claims, with NUL between, under a good signature: refused, or PyJWT reads them as we do."""
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in data.partition(b"\0")[::2])
    r, s = decode_dss_signature(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = base64.urlsafe_b64encode(r.to_bytes(32) + s.to_bytes(32)).rstrip(b"=")
    text = (signed + b"." + signature).decode()
    try:
        found = _verify(text)
    except jwt.BadToken:
        return
    assert found.identity.trust_domain == "prod.example"
    assert found.claims == pyjwt.decode(text, KEY.public_key(), ["ES256"], _IN_TIME, audience="reports")


def _verify(text: str) -> jwt.Verified:
    return jwt.verify(text, {KID: KEY.public_key()}, "reports", "prod.example", NOW)
