"""What an agent may rely on from any certificate source: one suite, over the authority itself and over HTTPS."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest
from cryptography import x509

from meshd.api.names import Identity
from meshd.ca import certificates, jwt
from meshd.ca.authority import Authority
from meshd.ca.certificates import LEAF_LIFE_S
from meshd.ca.local import LocalCa
from meshd.ca.source import CertificateSource, Forbidden, Refusal, Unreachable
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, WEB, client, recorded, served
from tests.support.csr import csr


class Clock:
    """The real one, which a test may set forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@asynccontextmanager
async def local(authority: Authority, clock: Clock) -> AsyncIterator[CertificateSource]:
    yield LocalCa(authority, clock)


@asynccontextmanager
async def https(authority: Authority, clock: Clock) -> AsyncIterator[CertificateSource]:
    async with served(authority, clock) as server:
        yield client(server, authority.bundle_pem)


Make = Callable[[Authority, Clock], AbstractAsyncContextManager[CertificateSource]]

both = pytest.mark.parametrize("make", [local, https])


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time(), TOKEN)) as made:
        yield made


@both
def test_a_certificate_is_of_the_identity_for_the_key_and_on_record(
    make: Make, authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        request = csr()
        async with make(authority, Clock()) as source:
            await source.health()
            signed = await source.sign(request, WEB)
        leaf, issuer = x509.load_pem_x509_certificates(signed.chain_pem.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier(str(WEB))]
        assert leaf.public_key() == x509.load_pem_x509_csr(request.encode()).public_key()
        assert abs(signed.not_after - time.time() - LEAF_LIFE_S) < 60
        assert signed.not_before < time.time()
        leaf.verify_directly_issued_by(issuer)
        issuer.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.bundle_pem.encode()))
        assert certificates.serial(leaf) in {issued.serial for issued in recorded(tmp_path / "ca")}

    aio.run(main())


@both
@pytest.mark.parametrize(
    ("request_pem", "identity", "refusal", "reason"),
    [
        ("web", str(WEB), Refusal, "not a certificate request"),
        (csr() * 60, str(WEB), Refusal, "larger than 16 KiB"),
        (csr(names=[x509.DNSName("web")]), str(WEB), Refusal, f"other names than {WEB} alone"),
        (csr(), "spiffe://other.example/ns/default/sa/web", Forbidden, "not of this CA's trust domain"),
        (csr(), "spiffe://prod.example/node/vm1", Forbidden, "a host's identity"),
    ],
)
def test_what_must_not_be_signed_is_refused_for_good(
    make: Make,
    authority: Authority,
    tmp_path: Path,
    request_pem: str,
    identity: str,
    refusal: type[Refusal],
    reason: str,
) -> None:
    async def main() -> None:
        async with make(authority, Clock()) as source:
            with pytest.raises(refusal, match=reason):
                await source.sign(request_pem, Identity.parse(identity))
            await source.health()
        assert recorded(tmp_path / "ca") == []

    aio.run(main())


@both
def test_a_token_is_of_the_identity_for_its_audiences_by_a_key_in_the_bundle(make: Make, authority: Authority) -> None:
    async def main() -> None:
        async with make(authority, Clock()) as source:
            issued = await source.jwt(WEB, ("reports", "ledger"))
            bundle = await source.news(0)
        keys = {each.kid: jwt.Point(each.x, each.y).key() for each in bundle.jwt_keys}
        for audience in ("reports", "ledger"):
            identity, claims = jwt.verify(issued.token, keys, audience, TRUST_DOMAIN, time.time())
            assert (identity, claims["exp"] - claims["iat"]) == (WEB, 300)
        assert (issued.issued_at, issued.expires_at) == (claims["iat"], claims["exp"])

    aio.run(main())


@both
@pytest.mark.parametrize(
    ("identity", "audiences", "refusal", "reason"),
    [
        (str(WEB), (), Refusal, "1 to 16 audiences"),
        ("spiffe://other.example/ns/default/sa/web", ("reports",), Forbidden, "not of this CA's trust domain"),
        ("spiffe://prod.example/node/vm1", ("reports",), Forbidden, "a host's identity"),
    ],
)
def test_no_token_is_made_of_what_is_not_to_be_had(
    make: Make, authority: Authority, identity: str, audiences: tuple[str, ...], refusal: type[Refusal], reason: str
) -> None:
    async def main() -> None:
        async with make(authority, Clock()) as source:
            with pytest.raises(refusal, match=reason):
                await source.jwt(Identity.parse(identity), audiences)

    aio.run(main())


@both
def test_a_ca_that_cannot_sign_tokens_now_may_be_asked_again(make: Make, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with make(authority, Clock()) as source:
            with closing(sqlite3.connect(tmp_path / "ca" / "ca.db")) as other:
                other.execute("ALTER TABLE counters RENAME TO mislaid")
                with pytest.raises(Unreachable):
                    await source.jwt(WEB, ("reports",))
                other.execute("ALTER TABLE mislaid RENAME TO counters")
            await source.jwt(WEB, ("reports",))

    aio.run(main())


@both
def test_what_cannot_be_stored_may_be_asked_for_again(make: Make, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with make(authority, Clock()) as source:
            with closing(sqlite3.connect(tmp_path / "ca" / "ca.db")) as other:
                other.execute("ALTER TABLE issued RENAME TO mislaid")
                with pytest.raises(Unreachable):
                    await source.sign(csr(), WEB)
                other.execute("ALTER TABLE mislaid RENAME TO issued")
            await source.sign(csr(), WEB)

    aio.run(main())


@both
def test_a_ca_whose_time_has_come_is_not_healthy(make: Make, authority: Authority) -> None:
    async def main() -> None:
        clock = Clock()
        async with make(authority, clock) as source:
            clock.ahead_s = certificates.ROOT_LIFE_S + 3600
            with pytest.raises(Unreachable):
                await source.health()
            with pytest.raises(Unreachable):
                await source.sign(csr(), WEB)

    aio.run(main())


@both
def test_many_at_once_each_get_their_own(make: Make, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        request = csr()
        async with make(authority, Clock()) as source:
            signed = await asyncio.gather(*(source.sign(request, WEB) for _ in range(100)))
        leaves = [x509.load_pem_x509_certificate(each.chain_pem.encode()) for each in signed]
        serials = {certificates.serial(leaf) for leaf in leaves}
        assert len(serials) == 100
        assert serials <= {issued.serial for issued in recorded(tmp_path / "ca")}

    aio.run(main())
