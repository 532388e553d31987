"""Who may have which token: good requests, and every way to be refused."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from meshd.api.names import Identity, WorkloadName
from meshd.ca import jwt
from meshd.ca.authority import Authority
from meshd.ca.certificates import Life
from meshd.ca.jwt import DEFAULT_LIFE_S, MAX_AUDIENCE_BYTES, MOST_LIFE_S, Point
from meshd.ca.jwt_rules import AskedJwt, jwt_rules
from meshd.ca.records import Denied, Entry, JwtKey
from meshd.ca.requester import Joining, OfNode, OneWorkload, Requester
from meshd.ca.rules import NOTHING_DENIED
from meshd.ca.source import Forbidden, Refusal, Unreachable
from tests.support.authorities import AGENT, TRUST_DOMAIN, WEB
from tests.support.stores import NOW, join_token

DAY_S = 86400.0
POINT = Point("x", "y")
KEY = JwtKey("k", *POINT, "ca1", NOW, NOW, NOW + 31 * DAY_S, NOW + 29 * DAY_S, DAY_S)
RULES = jwt_rules(TRUST_DOMAIN, KEY)
VM1 = Identity.of_host(TRUST_DOMAIN, "vm1")
NODE = Requester("node vm1", OfNode("vm1", lambda _: [Entry("e", "*", "*/web", "", NOW)]), node="vm1", serial="0a")
POD = Requester("service account default/web", OneWorkload("it", WorkloadName("default", "web")))
JOINS = Requester("token t1", Joining(join_token(pattern="*")), token=join_token(pattern="*"))
GOOD = AskedJwt(WEB, ("reports",), 0.0, NOW, NODE, NOTHING_DENIED)


@pytest.mark.parametrize("requester", [NODE, POD, AGENT], ids=["node", "pod", "shared token"])
@pytest.mark.parametrize(("life_s", "lasts_s"), [(0.0, DEFAULT_LIFE_S), (10.0, 10.0), (MOST_LIFE_S, MOST_LIFE_S)])
def test_a_good_request_gets_a_short_life(requester: Requester, life_s: float, lasts_s: float) -> None:
    assert RULES.decide(replace(GOOD, requester=requester, life_s=life_s)) == Life(NOW, NOW + lasts_s)


@pytest.mark.parametrize(
    ("asked", "refusal", "reason"),
    [
        (
            replace(GOOD, identity=Identity.parse("spiffe://other.example/ns/default/sa/web")),
            Forbidden,
            "not of this CA's trust domain",
        ),
        (
            replace(GOOD, identity=Identity.parse("spiffe://prod.example/ns/default/sa/db")),
            Forbidden,
            "no entry lets the node vm1 have default/db",
        ),
        (
            replace(GOOD, identity=Identity.parse("spiffe://prod.example/ns/a/sa/web"), requester=POD),
            Forbidden,
            "is not it's, which is default/web",
        ),
        (replace(GOOD, identity=VM1), Forbidden, "a host's identity, and tokens are of workloads"),
        (replace(GOOD, identity=VM1, requester=JOINS), Forbidden, "a host's identity, and tokens are of workloads"),
        (replace(GOOD, requester=JOINS), Forbidden, "a join token is for joining as a node"),
        (replace(GOOD, identity=VM1, requester=AGENT), Forbidden, "a host's identity"),
        (replace(GOOD, denied={("node", "vm1"): "stolen"}), Forbidden, "the node vm1 is denied: stolen"),
        (replace(GOOD, denied={("serial", "0a"): "stolen"}), Forbidden, "the serial 0a is denied: stolen"),
        (replace(GOOD, denied={("identity", str(WEB)): "leaked"}), Forbidden, "is denied: leaked"),
        (replace(GOOD, audiences=()), Refusal, "1 to 16 audiences, not 0"),
        (replace(GOOD, audiences=tuple(map(str, range(17)))), Refusal, "1 to 16 audiences, not 17"),
        (replace(GOOD, audiences=("a", "a")), Refusal, "named twice"),
        (replace(GOOD, audiences=("a\n",)), Refusal, "is no audience"),
        (replace(GOOD, audiences=("a" * (MAX_AUDIENCE_BYTES + 1),)), Refusal, "512 bytes at most"),
        (replace(GOOD, life_s=9.0), Refusal, "10 to 3600 seconds, not 9"),
        (replace(GOOD, life_s=-300.0), Refusal, "10 to 3600 seconds, not -300"),
        (replace(GOOD, life_s=3601.0), Refusal, "10 to 3600 seconds, not 3601"),
        (replace(GOOD, life_s=float("inf")), Refusal, "10 to 3600 seconds, not inf"),
        (replace(GOOD, life_s=float("nan")), Refusal, "10 to 3600 seconds, not nan"),
        (
            replace(GOOD, requester=replace(NODE, until=NOW + 9)),
            Forbidden,
            "what node vm1 proved itself with is about to expire",
        ),
        (replace(GOOD, now=KEY.not_after - 9), Unreachable, "key for JWT-SVIDs is about to expire"),
    ],
)
def test_what_is_not_signed(asked: AskedJwt, refusal: type[Exception], reason: str) -> None:
    with pytest.raises(refusal, match=reason):
        RULES.decide(asked)


def test_a_token_outlives_neither_its_requester_nor_its_key() -> None:
    soon = replace(NODE, until=NOW + 60)
    assert RULES.decide(replace(GOOD, requester=soon)) == Life(NOW, NOW + 60)
    late = KEY.not_after - 60
    assert RULES.decide(replace(GOOD, now=late)) == Life(late, late + 60)


# --- signed, and in the audit log


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, NOW)) as made:
        yield made


def test_a_token_is_good_by_the_keys_in_the_bundle_and_in_the_audit_log(authority: Authority, tmp_path: Path) -> None:
    issued = authority.jwts.issue(WEB, ("reports", "ledger"), 0.0, NOW + 0.7, NODE)
    keys = {each.kid: Point(each.x, each.y).key() for each in authority.bundle().jwt_keys}
    identity, claims = jwt.verify(issued.token, keys, "ledger", TRUST_DOMAIN, NOW)
    assert identity == WEB
    assert (issued.issued_at, issued.expires_at) == (claims["iat"], claims["exp"]) == (NOW, NOW + 300)
    line = (tmp_path / "ca" / "audit.log").read_text().splitlines()[-1]
    for said in (
        '"sequence":2,"action":"jwt","decision":"issued","actor":"node vm1"',
        f'"identity":"{WEB}","node":"vm1","serial":"{claims["jti"]}","until":"2027-01-15T08:05:00Z"',
        '"subject":"for reports ledger"',
    ):
        assert said in line
    assert issued.token.split(".")[2] not in line


def test_the_bundle_has_no_key_that_has_expired(authority: Authority) -> None:
    assert len(authority.jwts.public(NOW)) == 1
    assert authority.jwts.public(NOW + 32 * DAY_S) == ()


def test_no_two_tokens_are_alike(authority: Authority) -> None:
    tokens = [authority.jwts.issue(WEB, ("reports",), 0.0, NOW, NODE).token for _ in range(2)]
    assert len({token.split(".")[1] for token in tokens}) == 2


def test_what_is_denied_gets_no_token_from_then_on(authority: Authority) -> None:
    authority.jwts.issue(WEB, ("reports",), 0.0, NOW, NODE)
    authority.store.deny([Denied("node", "vm1", "stolen", NOW)])
    with pytest.raises(Forbidden, match="the node vm1 is denied: stolen"):
        authority.jwts.issue(WEB, ("reports",), 0.0, NOW, NODE)


def test_a_token_that_cannot_be_told_of_does_not_leave(authority: Authority, tmp_path: Path) -> None:
    log = tmp_path / "ca" / "audit.log"
    log.rename(tmp_path / "aside")
    log.mkdir()
    with pytest.raises(Unreachable, match=r"the audit log .* cannot be written"):
        authority.jwts.issue(WEB, ("reports",), 0.0, NOW, NODE)
