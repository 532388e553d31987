"""An issuer below a root that is elsewhere: signed offline, or another system's, replaced while the CA runs."""

import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, external, material
from meshd.ca.authority import Authority, create_root
from meshd.ca.certificates import ISSUER_LIFE_S, LEAF_LIFE_S, Life
from meshd.ca.external import IssuerFiles
from meshd.ca.files import CaFiles
from tests.support import peers
from tests.support.authorities import AGENT, TRUST_DOMAIN, WEB
from tests.support.csr import csr

NOW = 1_800_000_000.0
DAY_S = 86400.0


class Offline:
    """A root in one directory, a CA below it in another."""

    def __init__(self, directory: Path) -> None:
        self.root, self.ca = directory / "root", directory / "ca"
        create_root(self.root, TRUST_DOMAIN, NOW)
        Authority.create_below(self.ca, TRUST_DOMAIN, (self.root / "bundle.pem").read_bytes())

    def sign(self, now: float = NOW, life_s: float = ISSUER_LIFE_S) -> str:
        """As `meshd ca sign-intermediate` does; its serial number."""
        request = x509.load_pem_x509_csr((self.ca / "issuer.csr").read_bytes())
        root = material.load_root_pair(CaFiles(self.root), now)
        made = external.certify(root, TRUST_DOMAIN, request, Life.starting(now, life_s))
        (self.ca / "issuer.pem").write_bytes(certificates.pem(made))
        return certificates.serial(made)

    def open(self, now: float = NOW) -> Authority:
        return Authority.open(self.ca, now)


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path)


def chain(authority: Authority, now: float = NOW) -> list[x509.Certificate]:
    signed = x509.load_pem_x509_certificates(authority.issue(csr(), WEB, now, AGENT).chain_pem.encode())
    roots = x509.load_pem_x509_certificates(authority.bundle_pem.encode())
    for below, above in zip(signed, [*signed[1:], roots[0]], strict=True):
        below.verify_directly_issued_by(above)
    return signed


def test_such_a_ca_signs_tokens_and_changes_their_key(offline: Offline) -> None:
    offline.sign()
    with closing(offline.open()) as authority:
        authority.jwts.issue(WEB, ("reports",), 0.0, NOW, AGENT)
        authority.rotate(NOW + 29 * DAY_S)
        assert len(authority.bundle().jwt_keys) == 2


def test_a_ca_whose_root_is_offline_signs_below_it(offline: Offline) -> None:
    serial = offline.sign()
    with closing(offline.open()) as authority:
        assert [certificates.serial(each) for each in chain(authority)][1:] == [serial]
    assert not (offline.ca / "root.key").exists()
    assert {file.name for file in offline.root.iterdir()} == {"bundle.pem", "root.key"}


def test_before_it_is_signed_it_says_what_to_do(offline: Offline) -> None:
    with pytest.raises(Problem, match=r"issuer\.pem: is missing: have .*issuer\.csr signed where the root is"):
        offline.open()
    with pytest.raises(Problem, match=r"root: holds a root alone, which signs intermediates"):
        Authority.open(offline.root, NOW)


def test_an_issuer_that_is_replaced_is_used_and_a_bad_one_is_not(
    offline: Offline, caplog: pytest.LogCaptureFixture
) -> None:
    first = offline.sign()
    with closing(offline.open()) as authority:
        assert certificates.serial(chain(authority)[1]) == first
        good = (offline.ca / "issuer.pem").read_bytes()
        second = offline.sign(NOW + DAY_S)
        (offline.ca / "half.pem").write_bytes((offline.ca / "issuer.pem").read_bytes())
        (offline.ca / "issuer.pem").write_bytes(good[:100])
        authority.maintain(NOW + DAY_S)
        authority.maintain(NOW + DAY_S)
        assert certificates.serial(chain(authority, NOW + DAY_S)[1]) == first
        assert caplog.text.count("is not taken, the one before stays in use: ") == 1
        os.replace(offline.ca / "half.pem", offline.ca / "issuer.pem")
        authority.maintain(NOW + DAY_S)
        assert certificates.serial(chain(authority, NOW + DAY_S)[1]) == second


def test_that_it_will_expire_is_said_in_time(offline: Offline, caplog: pytest.LogCaptureFixture) -> None:
    offline.sign(life_s=30 * DAY_S)
    with closing(offline.open(NOW + 19 * DAY_S)) as authority:
        assert "have it renewed" not in caplog.text
        authority.maintain(NOW + 21 * DAY_S)
        assert "the issuer expires at 2027-02-14T08:00:00Z: have it renewed where its root is" in caplog.text
        assert authority.issue(csr(), WEB, NOW + 29.5 * DAY_S, AGENT).not_after == NOW + 30 * DAY_S


