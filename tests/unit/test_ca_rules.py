"""What may be signed: good requests, and every way to be refused."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.names import Identity
from meshd.ca.certificates import BACKDATE_S, LEAF_LIFE_S, NODE_LIFE_S, Life
from meshd.ca.records import Entry
from meshd.ca.requester import Joining, OfNode, Requester
from meshd.ca.rules import LEAST_LIFE_S, NOTHING_DENIED, Asked, WithinIssuer, read_csr, rules
from meshd.ca.source import Forbidden, Refusal, Unreachable
from tests.support.authorities import AGENT
from tests.support.csr import csr
from tests.support.stores import join_token

NOW = 1_800_000_000.0
ISSUER = Life(NOW - 86400, NOW + 90 * 86400)
RULES = rules("prod.example", ISSUER)
WEB = Identity.parse("spiffe://prod.example/ns/default/sa/web")
VM1 = Identity.parse("spiffe://prod.example/node/vm1")
OWN = x509.UniformResourceIdentifier(str(WEB))
KEY = ec.generate_private_key(ec.SECP256R1())


def decide(csr_pem: str, identity: Identity = WEB) -> Life:
    return RULES.decide(Asked(identity, read_csr(csr_pem), NOW, AGENT, NOTHING_DENIED))


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA 2048"],
)
@pytest.mark.parametrize("names", [(), (OWN,)], ids=["no name", "its name"])
def test_a_good_request_gets_a_day_and_what_clocks_differ(
    key: CertificateIssuerPrivateKeyTypes, names: tuple[x509.GeneralName, ...]
) -> None:
    assert decide(csr(key, names)) == Life(NOW - BACKDATE_S, NOW + LEAF_LIFE_S)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (ec.generate_private_key(ec.SECP192R1()), "ECDSA secp192r1"),
        (ec.generate_private_key(ec.SECP256K1()), "ECDSA secp256k1"),
        (ec.generate_private_key(ec.SECP521R1()), "ECDSA secp521r1"),
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (dsa.generate_private_key(1024), "DSA"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_that_is_weak_or_odd_is_refused_by_its_name(key: CertificateIssuerPrivateKeyTypes, found: str) -> None:
    with pytest.raises(Refusal, match=f"key is {found}: ECDSA P-256 or P-384"):
        decide(csr(key))


def test_a_key_that_would_be_dear_for_every_peer_is_refused() -> None:
    large = Path(__file__).with_name("ca_rsa_8448.pem").read_text()
    with pytest.raises(Refusal, match="key is RSA 8448"):
        decide(large)


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier("spiffe://prod.example/ns/default/sa/api")],
        [x509.UniformResourceIdentifier("spiffe://other.example/ns/default/sa/web")],
        [x509.UniformResourceIdentifier("SPIFFE://prod.example/ns/default/sa/web")],
        [OWN, x509.UniformResourceIdentifier("spiffe://prod.example/ns/default/sa/api")],
        [OWN, x509.DNSName("web.prod.example")],
        [OWN, OWN],
        [x509.DNSName("ca.prod.example")],
        [x509.RFC822Name("web@prod.example")],
        [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")]))],
        [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x03web")],
    ],
    ids=lambda names: "+".join(type(name).__name__ for name in names),
)
def test_other_names_are_refused(names: list[x509.GeneralName]) -> None:
    with pytest.raises(Refusal, match=f"other names than {WEB} alone") as refused:
        decide(csr(KEY, names))
    assert type(names[-1]).__name__ in refused.value.detail


def test_a_subject_is_refused_whatever_it_says() -> None:
    with pytest.raises(Refusal, match="has a subject"):
        decide(csr(KEY, (OWN,), subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(WEB))])))


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ],
    ids=["CA", "usage", "unknown"],
)
def test_other_extensions_are_refused_by_their_number(extension: x509.ExtensionType) -> None:
    with pytest.raises(Refusal, match=f"asks for the extension {extension.oid.dotted_string}:"):
        decide(csr(KEY, (OWN,), extensions=[extension]))


def test_a_request_signed_by_another_key_is_refused() -> None:
    theirs = ec.generate_private_key(ec.SECP256R1())
    signed = x509.load_pem_x509_csr(csr(theirs).encode()).public_bytes(serialization.Encoding.DER)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    swapped = signed.replace(theirs.public_key().public_bytes(*form), KEY.public_key().public_bytes(*form))
    with pytest.raises(Refusal, match="signature does not fit its key"):
        decide(pem(swapped))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "-----BEGIN CERTIFICATE REQUEST-----\n\udcff\n",
        csr(KEY).replace("CERTIFICATE REQUEST", "CERTIFICATE"),
    ],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="not a certificate request"):
        decide(text)


def test_a_request_beyond_the_bound_is_not_parsed() -> None:
    with pytest.raises(Refusal, match="larger than 16 KiB"):
        decide(csr(KEY) + " " * (16 << 10))


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ("spiffe://other.example/ns/default/sa/web", "not of this CA's trust domain, prod.example"),
        ("spiffe://a.prod.example/ns/default/sa/web", "not of this CA's trust domain, prod.example"),
        ("spiffe://prod.example/node/vm1", "a host's identity"),
    ],
)
def test_identities_that_are_not_for_the_requester_are_forbidden(identity: str, reason: str) -> None:
    with pytest.raises(Forbidden, match=reason):
        decide(csr(KEY), Identity.parse(identity))


@pytest.mark.parametrize(
    ("denied", "identity", "reason"),
    [
        (("node", "vm1"), WEB, "the node vm1 is denied: stolen"),
        (("serial", "0a"), WEB, "the serial 0a is denied: stolen"),
        (("identity", str(WEB)), WEB, f"the identity {WEB} is denied: stolen"),
        (("node", "vm1"), VM1, "the node vm1 is denied: stolen"),
        (("node", "vm2"), WEB, ""),
        (("identity", str(WEB) + "2"), WEB, ""),
        (("serial", str(WEB)), WEB, ""),
    ],
)
def test_what_is_denied_is_not_signed(denied: tuple[str, str], identity: Identity, reason: str) -> None:
    node = Requester("node vm1", OfNode("vm1", lambda _: [Entry("e", "*", "*/*", "", NOW)]), node="vm1", serial="0a")
    asked = Asked(identity, read_csr(csr(KEY)), NOW, node, {denied: "stolen"})
    if reason:
        with pytest.raises(Forbidden, match=reason):
            RULES.decide(asked)
    else:
        RULES.decide(asked)


def test_a_denied_node_does_not_join() -> None:
    joining = Requester("token t1", Joining(join_token(pattern="*")), token=join_token(pattern="*"))
    with pytest.raises(Forbidden, match="the node vm1 is denied: stolen"):
        RULES.decide(Asked(VM1, read_csr(csr(KEY)), NOW, joining, {("node", "vm1"): "stolen"}))


def test_a_nodes_certificate_lasts_over_a_long_weekend() -> None:
    node = Requester("node vm1", OfNode("vm1", lambda _: ()), node="vm1")
    assert RULES.decide(Asked(VM1, read_csr(csr(KEY)), NOW, node, {})) == Life(NOW - BACKDATE_S, NOW + NODE_LIFE_S)


def test_a_leaf_ends_with_its_issuer_at_the_latest() -> None:
    asked = Asked(WEB, read_csr(csr(KEY)), NOW, AGENT, NOTHING_DENIED)
    wanted = Life(NOW - BACKDATE_S, NOW + LEAF_LIFE_S)
    assert WithinIssuer(Life(0, NOW + 3600))(asked, wanted) == Life(NOW - BACKDATE_S, NOW + 3600)
    assert WithinIssuer(Life(NOW - 1, NOW + 3600))(asked, wanted) == Life(NOW - 1, NOW + 3600)
    with pytest.raises(Unreachable, match="expired, or about to"):
        WithinIssuer(Life(0, NOW + LEAST_LIFE_S - 1))(asked, wanted)
    with pytest.raises(Unreachable, match="clock of the CA's host is behind"):
        WithinIssuer(ISSUER)(replace(asked, now=ISSUER.not_before - 1), wanted)


GOOD = base64.b64decode("".join(csr(KEY, (OWN,)).splitlines()[1:-1]))


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE REQUEST-----\n"


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_whatever_becomes_of_a_request_on_its_way_it_is_refused(position: int, damage: bytes) -> None:
    """Refused, and by no other error: every byte is signed, or is the signature."""
    damaged = GOOD[:position] + damage + GOOD[position + len(damage) :]
    if damaged != GOOD:
        with pytest.raises(Refusal):
            decide(pem(damaged))
