"""How the agent sees its CA: well, away, or unwilling; and what it says of that, once."""

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path

import pytest

from meshd.agent.certificates import NotSigned, Signer
from meshd.agent.trust import Trust, TrustFile
from meshd.api.control import Certificate
from meshd.api.names import Identity, WorkloadName
from meshd.api.problems import Problem
from meshd.ca.source import Forbidden, NotAuthenticated, Refusal, Unable, Unreachable
from meshd.ca.wire import Bundle, Denial, Jwk, Renewal, Token
from tests.support import aio
from tests.support.bundles import root
from tests.support.waiting import eventually

WEB = Identity.of("mesh.local", WorkloadName("default", "web"))
BUNDLE = root()
NOW = 1.8e9


class Source:
    """A CA that fails as it is told to."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.is_away = False
        self.bundle = Bundle("mesh.local", BUNDLE)
        self.trusts = ""
        self.oldest = 0.0

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        await self.health()
        if self.fails is not None:
            raise self.fails
        return Certificate(f"for {identity}", not_before=NOW - 60, not_after=NOW + 86400)

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        await self.health()
        if self.fails is not None:
            raise self.fails
        return Token(f"of {identity} for {' '.join(audiences)}", NOW, NOW + 300)

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        self.oldest = oldest
        await self.health()
        if self.bundle.sequence == after:
            await asyncio.Event().wait()
        return self.bundle

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        self.trusts = bundle_pem

    def begun(self) -> float:
        return NOW

    async def health(self) -> None:
        if self.is_away:
            raise Unreachable("https://ca: connection refused")


class Mesh:
    def __init__(self) -> None:
        self.now = NOW
        self.source = Source()
        self.signer = Signer(self.source, BUNDLE, "https://ca", lambda: self.now)

    async def refusal(self) -> NotSigned:
        with pytest.raises(NotSigned) as caught:
            await self.signer.sign("csr", WEB)
        return caught.value


def run(work: Coroutine[None, None, None]) -> None:
    aio.run(work)


def test_a_certificate_is_had_and_the_ca_is_well() -> None:
    async def main() -> None:
        mesh = Mesh()
        assert (mesh.signer.health().healthy, mesh.signer.health().since) == (True, 0.0)
        assert (await mesh.signer.sign("csr", WEB)).chain_pem == f"for {WEB}"
        mesh.now += 100
        await mesh.signer.sign("csr", WEB)
        assert (mesh.signer.health().healthy, mesh.signer.health().since) == (True, NOW)

    run(main())


def test_a_ca_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        mesh = Mesh()
        mesh.source.is_away = True
        for _ in range(3):
            refusal = await mesh.refusal()
            assert (str(refusal), refusal.retry) == ("the CA is away: https://ca: connection refused", True)
            mesh.now += 10
        health = mesh.signer.health()
        assert (health.healthy, health.message, health.since) == (False, "connection refused", NOW)
        mesh.source.is_away = False
        await mesh.signer.sign("csr", WEB)
        assert mesh.signer.health().since == NOW + 30

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_ca_that_answers_and_cannot_sign_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        mesh = Mesh()
        watching = asyncio.get_running_loop().create_task(mesh.signer.watch())
        mesh.source.fails = Unable("its store is away (status 503)")
        for _ in range(3):
            assert (await mesh.refusal()).retry
            await asyncio.sleep(0)  # the watch looks, and the CA answers
            assert mesh.signer.health().message == "its store is away (status 503)"
            mesh.now += 59
        watching.cancel()
        mesh.now += 1
        again = asyncio.get_running_loop().create_task(mesh.signer.watch())
        await eventually(lambda: mesh.signer.health().healthy, "nobody was refused for a while")
        again.cancel()
        await asyncio.gather(watching, again, return_exceptions=True)

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_bad_request_is_refused_for_good_and_says_nothing_of_the_ca() -> None:
    async def main() -> None:
        mesh = Mesh()
        mesh.source.fails = Refusal("no CSR")
        refusal = await mesh.refusal()
        assert (str(refusal), refusal.retry) == ("the CA refused: no CSR", False)
        assert mesh.signer.health().healthy

    run(main())


def test_a_ca_that_does_not_know_this_host_is_not_well_however_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        mesh = Mesh()
        watching = asyncio.get_running_loop().create_task(mesh.signer.watch())
        mesh.source.fails = NotAuthenticated("unknown token")
        for _ in range(3):
            assert (await mesh.refusal()).retry
            await asyncio.sleep(0)
        health = mesh.signer.health()
        assert not health.healthy
        assert "it does not know this host: unknown token" in health.message
        mesh.source.fails = None
        await mesh.signer.sign("csr", WEB)
        assert mesh.signer.health().healthy
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_is_not_this_hosts_to_have_may_be_asked_for_again_and_says_nothing_of_the_ca() -> None:
    """One workload may be without an entry, and the others go on."""

    async def main() -> None:
        mesh = Mesh()
        mesh.source.fails = Forbidden("no entry")
        refusal = await mesh.refusal()
        assert (str(refusal), refusal.retry) == ("the CA does not sign this for this host: no entry", True)
        assert mesh.signer.health().healthy

    run(main())


def test_another_source_takes_over() -> None:
    async def main() -> None:
        mesh = Mesh()
        mesh.source.is_away = True
        await mesh.refusal()
        mesh.signer.use(Source(), BUNDLE)
        await mesh.signer.sign("csr", WEB)
        with pytest.raises(ValueError, match="PEM"):
            mesh.signer.use(Source(), "nothing")
        await mesh.signer.sign("csr", WEB)

    run(main())


def test_clocks_that_differ_are_said_once_and_until_they_agree(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        mesh = Mesh()
        mesh.now = NOW - 120
        for _ in range(2):
            await mesh.signer.sign("csr", WEB)
        assert list(mesh.signer.troubles()) == ["this host's clock is at least 60 s behind the CA's: set the clock"]
        mesh.now = NOW
        await mesh.signer.sign("csr", WEB)
        assert list(mesh.signer.troubles()) == []

    run(main())
    assert len(caplog.records) == 1


async def followed(signer: Signer, source: Source, news: Bundle) -> None:
    """Returns when the signer has followed the CA's news, or asked for what is after it."""
    source.bundle = news
    told = asyncio.Event()
    signer.changed = told.set
    following = asyncio.get_running_loop().create_task(signer.follow())
    try:
        async with asyncio.timeout(30.0):
            await told.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_what_the_ca_denies_is_followed_and_outlasts_the_agent(tmp_path: Path) -> None:
    file = TrustFile(tmp_path / "trust.json")
    denial = Denial("node", "vm1")

    async def main() -> None:
        mesh = Mesh()
        mesh.signer = Signer(mesh.source, BUNDLE, "https://ca", lambda: mesh.now, file)
        await followed(mesh.signer, mesh.source, Bundle("mesh.local", BUNDLE, 3, (denial,)))
        assert (mesh.signer.trust.sequence, mesh.signer.trust.denied) == (3, (denial,))

    run(main())
    again = Signer(Source(), BUNDLE, "https://ca", memory=file).trust
    assert (again.sequence, again.denied) == (3, (denial,))
    (tmp_path / "trust.json").write_text("{")
    with pytest.raises(Problem, match=r"trust\.json: what the CA said of roots and denials cannot be read"):
        Signer(Source(), BUNDLE, "https://ca", memory=file)


