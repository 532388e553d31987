"""Tokens for processes: when the CA is asked for one, what there is while it is away, and which of others are good."""

import asyncio
import json
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from discovery.chain import Chain
from meshd.agent.certificates import NotSigned, Signer
from meshd.agent.core import Core
from meshd.agent.peer import Access
from meshd.agent.registry import Registry
from meshd.agent.trust import Trust, TrustFile
from meshd.agent.workload.jwts import ASKED_BURST, ASKED_PER_SECOND, MAX_KEPT, Jwts
from meshd.api.names import Identity, WorkloadName
from meshd.ca import jwt
from meshd.ca.jwt import BadToken, Point
from meshd.ca.rates import TooOften
from meshd.ca.source import CertificateSource, Unreachable
from meshd.ca.wire import Bundle, Denial, Jwk, Token
from tests.support.bundles import root

WEB, API = WorkloadName("default", "web"), WorkloadName("default", "api")
NOW = 1_800_000_000.0
KEY = ec.derive_private_key(0x6D657368, ec.SECP256R1())
POINT = Point.of(KEY.public_key())
JWK = Jwk("k1", *POINT, NOW + 3600)
TRUST = Trust(jwt_keys=(JWK,))


class Ca:
    """A source of tokens whose clock is the test's, set `ahead_s` of this host's; it counts, and may be away."""

    def __init__(self) -> None:
        self.now, self.ahead_s, self.asked, self.away = NOW, 0.0, 0, False

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("it is away")
        at = int(self.now + self.ahead_s)
        claims = jwt.Claims(identity, audiences, at, at + 300, str(self.asked))
        return Token(jwt.sign(claims, KEY, "k1"), at, at + 300)


@pytest.fixture
def ca() -> Ca:
    return Ca()


@pytest.fixture
def core(ca: Ca) -> Core:
    core = Core(
        node="test",
        trust_domain="mesh.local",
        mode="host",
        registry=Registry(),
        discovery=Chain(()),
        signer=Signer(cast(CertificateSource, ca), root(), "ca", clock=lambda: ca.now),
        access=Access.of((), "")[0],
        troubles=lambda: (),
        clock=lambda: ca.now,
        monotonic=lambda: ca.now,
    )
    core.signer.trust = TRUST
    return core


@pytest.fixture
def jwts(core: Core) -> Jwts:
    return Jwts(core, lambda least, most: 0.0)


def get(jwts: Jwts, *audiences: str, workload: WorkloadName = WEB) -> str:
    return asyncio.run(jwts.get(workload, audiences or ("reports",)))


def test_a_token_is_the_workload_s_and_passes_its_own_check(jwts: Jwts) -> None:
    found = jwts.verify(get(jwts, "reports", "ledger"), "ledger")
    assert str(found.identity) == "spiffe://mesh.local/ns/default/sa/web"
    assert found.claims["aud"] == ["ledger", "reports"]


def test_processes_that_ask_at_once_have_the_ca_asked_once(ca: Ca, jwts: Jwts) -> None:
    async def main() -> int:
        asked = [*(["a", "b"] for _ in range(3)), ["b", "a"], ["a", "b", "a"]]
        return len(set(await asyncio.gather(*(jwts.get(WEB, each) for each in asked))))

    assert asyncio.run(main()) == 1
    assert ca.asked == 1


def test_workloads_and_audiences_have_tokens_of_their_own(ca: Ca, jwts: Jwts) -> None:
    tokens = {get(jwts, "a"), get(jwts, "b"), get(jwts, "a", "b"), get(jwts, "a", workload=API)}
    assert len(tokens) == ca.asked == 4


def test_one_is_given_out_for_half_of_its_life_and_longer_if_the_ca_is_away(ca: Ca, jwts: Jwts) -> None:
    first = get(jwts)
    ca.now += 149
    assert get(jwts) == first
    ca.away = True
    ca.now += 2
    assert get(jwts) == get(jwts) == first
    assert ca.asked == 2  # a pause is kept
    ca.now += 150
    for _ in range(2):
        with pytest.raises(NotSigned, match="the CA is away"):
            get(jwts)
    ca.away = False
    ca.now += 60
    assert get(jwts) != first


@pytest.mark.parametrize("ahead_s", [-900.0, 900.0])
def test_clocks_that_differ_make_it_neither_older_nor_younger(ca: Ca, jwts: Jwts, ahead_s: float) -> None:
    ca.ahead_s = ahead_s
    first = get(jwts)
    ca.now += 149
    assert get(jwts) == first
    ca.now += 2
    assert get(jwts) != first
    ca.away = True
    ca.now += 301
    with pytest.raises(NotSigned):
        get(jwts)


def test_what_the_ca_denies_is_given_to_nobody(ca: Ca, core: Core, jwts: Jwts) -> None:
    token = get(jwts)
    denied = (Denial("identity", "spiffe://mesh.local/ns/default/sa/web"),)
    core.signer.trust = Trust(denied=denied, jwt_keys=TRUST.jwt_keys)
    ca.away = True
    with pytest.raises(NotSigned):
        get(jwts)
    with pytest.raises(BadToken, match=r"the CA denies spiffe://mesh\.local/ns/default/sa/web"):
        jwts.verify(token, "reports")


