"""Pods by their service accounts: a real conversation with a double of the API server, good and every way it is not."""

import base64
import json
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshd.api.names import Address, Identity
from meshd.api.problems import Problem
from meshd.ca.attest import Evidence
from meshd.ca.authority import Authority
from meshd.ca.client import CaClient
from meshd.ca.kubernetes import AUDIENCE, ByServiceAccount
from meshd.ca.requester import Requester
from meshd.ca.server import CaServer
from meshd.ca.settings import CaDaemonSettings
from meshd.ca.source import Forbidden, NotAuthenticated, Unreachable
from tests.support import aio
from tests.support.authorities import TOKEN, TRUST_DOMAIN, WEB, recorded
from tests.support.csr import csr
from tests.support.kubernetes import API_AUDIENCE, POWERLESS, Cluster, jwt

ACCOUNT = "system:serviceaccount:default:web"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with closing(Authority.create(tmp_path / "ca", TRUST_DOMAIN, time.time(), TOKEN)) as made:
        yield made


def attest(cluster: Cluster, token: str, own: str = "") -> Requester | None:
    async def main() -> Requester | None:
        async with cluster.serves():
            settings = cluster.settings(own) if own else cluster.settings()
            return await ByServiceAccount(settings).attest(Evidence(token, b"", "192.0.2.7"))

    return aio.run(main())


