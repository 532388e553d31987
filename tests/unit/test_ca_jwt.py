"""JWT-SVIDs as text: what is made, and every way not to be one. PyJWT, which knows nothing of ours, has its say too."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.names import Identity
from meshd.ca.jwt import (
    LEEWAY_S,
    MAX_AUDIENCE_BYTES,
    MAX_TOKEN_CHARACTERS,
    BadToken,
    Claims,
    Point,
    Verified,
    check_audiences,
    sign,
    verify,
)

NOW = 1_800_000_000
WEB = Identity.parse("spiffe://prod.example/ns/default/sa/web")
KEY = ec.derive_private_key(0x6D657368, ec.SECP256R1())
OTHER = ec.derive_private_key(0x6D657369, ec.SECP256R1())
KID = Point.of(KEY.public_key()).thumbprint()
KEYS = {KID: KEY.public_key(), "other": OTHER.public_key()}
CLAIMS = Claims(WEB, ("reports", "spiffe://prod.example/ns/default/sa/api"), NOW, NOW + 300, "0f")
GOOD = sign(CLAIMS, KEY, KID)
HEADER = {"alg": "ES256", "kid": KID, "typ": "JWT"}
BODY = {"sub": str(WEB), "aud": ["reports"], "iat": NOW, "exp": NOW + 300}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def es256(signed: str, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def token(header: Mapping[str, Any] | str = HEADER, body: Mapping[str, Any] | str = BODY) -> str:
    """One that the key has signed, whatever it says."""
    texts = (each if isinstance(each, str) else json.dumps(each) for each in (header, body))
    signed = ".".join(b64(each.encode("utf-8", "surrogatepass")) for each in texts)
    return f"{signed}.{b64(es256(signed))}"


def verified(text: str, audience: str = "reports", now: float = NOW) -> Verified:
    return verify(text, KEYS, audience, "prod.example", now)


def test_a_token_says_who_for_whom_and_until_when() -> None:
    header, body, _ = (base64.urlsafe_b64decode(part + "==") for part in GOOD.split("."))
    assert json.loads(header) == HEADER
    said = {"sub": str(WEB), "aud": list(CLAIMS.audiences), "iat": NOW, "exp": NOW + 300, "jti": "0f"}
    assert json.loads(body) == said
    for audience in CLAIMS.audiences:
        assert verified(GOOD, audience) == (WEB, said)


def test_another_implementation_takes_it() -> None:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    times: pyjwt.types.Options = {"verify_exp": False, "verify_iat": False}  # its clock is the one on the wall
    claims = pyjwt.decode(GOOD, pem, algorithms=["ES256"], audience="reports", options=times)
    assert claims["sub"] == str(WEB)
    assert pyjwt.get_unverified_header(GOOD)["kid"] == KID


def test_a_key_as_a_jwk_has_it_and_what_it_is_called() -> None:
    """The key of RFC 7515, appendix A.3."""
    point = Point("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")
    assert point.thumbprint() == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"
    assert Point.of(point.key()) == point
    for bad in (point._replace(x=point.y), point._replace(y="x_FEzRu"), point._replace(x="=")):
        with pytest.raises(ValueError, match=r"."):
            bad.key()


@pytest.mark.parametrize(
    "text",
    [
        token({"alg": "ES256", "kid": KID}),
        token(HEADER | {"typ": "JOSE"}),
        token(body=BODY | {"aud": "reports"}),
        token(body=BODY | {"exp": NOW + 0.5}),
        token(body=BODY | {"exp": NOW - LEEWAY_S + 1}),
        token(body=BODY | {"nbf": NOW + LEEWAY_S, "more": {"a": [1, None, True]}}),
        token(body={name: value for name, value in BODY.items() if name != "iat"}),
    ],
)
def test_what_the_standard_allows_is_good(text: str) -> None:
    assert verified(text).identity == WEB


def hs256() -> str:
    """The public key, which everybody has, taken for a secret."""
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{b64(json.dumps(HEADER | {'alg': 'HS256'}).encode())}.{b64(json.dumps(BODY).encode())}"
    return f"{signed}.{b64(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


NO_TOKEN = "that is no token"
NOT_BASE64 = "not base64url"
NOT_JSON = "cannot be read as JSON, or in more than one way"
SIGNED, SIGNATURE = GOOD.rpartition(".")[0], GOOD.rpartition(".")[2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # its form
        ("", NO_TOKEN),
        ("a.b", NO_TOKEN),
        (f"{GOOD}.", NO_TOKEN),
        (f"{GOOD}\u00e9", NO_TOKEN),
        (f"{GOOD}\udcff", NO_TOKEN),
        ("..", NOT_JSON),
        (f"{GOOD}=", NOT_BASE64),
        (f"{GOOD}\n", NOT_BASE64),
        (f" {GOOD}", NOT_BASE64),
        (f"{SIGNED}.{SIGNATURE[:-1]}", NOT_BASE64),
        (f"{SIGNED}.{SIGNATURE[:-1]}B", NOT_BASE64),
        (GOOD.replace(".", "+.", 1), NOT_BASE64),
        (f"{GOOD}{'A' * MAX_TOKEN_CHARACTERS}", f"longer than {MAX_TOKEN_CHARACTERS} characters"),
        # its header
        (token('{"alg":"ES256"'), NOT_JSON),
        (token("[]"), "header is no JSON object"),
        (token('"ES256"'), "header is no JSON object"),
        (token(f'{{"alg":"ES256","kid":"{KID}","kid":"other"}}'), NOT_JSON),
        (token(f'{{"alg":"none","alg":"ES256","kid":"{KID}"}}'), NOT_JSON),
        (token("[" * 8000), NOT_JSON),
        (token('{"a":' * 1600), NOT_JSON),
        (token('{"alg":"ES256\udcff"}'), NOT_JSON),
        (token(HEADER | {"alg": "none"}), "alg is not ES256"),
        (f"{b64(json.dumps(HEADER | {'alg': 'none'}).encode())}.{b64(json.dumps(BODY).encode())}.", "alg is not"),
        (token(HEADER | {"alg": "es256"}), "alg is not ES256"),
        (token(HEADER | {"alg": "ES256K"}), "alg is not ES256"),
        (token(HEADER | {"alg": ["ES256"]}), "alg is not ES256"),
        (token({"kid": KID}), "alg is not ES256"),
        (hs256(), "alg is not ES256"),
        (token(HEADER | {"crit": ["exp"], "exp": 1}), "header has no 'crit'"),
        (token(HEADER | {"crit": ["b64"], "b64": False}), "header has no 'b64'"),
        (token(HEADER | {"jku": "https://evil.example/"}), "header has no 'jku'"),
        (token(HEADER | {"jwk": {"kty": "EC"}}), "header has no 'jwk'"),
        (token(HEADER | {"typ": "at+jwt"}), "typ is not JWT"),
        (token(HEADER | {"typ": {"a": ["JWT"]}}), "typ is not JWT"),
        (token(HEADER | {"typ": None}), "typ is not JWT"),
        (token({"alg": "ES256"}), "by which key"),
        (token(HEADER | {"kid": [KID]}), "by which key"),
        (token(HEADER | {"kid": 1}), "by which key"),
        (token(HEADER | {"kid": "third"}), "no key of this trust domain is called 'third'"),
        # its signature
        (token(HEADER | {"kid": "other"}), "signature is not the key's"),
        (f"{SIGNED}.", "signature is none of ES256"),
        (f"{SIGNED}.{b64(bytes(64))}", "signature is not the key's"),
        (f"{SIGNED}.{b64(bytes([255]) * 64)}", "signature is not the key's"),
        (f"{SIGNED}.{b64(es256(SIGNED) + b'x')}", "signature is none of ES256"),
        (f"{SIGNED}.{b64(KEY.sign(SIGNED.encode(), ec.ECDSA(hashes.SHA256())))}", "signature is none of ES256"),
        (f"{SIGNED}.{b64(es256(SIGNED, OTHER))}", "signature is not the key's"),
        (f"{SIGNED}.{b64(es256(SIGNED)[32:] + es256(SIGNED)[:32])}", "signature is not the key's"),
        (f"{SIGNED.partition('.')[0]}.{b64(json.dumps(BODY).encode())}.{SIGNATURE}", "signature is not the key's"),
        # its claims
        (token(body="null"), "claims is no JSON object"),
        (token(body=f'{{"sub":"{WEB}","sub":"{WEB}","aud":"reports","exp":9e9}}'), NOT_JSON),
        (token(body='{"a":{"b":1,"b":2},"aud":"reports"}'), NOT_JSON),
        (token(body='{"exp":NaN}'), NOT_JSON),
        (token(body='{"exp":1e999}'), NOT_JSON),
        (token(body='{"exp":Infinity}'), NOT_JSON),
        (token(body=f'{{"exp":{2**54}}}'), NOT_JSON),
        (token(body=f'{{"exp":{"9" * 5000}}}'), NOT_JSON),
        (token(body={}), "sub is no workload's identity"),
        (token(body=BODY | {"sub": "web"}), "sub is no workload's identity"),
        (token(body=BODY | {"sub": [str(WEB)]}), "sub is no workload's identity"),
        (token(body=BODY | {"sub": "spiffe://prod.example"}), "sub is no workload's identity"),
        (token(body=BODY | {"sub": "spiffe://other.example/ns/default/sa/web"}), "sub is no workload of prod.example"),
        (token(body=BODY | {"sub": "spiffe://prod.example/node/vm1"}), "sub is no workload of prod.example"),
        (token(body={name: value for name, value in BODY.items() if name != "aud"}), "for whom it is"),
        (token(body=BODY | {"aud": []}), "not for 'reports'"),
        (token(body=BODY | {"aud": ["report", "reports2"]}), "not for 'reports'"),
        (token(body=BODY | {"aud": "reports2"}), "not for 'reports'"),
        (token(body=BODY | {"aud": ["reports", 1]}), "for whom it is"),
        (token(body=BODY | {"aud": {"reports": 1}}), "for whom it is"),
        (token(body={name: value for name, value in BODY.items() if name != "exp"}), "until when it is good"),
        (token(body=BODY | {"exp": str(NOW + 300)}), "exp is no time"),
        (token(body=BODY | {"exp": True}), "exp is no time"),
        (token(body=BODY | {"exp": None}), "exp is no time"),
        (token(body=BODY | {"exp": NOW - LEEWAY_S}), "has expired"),
        (token(body=BODY | {"exp": -1.5}), "has expired"),
        (token(body=BODY | {"nbf": NOW + LEEWAY_S + 1}), "not good yet"),
        (token(body=BODY | {"iat": NOW + LEEWAY_S + 1}), "not good yet"),
        (token(body=BODY | {"iat": "yesterday"}), "iat is no time"),
    ],
)
def test_what_is_no_good_token_says_why(text: str, reason: str) -> None:
    with pytest.raises(BadToken, match=reason) as refused:
        verified(text)
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


def test_a_good_token_is_good_for_its_audience_and_its_time_alone() -> None:
    with pytest.raises(BadToken, match="not for ''"):
        verified(token(body=BODY | {"aud": ["", "reports"]}), "")
    with pytest.raises(BadToken, match="has expired"):
        verified(GOOD, now=NOW + 300 + LEEWAY_S)
    with pytest.raises(BadToken, match="no workload of other"):
        verify(GOOD, KEYS, "reports", "other.example", NOW)
    with pytest.raises(BadToken, match="no key"):
        verify(GOOD, {}, "reports", "prod.example", NOW)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_whatever_becomes_of_a_token_on_its_way_it_is_refused(position: int, character: str) -> None:
    damaged = GOOD[:position] + character + GOOD[position + 1 :]
    if damaged != GOOD:
        with pytest.raises(BadToken):
            verified(damaged)


@given(st.integers(1, 2**256), st.lists(st.text("aé€", min_size=1, max_size=9), min_size=1, max_size=16, unique=True))
def test_every_token_comes_back_as_it_was_made(number: int, audiences: list[str]) -> None:
    key = ec.derive_private_key(number % 2**255 + 1, ec.SECP256R1())
    claims = replace(CLAIMS, audiences=tuple(audiences))
    found = verify(sign(claims, key, "k"), {"k": key.public_key()}, audiences[-1], "prod.example", NOW)
    assert (found.identity, found.claims["aud"]) == (WEB, audiences)


@pytest.mark.parametrize(
    ("audiences", "reason"),
    [
        ([], "1 to 16 audiences, not 0"),
        ([str(number) for number in range(17)], "1 to 16 audiences, not 17"),
        (["a", "b", "a"], "named twice"),
        ([""], "is no audience"),
        (["a", "b\n"], "is no audience"),
        (["\x00"], "is no audience"),
        (["é" * (MAX_AUDIENCE_BYTES // 2) + "e"], f"{MAX_AUDIENCE_BYTES} bytes at most"),
    ],
)
def test_audiences_that_no_token_can_be_for(audiences: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_audiences(audiences)


def test_the_longest_token_is_within_the_bound() -> None:
    longest = tuple(f"{number:x}" + '"' * (MAX_AUDIENCE_BYTES - 1) for number in range(16))
    check_audiences(longest)
    text = sign(replace(CLAIMS, audiences=longest), KEY, KID)
    assert len(text) < MAX_TOKEN_CHARACTERS
    verified(text, longest[-1])
