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
from meshd.ca import certificates
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