def test_a_pod_has_its_service_accounts_identity_and_no_other(cluster: Cluster, authority: Authority) -> None:
    async def main() -> None:
        async with cluster.serves():
            token = cluster.add(ACCOUNT, AUDIENCE, API_AUDIENCE)
            server = CaServer(
                authority, Address("127.0.0.1", 0), settings=CaDaemonSettings(kubernetes=cluster.settings())
            )
            await server.start()
            try:
                pod = CaClient(f"https://{server.address}", authority.bundle_pem, token)
                await pod.sign(csr(), WEB)
                await pod.jwt(WEB, ("reports",))
                with pytest.raises(Forbidden, match="is not the service account default/web's, which is default/web"):
                    await pod.sign(csr(), Identity.parse(f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api"))
                with pytest.raises(Forbidden, match="is no join token"):
                    await pod.join(csr(), "vm1")
                agent = CaClient(f"https://{server.address}", authority.bundle_pem, TOKEN)
                await agent.sign(csr(), WEB)  # the other ways go on beside it
                stranger = CaClient(f"https://{server.address}", authority.bundle_pem, jwt("stranger"))
                with pytest.raises(NotAuthenticated, match="the cluster does not know"):
                    await stranger.sign(csr(), WEB)
            finally:
                await server.stop()

    aio.run(main())
    assert [each.requester.partition(" at ")[0] for each in recorded(cluster.directory / "ca")] == [
        "service account default/web",
        "shared token",
    ]
    audit = (cluster.directory / "ca" / "audit.log").read_text()
    assert [json.loads(line)["decision"] for line in audit.splitlines()][2:] == [
        "issued", "issued", "refused", "refused", "issued", "refused"
    ]  # fmt: skip
    assert not any(token in audit for token in cluster.accounts)


@pytest.mark.parametrize(
    ("claims", "until"), [(b'{"exp":1800000000}', 1.8e9), (b'{"exp":"x"}', math.inf), (b"{", math.inf)]
)
def test_a_pod_gets_no_token_that_outlives_its_own(cluster: Cluster, claims: bytes, until: float) -> None:
    token = f"eyJhIjoxfQ.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"
    cluster.accounts[token] = (ACCOUNT, [AUDIENCE])
    requester = attest(cluster, token)
    assert requester is not None
    assert requester.until == until


def test_what_is_no_such_token_is_for_others_and_the_cluster_is_not_asked(cluster: Cluster) -> None:
    for credential in ("", TOKEN, "eyJ", "eyJhbGciOiJub25lIn0.e30.", "a.b.c", "meshd-join-v1.a.b.c", "eyJ.é.x"):
        assert attest(cluster, credential) is None
    assert cluster.asked == 0


@pytest.mark.parametrize(
    ("username", "audiences", "refusal", "reason"),
    [
        (ACCOUNT, [API_AUDIENCE], NotAuthenticated, "the cluster does not know"),
        (ACCOUNT, ["vault"], NotAuthenticated, "the cluster does not know"),
        ("system:serviceaccount:default:web.v2", [AUDIENCE], Forbidden, "'web.v2' is not a DNS label"),
        ("system:serviceaccount:default", [AUDIENCE], Forbidden, "not of a service account"),
        ("system:serviceaccount:default:web:x", [AUDIENCE], Forbidden, "not of a service account"),
        ("system:node:vm1", [AUDIENCE], Forbidden, "not of a service account"),
        ("admin", [AUDIENCE], Forbidden, "not of a service account"),
        ("", [AUDIENCE], Forbidden, "not of a service account"),
    ],
)
def test_who_is_no_workload_of_the_mesh_is_refused(
    cluster: Cluster, username: str, audiences: list[str], refusal: type[Exception], reason: str
) -> None:
    with pytest.raises(refusal, match=reason):
        attest(cluster, cluster.add(username, *audiences))


def test_a_server_that_says_nothing_of_audiences_is_not_enough(cluster: Cluster) -> None:
    cluster.knows_audiences = False
    with pytest.raises(NotAuthenticated, match=f"not for the audience {AUDIENCE}"):
        attest(cluster, cluster.add(ACCOUNT, API_AUDIENCE))


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ("nobody's", r"it does not know this CA: see kubernetes\.tokenFile \(status 401\)"),
        (POWERLESS, r"bind its service account to the role system:auth-delegator \(status 403\)"),
    ],
)
def test_a_ca_that_may_not_ask_says_what_to_do(cluster: Cluster, own: str, reason: str) -> None:
    with pytest.raises(Unreachable, match=reason):
        attest(cluster, cluster.add(ACCOUNT, AUDIENCE), own)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "not reviewed"),
        ({"kind": "TokenReview"}, "not reviewed"),
        ({"kind": "TokenReview", "status": {"authenticated": "yes"}}, "not reviewed"),
        ({"kind": "Status", "status": {"authenticated": True}}, "is no TokenReview"),
    ],
)
def test_an_answer_that_is_no_review_is_no_proof(cluster: Cluster, answer: Any, reason: str) -> None:
    cluster.answer = answer
    with pytest.raises(Unreachable, match=reason):
        attest(cluster, cluster.add(ACCOUNT, AUDIENCE))


def test_a_cluster_that_is_away_or_is_another_is_no_proof_either(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.add(ACCOUNT, AUDIENCE)

    async def main() -> None:
        async with cluster.serves():
            settings = cluster.settings()
            here = ByServiceAccount(settings)
        with pytest.raises(Unreachable, match="Connection refused"):
            await here.attest(Evidence(token, b"", ""))
        (tmp_path / "b").mkdir()
        async with Cluster(tmp_path / "b").serves() as other:
            other.settings()
            (tmp_path / "b" / "api-ca.pem").write_bytes((tmp_path / "api-ca.pem").read_bytes())
            with pytest.raises(Unreachable, match=r"its certificate is not good: .*: see kubernetes\.ca"):
                await ByServiceAccount(other.settings()).attest(Evidence(token, b"", ""))
            assert other.asked == 0
        (tmp_path / "own.token").unlink()
        with pytest.raises(Unreachable, match=r"kubernetes\.tokenFile: .*own\.token: cannot be read"):
            await here.attest(Evidence(token, b"", ""))

    aio.run(main())
    (tmp_path / "api-ca.pem").write_text("none")
    with pytest.raises(Problem, match=r"kubernetes\.ca: .*api-ca\.pem: no CA's certificate"):
        ByServiceAccount(cluster.settings())