def test_a_ca_that_does_not_let_it_wait_is_asked_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Source):
        async def news(self, after: int, oldest: float = 0.0) -> Bundle:
            return self.bundle

    async def main() -> None:
        pauses: list[float] = []
        yielding, enough = asyncio.sleep, asyncio.Event()

        async def sleep(pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 8:
                enough.set()
            await yielding(0)

        signer = Signer(Hasty(), BUNDLE, "CA", ask_every_s=4.0)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        following = asyncio.get_running_loop().create_task(signer.follow())
        await enough.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert all(2.0 <= pause_s <= 4.0 for pause_s in pauses[3:])

    aio.run(main())


def test_a_bundle_that_the_ca_tells_of_is_in_force_and_kept(tmp_path: Path) -> None:
    file, both = TrustFile(tmp_path / "trust.json"), BUNDLE + root()

    async def main() -> None:
        mesh = Mesh()
        mesh.signer = Signer(mesh.source, BUNDLE, "https://ca", lambda: mesh.now, file)
        assert mesh.source.trusts == ""
        await followed(mesh.signer, mesh.source, Bundle("mesh.local", both, 3))
        assert (mesh.signer.trust_bundle_pem, mesh.source.trusts) == (both, both)

    run(main())
    source = Source()
    signer = Signer(source, BUNDLE, "https://ca", memory=file)
    assert (signer.trust_bundle_pem, source.trusts) == (both, both)


def test_another_bundle_of_the_operators_begins_anew_and_what_is_denied_stays(tmp_path: Path) -> None:
    file, denial, other = TrustFile(tmp_path / "trust.json"), Denial("node", "vm1"), root()

    async def main() -> None:
        source = Source()
        signer = Signer(source, BUNDLE, "https://ca", memory=file)
        await followed(signer, source, Bundle("mesh.local", BUNDLE + root(), 3, (denial,)))

    run(main())
    signer = Signer(Source(), other, "https://ca", memory=file)
    assert (signer.trust_bundle_pem, signer.trust.sequence, signer.trust.denied) == (other, 0, (denial,))


@pytest.mark.parametrize("news", [Bundle("mesh.local", BUNDLE, 2), Bundle("mesh.local", "nothing", 4)])
def test_what_is_old_or_no_bundle_is_not_believed(news: Bundle) -> None:
    async def main() -> None:
        mesh = Mesh()
        both = BUNDLE + root()
        await followed(mesh.signer, mesh.source, Bundle("mesh.local", both, 3))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await followed(mesh.signer, mesh.source, news)
        assert (mesh.signer.trust_bundle_pem, mesh.source.trusts, mesh.signer.trust.sequence) == (both, both, 3)

    run(main())


class Impatient(Source):
    """A CA that has no place for one who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        self.asked.append(after)
        await asyncio.sleep(0)
        return self.bundle


def test_keys_of_tokens_are_heard_of_under_a_number_that_is_known_and_nothing_else_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What an agent kept that knew of no such keys has the number, and none of them."""

    async def main() -> None:
        source = Impatient()
        signer = Signer(source, BUNDLE, "https://ca")
        await followed(signer, source, Bundle("mesh.local", BUNDLE, 3))
        key = Jwk("k", "x", "y", NOW)
        await followed(signer, source, Bundle("mesh.local", BUNDLE, 3, jwt_keys=(key,)))
        assert signer.trust.jwt_keys == (key,)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await followed(signer, source, Bundle("mesh.local", BUNDLE, 2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await followed(signer, source, Bundle("mesh.local", BUNDLE, 3, (Denial("node", "a"),), jwt_keys=(key,)))
        with pytest.raises(TimeoutError):  # what one is told who finds no place to wait
            async with asyncio.timeout(0.02):
                await followed(signer, source, Bundle("mesh.local", "", 3, again_s=0.001))
        assert (signer.trust.sequence, signer.trust.denied, signer.trust.jwt_keys) == (3, (), (key,))

    run(main())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_one_that_kept_no_keys_of_tokens_asks_once_as_if_for_the_first_time(tmp_path: Path) -> None:
    file = TrustFile(tmp_path / "trust.json")
    file.keep(Trust(3, BUNDLE).since(BUNDLE))
    key = Jwk("k", "x", "y", NOW)

    async def main() -> None:
        for keys, asked in (((), [0, 3]), ((key,), [0, 3]), ((key,), [3])):
            source = Impatient()
            source.bundle = Bundle("mesh.local", BUNDLE, 3, jwt_keys=keys)
            signer = Signer(source, BUNDLE, "https://ca", memory=file)
            following = asyncio.get_running_loop().create_task(signer.follow())
            await eventually(lambda: len(source.asked) >= len(asked), "it has asked", 30.0)  # noqa: B023 - within
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            assert source.asked[: len(asked)] == asked
            assert (signer.trust.sequence, signer.trust.jwt_keys) == (3, keys)

    run(main())


def test_the_ca_hears_at_once_that_nothing_is_left_to_be_renewed() -> None:
    """While it waits for what is next, which may take it 20 s."""

    async def main() -> None:
        mesh = Mesh()
        oldest, mesh.signer.oldest = NOW - 100, lambda: oldest
        mesh.source.bundle = Bundle("mesh.local", BUNDLE + root(), 3, renewal=Renewal(NOW - 50, 60.0))
        following = asyncio.get_running_loop().create_task(mesh.signer.follow())
        await eventually(lambda: mesh.signer.trust.sequence == 3 and mesh.source.oldest == NOW - 100, "it is told")
        assert "certificates are being renewed" in mesh.signer.health().message
        mesh.signer.renewed()
        oldest = NOW - 10
        mesh.signer.renewed()
        await eventually(lambda: mesh.source.oldest == NOW - 10, "the CA is told")
        assert mesh.signer.health().message == "its root is being changed: 2 roots are believed"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(main())
