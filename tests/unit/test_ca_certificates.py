"""The certificates, field by field, and before those who judge them: Python's ssl and openssl."""

import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from meshd.ca import certificates
from meshd.ca.certificates import KeyPair, Life
from tests.support import peers
from tests.support.certificates import shaken

SPIFFE_ID = "spiffe://prod.example/ns/default/sa/web"
LONG_DOMAIN = ".".join(["a" * 63] * 3 + ["b" * 63])


def lives() -> Life:
    """Good now for whoever looks at the real clock, as ssl and openssl do."""
    return Life.starting(time.time(), 3600.0)


ROOT = certificates.make_root("prod.example", lives())
ISSUER = certificates.make_issuer("prod.example", ROOT, lives())
KEY = certificates.new_key()
LEAF = certificates.make_leaf(SPIFFE_ID, KEY.public_key(), ISSUER, lives())
SERVER = certificates.make_server(["ca.example", "127.0.0.1", "::1"], ISSUER, lives())


def names(certificate: x509.Certificate) -> x509.Extension[x509.SubjectAlternativeName]:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_leaf_is_its_spiffe_id_and_nothing_else() -> None:
    assert list(names(LEAF).value) == [x509.UniformResourceIdentifier(SPIFFE_ID)]
    assert names(LEAF).critical
    assert LEAF.subject == x509.Name([])
    usage = LEAF.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    extended = LEAF.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = LEAF.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_the_server_has_host_names_and_no_spiffe_id() -> None:
    found = names(SERVER.certificate).value
    assert found.get_values_for_type(x509.DNSName) == ["ca.example"]
    assert [str(each) for each in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert found.get_values_for_type(x509.UniformResourceIdentifier) == []
    extended = SERVER.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(("pair", "path_length"), [(ROOT, 2), (ISSUER, 0)], ids=["root", "issuer"])
def test_authorities_are_bounded_in_depth_and_named_for_the_trust_domain(pair: KeyPair, path_length: int) -> None:
    constraints = pair.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, path_length)
    assert list(names(pair.certificate).value) == [x509.UniformResourceIdentifier("spiffe://prod.example")]
    oids = {extension.oid for extension in pair.certificate.extensions}
    assert ExtensionOID.NAME_CONSTRAINTS not in oids, "rustls-webpki rejects every chain with a URI constraint"


def test_a_serial_is_random_positive_and_of_16_octets() -> None:
    serials = {certificates.serial(certificates.make_leaf(SPIFFE_ID, KEY.public_key(), ISSUER, lives())) for _ in "12"}
    assert len(serials) == 2
    assert all(len(each) == 32 and each[0] in "4567" for each in serials)


def test_every_certificate_is_chained_by_key_identifiers() -> None:
    for certificate, signer in ((ISSUER.certificate, ROOT), (LEAF, ISSUER), (SERVER.certificate, ISSUER)):
        signed_by = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        identifier = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert signed_by.key_identifier == identifier.digest
        certificate.verify_directly_issued_by(signer.certificate)


def test_a_life_is_due_at_two_thirds() -> None:
    assert not Life(0, 90).is_due(59.9)
    assert Life(0, 90).is_due(60)
    assert Life.starting(1000, 30) == Life(940, 1030)


# --- before judges ----------------------------------------------------------------------------------------------------


def context(
    tmp_path: Path, pair: tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes], server: bool, root: KeyPair = ROOT
) -> ssl.SSLContext:
    """One side of mutual TLS as the proxies have it."""
    file = tmp_path / f"{'server' if server else 'client'}.pem"
    key = pair[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(key + certificates.pem(pair[0]) + certificates.pem(ISSUER.certificate))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=certificates.pem(root.certificate).decode())
    made.load_cert_chain(file)
    return made


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None) -> tuple[str, str]:
    """The names that client and server saw in each other's certificates, after a whole handshake in memory."""
    seen = [side.getpeercert() for side in shaken(client, server, name)]
    assert all(seen)
    first, second = [str((each or {}).get("subjectAltName")) for each in seen]
    return first, second


@pytest.mark.parametrize("key", [KEY, ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_leaves_serve_both_sides_of_strict_mutual_tls(tmp_path: Path, key: CertificateIssuerPrivateKeyTypes) -> None:
    leaf = certificates.make_leaf(SPIFFE_ID, key.public_key(), ISSUER, lives())
    seen = handshake(context(tmp_path, (leaf, key), server=False), context(tmp_path, (leaf, key), server=True))
    assert seen == (f"(('URI', '{SPIFFE_ID}'),)",) * 2


def test_a_leaf_cannot_pose_as_the_ca(tmp_path: Path) -> None:
    client = context(tmp_path, (LEAF, KEY), server=False)
    client.check_hostname = True
    handshake(client, context(tmp_path, SERVER, server=True), "ca.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(client, context(tmp_path, (LEAF, KEY), server=True), "ca.example")


def test_the_servers_certificate_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(context(tmp_path, SERVER, server=False), context(tmp_path, (LEAF, KEY), server=True))


def test_another_root_of_the_same_trust_domain_is_not_believed(tmp_path: Path) -> None:
    other = certificates.make_root("prod.example", lives())
    client = context(tmp_path, (LEAF, KEY), server=False, root=other)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        handshake(client, context(tmp_path, (LEAF, KEY), server=True))


def test_an_expired_leaf_is_not_believed(tmp_path: Path) -> None:
    ended = certificates.make_leaf(SPIFFE_ID, KEY.public_key(), ISSUER, Life(1_700_000_000, 1_700_003_600))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(context(tmp_path, (LEAF, KEY), server=False), context(tmp_path, (ended, KEY), server=True))


def test_a_leaf_can_sign_nothing(tmp_path: Path) -> None:
    forged = certificates.make_leaf(SPIFFE_ID, KEY.public_key(), KeyPair(LEAF, KEY), lives())
    client = context(tmp_path, (LEAF, KEY), server=False)
    server = context(tmp_path, (forged, KEY), server=True)
    file = tmp_path / "server.pem"
    file.write_bytes(file.read_bytes() + certificates.pem(LEAF))
    server.load_cert_chain(file)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server)


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("trust_domain", ["prod.example", LONG_DOMAIN], ids=["usual", "longest"])
def test_openssl_finds_the_chain_good(tmp_path: Path, trust_domain: str) -> None:
    root = certificates.make_root(trust_domain, lives())
    issuer = certificates.make_issuer(trust_domain, root, lives())
    spiffe_id = f"spiffe://{trust_domain}/ns/default/sa/web"
    leaf = certificates.make_leaf(spiffe_id, KEY.public_key(), issuer, lives())
    for file, certificate in (("root", root.certificate), ("issuer", issuer.certificate), ("leaf", leaf)):
        (tmp_path / file).write_bytes(certificates.pem(certificate))
    command = ["verify", "-x509_strict", "-check_ss_sig", "-CAfile", "root", "-untrusted", "issuer", "leaf"]
    done = subprocess.run([peers.path("openssl"), *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "leaf: OK\n"), done.stderr