def test_tokens_of_workloads_that_are_no_more_are_forgotten(jwts: Jwts) -> None:
    web, api = get(jwts), get(jwts, workload=API)
    jwts.keep(frozenset({API}))
    assert get(jwts, workload=API) == api
    assert get(jwts) != web


def test_what_is_kept_is_bounded_and_what_is_used_stays(ca: Ca, jwts: Jwts) -> None:
    ca.now = NOW

    async def main() -> None:
        used = await jwts.get(API, ["used"])
        for number in range(MAX_KEPT + 10):
            workload = WorkloadName("default", f"w{number // ASKED_BURST}")
            await jwts.get(workload, [str(number)])
            assert await jwts.get(API, ["used"]) == used
        asked = ca.asked
        await jwts.get(WorkloadName("default", "w0"), [str(ASKED_BURST - 1)])
        assert ca.asked == asked  # a later one is there
        ca.now += ASKED_BURST / ASKED_PER_SECOND
        await jwts.get(WorkloadName("default", "w0"), ["0"])
        assert ca.asked == asked + 1  # the first is not

    asyncio.run(main())


def test_a_workload_has_the_ca_asked_so_often_and_others_are_not_held_up(ca: Ca, jwts: Jwts) -> None:
    async def main() -> None:
        for number in range(ASKED_BURST):
            await jwts.get(WEB, [str(number)])
        for number in range(MAX_KEPT):
            with pytest.raises(TooOften, match="too many requests of default/web: again in 1 s"):
                await jwts.get(WEB, [f"one more {number}"])
        await jwts.get(WEB, ["0"])  # what is there is given out, and nobody's place was taken
        assert ca.asked == ASKED_BURST
        await jwts.get(API, ["one more"])
        ca.now += 1.0
        await jwts.get(WEB, ["one more"])

    asyncio.run(main())


def test_one_that_is_to_be_renewed_is_given_out_while_the_ca_may_not_be_asked(ca: Ca, jwts: Jwts) -> None:
    async def main() -> None:
        first = await jwts.get(WEB, ["reports"])
        ca.now += 151
        for number in range(ASKED_BURST):
            await jwts.get(WEB, [str(number)])
        assert await jwts.get(WEB, ["reports"]) == first
        ca.now += 1
        assert await jwts.get(WEB, ["reports"]) != first

    asyncio.run(main())


@pytest.mark.parametrize("audiences", [[], [str(number) for number in range(17)], [""], ["a\nb"], ["x" * 513]])
def test_the_ca_is_not_asked_for_what_it_would_refuse(ca: Ca, jwts: Jwts, audiences: list[str]) -> None:
    with pytest.raises(ValueError, match="audience"):
        asyncio.run(jwts.get(WEB, audiences))
    assert ca.asked == 0


# --- the keys


def test_a_key_is_believed_while_the_ca_says_it_and_no_longer_than_it_said(ca: Ca, core: Core, jwts: Jwts) -> None:
    token = get(jwts)
    core.signer.trust = Trust()
    with pytest.raises(BadToken, match="no key of this trust domain is called 'k1'"):
        jwts.verify(token, "reports")
    with pytest.raises(NotSigned, match="has not said by which keys"):
        jwts.key_set()
    core.signer.trust = Trust(jwt_keys=(Jwk("k1", *POINT, NOW + 10), Jwk("k2", *POINT, NOW + 60)))
    jwts.verify(token, "reports")
    ca.now += 10
    with pytest.raises(BadToken, match="no key"):
        jwts.verify(token, "reports")
    assert [each["kid"] for each in json.loads(jwts.key_set())["keys"]] == ["k2"]


def test_the_keys_are_a_jwk_set_for_jwt_svids(jwts: Jwts) -> None:
    assert json.loads(jwts.key_set()) == {
        "keys": [
            {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "jwt-svid", "kid": "k1", "x": POINT.x, "y": POINT.y}
        ]
    }


def test_a_key_that_is_none_takes_no_other_along(core: Core, jwts: Jwts) -> None:
    core.signer.trust = Trust(jwt_keys=(Jwk("bad", POINT.x, POINT.x, NOW + 10), JWK))
    jwts.verify(get(jwts), "reports")


def test_what_an_older_version_kept_has_no_keys_and_what_is_kept_now_has(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text('{"sequence":7,"bundle_pem":"","denied":[],"pinned":"","renewal":null}')
    kept = TrustFile(file).recall()
    assert (kept.sequence, kept.jwt_keys) == (7, ())
    TrustFile(file).keep(kept.followed_by(Bundle("mesh.local", root(), 8, jwt_keys=(JWK,))))
    assert TrustFile(file).recall().jwt_keys == (JWK,)
