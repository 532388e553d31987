"""What the CA reads of strangers: a join token, a certificate request."""

import base64
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.api.names import Identity
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