def test_an_intermediate_is_no_longer_good_than_its_root(offline: Offline) -> None:
    root = material.load_root_pair(CaFiles(offline.root), NOW)
    request = x509.load_pem_x509_csr((offline.ca / "issuer.csr").read_bytes())
    made = external.certify(root, TRUST_DOMAIN, request, Life.starting(NOW, 20 * 365 * DAY_S))
    assert Life.of(made).not_after == Life.of(root.certificate).not_after


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP192R1())], ids=["RSA", "P-192"]
)
def test_a_root_signs_no_odd_key(offline: Offline, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    root = material.load_root_pair(CaFiles(offline.root), NOW)
    with pytest.raises(Problem, match="the request's key is not ECDSA P-256 or P-384"):
        external.certify(root, TRUST_DOMAIN, x509.load_pem_x509_csr(csr(key).encode()), Life.starting(NOW, DAY_S))


def test_a_bundle_of_another_trust_domain_is_not_taken(offline: Offline, tmp_path: Path) -> None:
    bundle = (offline.root / "bundle.pem").read_bytes()
    with pytest.raises(Problem, match=r"holds the root of prod\.example, and this CA is to be of other\.example"):
        Authority.create_below(tmp_path / "other", "other.example", bundle)
    with pytest.raises(Problem, match="the bundle: holds no certificate"):
        Authority.create_below(tmp_path / "none", TRUST_DOMAIN, b"nothing")
    with pytest.raises(Misuse, match="is not a trust domain"):
        Authority.create_below(tmp_path / "none", "A B", bundle)


def test_a_ca_with_a_root_of_its_own_takes_no_other_issuer(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", TRUST_DOMAIN, NOW).close()
    with pytest.raises(Problem, match="has a root of its own, and the settings name an issuer elsewhere"):
        Authority.open(tmp_path / "ca", NOW, external=IssuerFiles(tmp_path / "key", tmp_path / "chain"))


# --- another system's ------------------------------------------------------------------------------------------------


class Theirs(NamedTuple):
    """One CA of another system: without a SPIFFE ID."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def theirs(
    name: str,
    above: Theirs | None,
    *,
    is_ca: bool = True,
    ends: float = NOW + 300 * DAY_S,
    rsa_bits: int = 0,
    names_keys: bool = True,
) -> Theirs:
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        **dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        ),
        digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(NOW - DAY_S, UTC))
        .not_valid_after(datetime.fromtimestamp(ends, UTC))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if names_keys:
        by = (above.key if above else key).public_key()
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)
    return Theirs(builder.sign(above.key if above else key, hashes.SHA256()), key)


ROOT = theirs("root", None)
MIDDLE = theirs("middle", ROOT)
ISSUER = theirs("issuer", MIDDLE, ends=NOW + DAY_S / 2, rsa_bits=2048)
STRANGER = theirs("stranger", None)
NO_CA = theirs("leaf", MIDDLE, is_ca=False)
NAMELESS = theirs("nameless", MIDDLE, names_keys=False)
EXPIRED = theirs("expired", MIDDLE, ends=NOW - 1)


def pem(*found: Theirs) -> bytes:
    return b"".join(certificates.pem(each.certificate) for each in found)


def key_pem(one: Theirs) -> bytes:
    return one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def where(tmp_path: Path) -> IssuerFiles:
    Authority.create_below(tmp_path / "ca", TRUST_DOMAIN, pem(ROOT))
    (tmp_path / "tls.key").write_bytes(key_pem(ISSUER))
    (tmp_path / "tls.key").chmod(0o640)
    (tmp_path / "tls.crt").write_bytes(pem(ISSUER, MIDDLE))
    return IssuerFiles(tmp_path / "tls.key", tmp_path / "tls.crt")


def open_at(where: IssuerFiles) -> Authority:
    return Authority.open(where.key.parent / "ca", NOW, external=where)


@pytest.mark.parametrize("with_root", [False, True])
def test_another_systems_issuer_signs_with_all_that_is_above_it(where: IssuerFiles, with_root: bool) -> None:
    where.chain.write_bytes(pem(ISSUER, MIDDLE, *([ROOT] if with_root else [])))
    with closing(open_at(where)) as authority:
        signed = chain(authority)
        assert signed[1:] == [ISSUER.certificate, MIDDLE.certificate]
        assert authority.trust_domain == TRUST_DOMAIN
        assert Life.of(signed[0]).not_after == NOW + DAY_S / 2 < NOW + LEAF_LIFE_S


@pytest.mark.peer("openssl")
def test_openssl_believes_what_is_signed_below_another_systems_root(where: IssuerFiles, tmp_path: Path) -> None:
    with closing(open_at(where)) as authority:
        signed = chain(authority)
    (tmp_path / "leaf.pem").write_bytes(certificates.pem(signed[0]))
    (tmp_path / "above.pem").write_bytes(b"".join(map(certificates.pem, signed[1:])))
    (tmp_path / "root.pem").write_text(authority.bundle_pem)
    argv = [peers.path("openssl"), "verify", "-x509_strict", "-attime", f"{NOW:.0f}", "-CAfile", "root.pem"]
    done = subprocess.run(
        [*argv, "-untrusted", "above.pem", "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "leaf.pem: OK\n", done.stderr


def test_of_several_roots_the_one_in_use_goes_first_for_tokens_name_it(tmp_path: Path, where: IssuerFiles) -> None:
    (tmp_path / "ca" / "bundle.pem").write_bytes(pem(STRANGER, ROOT))
    with closing(open_at(where)) as authority:
        assert authority.bundle_pem.encode() == pem(ROOT, STRANGER) == (tmp_path / "ca" / "bundle.pem").read_bytes()
        assert len(authority.root_hashes()) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda where: where.chain.unlink(), r"tls\.crt: cannot be read"),
        (lambda where: where.chain.write_text("x"), r"tls\.crt: holds no certificate"),
        (lambda where: where.chain.write_bytes(pem(ISSUER)), r"tls\.crt: does not lead to a root in .*bundle\.pem"),
        (lambda where: where.chain.write_bytes(pem(ISSUER, STRANGER)), r"certificate 1 is not signed by the one after"),
        (lambda where: where.chain.write_bytes(pem(MIDDLE)), r"its first certificate is not of the key in .*tls\.key"),
        (lambda where: where.chain.write_bytes(pem(*[ISSUER] * 9)), "holds 9 certificates, and 8 is the most"),
        (lambda where: where.key.write_text("x"), r"tls\.key: holds no private key"),
        (lambda where: where.key.chmod(0o644), r"tls\.key: holds a private key that everyone on this host"),
        (lambda where: where.key.unlink(), r"tls\.key: cannot be read"),
        (
            lambda where: (where.chain.write_bytes(pem(NO_CA, MIDDLE)), where.key.write_bytes(key_pem(NO_CA))),
            r"CN=leaf may not sign certificates",
        ),
        (
            lambda where: (where.chain.write_bytes(pem(NAMELESS, MIDDLE)), where.key.write_bytes(key_pem(NAMELESS))),
            r"CN=nameless has no subject key identifier",
        ),
        (
            lambda where: (where.chain.write_bytes(pem(EXPIRED, MIDDLE)), where.key.write_bytes(key_pem(EXPIRED))),
            r"CN=expired is good from .* to 2027-01-15T07:59:59Z, not now",
        ),
    ],
)
def test_an_issuer_that_does_not_fit_is_not_taken(
    where: IssuerFiles, wrong: Callable[[IssuerFiles], object], message: str
) -> None:
    wrong(where)
    with pytest.raises(Problem, match=message):
        open_at(where)


def test_a_ca_that_is_made_again_believes_other_roots_and_agents_hear_of_it(offline: Offline, tmp_path: Path) -> None:
    offline.sign()
    with closing(offline.open()) as authority:
        before = authority.bundle()
    old, new = (offline.root / "bundle.pem").read_bytes(), make_other_root(tmp_path)
    assert not Authority.believe(offline.ca, TRUST_DOMAIN, old)
    with closing(offline.open()) as authority:
        assert authority.bundle().sequence == before.sequence
    assert Authority.believe(offline.ca, TRUST_DOMAIN, new + old)
    with closing(offline.open()) as authority:
        assert authority.bundle().sequence > before.sequence
        assert set(x509.load_pem_x509_certificates(authority.bundle_pem.encode())) == set(
            x509.load_pem_x509_certificates(new + old)
        )
    assert not Authority.believe(offline.ca, TRUST_DOMAIN, old + new)  # the same ones


def test_a_ca_is_made_again_only_as_what_it_was(offline: Offline, tmp_path: Path) -> None:
    bundle = (offline.root / "bundle.pem").read_bytes()
    with pytest.raises(Problem, match=r"of the trust domain mesh\.example|of the trust domain"):
        Authority.believe(offline.ca, "other.example", bundle)
    Authority.create(tmp_path / "whole", TRUST_DOMAIN, NOW).close()
    with pytest.raises(Problem, match="is not below a root that is elsewhere"):
        Authority.believe(tmp_path / "whole", TRUST_DOMAIN, bundle)


def make_other_root(directory: Path) -> bytes:
    create_root(directory / "other", TRUST_DOMAIN, NOW)
    return (directory / "other" / "bundle.pem").read_bytes()
