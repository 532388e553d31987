"""A controller's parts with no socket: whose tokens are believed, what pods say, and what is kept of traffic."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from discovery.kubernetes.access import Access
from discovery.registry import Away
from k8s.controller import sidecars as keeping
from k8s.controller.authority import SIGNED_AT_ONCE, AccountSource, Issuing, OwnCertificate
from k8s.controller.pods import ABSENT_AT_ONCE, FRESH_S, Pods
from k8s.controller.reviews import BELIEVED_S, FAILURES_AT_ONCE, Reviews
from k8s.controller.session import MAX_SIDECARS_OF_A_POD, Attached
from k8s.controller.sidecars import MAX_ROWS_EACH, Sidecar, Sidecars
from meshd.agent.certificates import NotSigned, Signer
from meshd.agent.registry import Unacceptable
from meshd.api.control import LATENCY_BOUNDS_MS, Certificate, CertificateState, ReportState, ReportStats, Traffic
from meshd.api.names import Identity, WorkloadName
from meshd.ca.failover import Failover
from meshd.ca.kubernetes import AUDIENCE
from meshd.ca.wire import Renewal
from tests.support.bundles import root
from tests.support.sleeping import Clock, until

WEB, API = WorkloadName("shop", "web"), WorkloadName("shop", "api")
TOKEN = "eyJhIjoxfQ.eyJleHAiOjQwMDAwMDAwMDB9.c2ln"


class Server(Access):
    """An API server in the hands of the test: objects by their paths, and the answer to a review."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Any] = {}
        self.review: dict[str, Any] = {"authenticated": True, "audiences": [AUDIENCE]}
        self.is_away = False
        self.asked: list[str] = []

    async def get(self, path: str, query: Mapping[str, str], *, absent_is_none: bool = False) -> bytes | None:
        self._ask(path)
        found = self.objects.get(path)
        return None if found is None else json.dumps(found).encode()

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        self._ask(path)
        user = {"username": "system:serviceaccount:shop:web"}
        return json.dumps({"kind": "TokenReview", "status": {"user": user} | self.review}).encode()

    def _ask(self, path: str) -> None:
        self.asked.append(path)
        if self.is_away:
            raise Away("no answer in time")


def refusal(work: Any) -> Unacceptable:
    with pytest.raises(Unacceptable) as raised:
        asyncio.run(work)
    return raised.value


# --- tokens


def test_a_good_token_is_believed_for_a_moment() -> None:
    server, clock = Server(), Clock(1000.0)
    reviews = Reviews(server, clock, clock)
    for _ in range(3):
        assert asyncio.run(reviews.account(TOKEN, "192.0.2.1")).workload == WEB
    assert len(server.asked) == 1
    clock.now += BELIEVED_S + 1.0
    asyncio.run(reviews.account(TOKEN, "192.0.2.1"))
    assert len(server.asked) == 2
    assert reviews.results == {"good": 2, "refused": 0, "away": 0}


def test_who_guesses_is_answered_without_the_api_server() -> None:
    server, clock = Server(), Clock(1000.0)
    reviews = Reviews(server, clock, clock)
    server.review = {"authenticated": False}
    for number in range(FAILURES_AT_ONCE):
        assert "does not know" in str(refusal(reviews.account(f"{TOKEN}{number}", "192.0.2.1")))
    late = refusal(reviews.account(f"{TOKEN}x", "192.0.2.1"))
    assert "too many tokens of 192.0.2.1 were not good" in str(late)
    assert late.retry
    assert len(server.asked) == FAILURES_AT_ONCE
    assert "does not know" in str(refusal(reviews.account(f"{TOKEN}x", "192.0.2.2")))  # others are not in its way


def test_a_server_that_is_away_fails_nobody() -> None:
    server = Server()
    reviews = Reviews(server)
    server.is_away = True
    for _ in range(FAILURES_AT_ONCE + 1):
        answer = refusal(reviews.account(TOKEN, "192.0.2.1"))
        assert "does not review the token now: no answer in time" in str(answer)
        assert answer.retry
    assert reviews.results["away"] == FAILURES_AT_ONCE + 1


# --- pods


def laid(annotations: dict[str, str], of_namespace: dict[str, str]) -> Server:
    server = Server()
    spec = {"serviceAccountName": "web", "nodeName": "node-1", "containers": []}
    pod = {"metadata": {"name": "web-1", "namespace": "shop", "annotations": annotations}, "spec": spec}
    server.objects = {
        "/api/v1/namespaces/shop/pods/web-1": pod,
        "/api/v1/namespaces/shop": {"metadata": {"name": "shop", "annotations": of_namespace}},
        "/api/v1/nodes/node-1": {"metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "east"}}},
    }
    return server


@pytest.mark.parametrize(
    ("annotations", "of_namespace", "opaque", "inbound"),
    [
        ({}, {}, None, 0),
        ({"config.meshd.io/opaque-ports": "1,3-4"}, {"config.meshd.io/opaque-ports": "9"}, (1, 3, 4), 0),
        ({}, {"config.linkerd.io/opaque-ports": "9"}, (9,), 0),
        ({"config.meshd.io/opaque-ports": ""}, {"config.meshd.io/opaque-ports": "9"}, (), 0),
        ({"config.meshd.io/opaque-ports": "7-9,2-3,8-12,3,10"}, {}, (2, 3, 7, 8, 9, 10, 11, 12), 0),
        ({"config.meshd.io/opaque-ports": "65534-70000,0-1,70000-70001"}, {}, (1, 65534, 65535), 0),
        ({"config.meshd.io/inbound-port": "14143"}, {}, None, 14143),
    ],
)
def test_what_a_pod_says(
    annotations: dict[str, str], of_namespace: dict[str, str], opaque: tuple[int, ...] | None, inbound: int
) -> None:
    found = asyncio.run(Pods(laid(annotations, of_namespace)).facts("shop/web-1", WEB))
    assert (found.opaque_ports, found.inbound_port, found.zone) == (opaque, inbound, "east")


def test_what_was_read_of_a_pod_serves_while_the_server_is_away() -> None:
    server, clock = laid({}, {}), Clock(1000.0)
    pods = Pods(server, clock)
    asyncio.run(pods.facts("shop/web-1", WEB))
    asked = len(server.asked)
    asyncio.run(pods.facts("shop/web-1", WEB))
    assert len(server.asked) == asked
    clock.now += FRESH_S + 1.0
    server.is_away = True
    assert asyncio.run(pods.facts("shop/web-1", WEB)).workload == WEB
    answer = refusal(pods.facts("shop/web-2", WEB))
    assert "the pod shop/web-2 cannot be read now" in str(answer)
    assert answer.retry


def test_a_pod_that_came_in_anothers_place_is_read_again() -> None:
    server = laid({}, {})
    pods = Pods(server)
    asyncio.run(pods.facts("shop/web-1", WEB))
    server.objects["/api/v1/namespaces/shop/pods/web-1"]["spec"]["serviceAccountName"] = "api"
    assert asyncio.run(pods.facts("shop/web-1", API)).workload == API
    assert "is of the service account shop/api, and not of shop/web" in str(refusal(pods.facts("shop/web-1", WEB)))


def test_nobody_is_told_of_pods_in_other_namespaces() -> None:
    server = laid({}, {})
    pods = Pods(server)
    asyncio.run(pods.facts("shop/web-1", WEB))
    asked = len(server.asked)
    said = {
        str(refusal(pods.facts(f"shop/{name}", WorkloadName("other", "web")))).replace(name, "POD")
        for name in ("web-1", "web-2")
    }
    assert said == {"the pod shop/POD is of another namespace than other/web"}  # the same of one that is and one not
    assert len(server.asked) == asked


def test_a_workload_that_names_pods_without_end_is_answered_without_the_api_server() -> None:
    server = Server()
    pods = Pods(server, Clock(1000.0))
    for number in range(ABSENT_AT_ONCE):
        assert "there is no pod" in str(refusal(pods.facts(f"shop/x-{number}", WEB)))
    asked = len(server.asked)
    assert "too many pods that are not its own" in str(refusal(pods.facts("shop/x", WEB)))
    assert len(server.asked) == asked
    assert "there is no pod" in str(refusal(pods.facts("shop/x", API)))


def test_one_pod_does_not_use_up_what_there_is_of_the_ca() -> None:
    class Ca(AccountSource):
        async def sign_for(self, token: str, csr_pem: str, identity: Identity) -> Certificate:
            return Certificate("", 0.0, 0.0)

    issuing = Issuing(Ca(Failover([]), Path()), Clock(1000.0))
    web = Identity.of("prod.example", WEB)

    async def ask(token: str, count: int) -> None:
        for _ in range(count):
            await issuing.sign(token, "csr", web)

    asyncio.run(ask("a", SIGNED_AT_ONCE))
    with pytest.raises(NotSigned, match="too many certificates for this pod: again in 10 s") as raised:
        asyncio.run(ask("a", 1))
    assert raised.value.retry
    asyncio.run(ask("b", 1))
    assert issuing.results == {"signed": SIGNED_AT_ONCE + 1, "refused": 1, "away": 0}


@pytest.mark.parametrize(
    "pod", ["", "web-1", "shop/", "/web-1", "shop/../x", "shop/web 1", "Shop/web", "shop/" + "x" * 300]
)
def test_what_is_no_pods_name_is_not_asked_for(pod: str) -> None:
    server = Server()
    assert "not the name of a pod" in str(refusal(Pods(server).facts(pod, WEB)))
    assert server.asked == []


# --- who is connected


def row(workload: str, service: str, requests: int = 1) -> Traffic:
    buckets = (requests, *(0,) * len(LATENCY_BOUNDS_MS))
    return Traffic("outbound", workload, "", service, "http", True, requests, requests, 0, buckets, 0.1, 1, 10, 10)


def test_traffic_is_bounded_for_a_workload_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_ROWS", MAX_ROWS_EACH)
    kept = Sidecars("prod.example", Clock(1000.0))
    web, api = Sidecar("shop/web-1", WEB), Sidecar("shop/api-1", API)
    kept.attach(web)
    kept.attach(api)
    kept.take(web, ReportStats("x", tuple(row("shop/web", f"s-{number}") for number in range(MAX_ROWS_EACH + 50))))
    kept.take(api, ReportStats("y", (row("shop/api", "s-1"),)))
    _, edges = kept.statuses(60.0)
    assert len(edges) == MAX_ROWS_EACH
    assert kept.left_out == 1
    kept.leave(web)  # and with it what was kept of it
    kept.take(api, ReportStats("y", (row("shop/api", "s-1"), row("shop/web", "s-2"), row("shop/api", "\x1b[2J"))))
    (edge,) = kept.statuses(60.0)[1]
    assert (edge.source, edge.service) == ("shop/api", "s-1")


def test_a_workload_is_told_with_what_its_pods_wait_for() -> None:
    kept = Sidecars("prod.example")
    for number in range(5):
        sidecar = Sidecar(f"shop/web-{number}", WEB)
        kept.attach(sidecar)
        if number:
            state = CertificateState("shop/web", 2000.0 + number, "", 100.0 + number)
            sidecar.report = ReportState(1, ("listen\x1ber",), (state, CertificateState("shop/api", 1.0, "", 1.0)))
    ((status,), _) = kept.statuses(60.0)
    assert status.waiting_for == ("web-0: first report", "web-1: listen?er", "web-2: listen?er", "2 more pods")
    assert status.certificate_not_after == 2001.0


def test_connections_of_one_pod_are_bounded() -> None:
    attached = Attached()
    for _ in range(MAX_SIDECARS_OF_A_POD):
        attached.add("shop/web-1")
    with pytest.raises(Unacceptable, match="130 connections are attached for the pod shop/web-1"):
        attached.add("shop/web-1")
    attached.remove("shop/web-1")
    attached.add("shop/web-1")


def test_a_controllers_next_certificate_is_shown_once_it_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA's clock is ahead by two hours: the last one is good for longer than that."""
    clock, signed, shown = Clock(1000.0), 0, list[tuple[float, float]]()
    first, second = clock.now - 64000.0, clock.now + 7140.0  # the first is due, whatever the jitter is

    class Ahead(Signer):
        async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
            nonlocal signed
            signed += 1
            begin = first if signed == 1 else second
            return Certificate("the chain", begin, begin + 86400.0)

    source = AccountSource(Failover([]), Path("token"))
    identity = Identity.of("mesh.example", WorkloadName("meshd", "meshd-controller"))

    def told() -> None:
        shown.append((clock.now, own.not_before))

    own = OwnCertificate(Ahead(source, root(), "CA"), source, identity, told, clock)

    asyncio.run(until(lambda: len(shown) == 2, own.run(), clock, monkeypatch))
    assert [begin for _, begin in shown] == [first, second]
    assert shown[1][0] >= second


@pytest.mark.parametrize("why", ["ended", "due", "older"])
def test_a_controllers_certificate_that_is_due_at_once_is_not_renewed_for_ever(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is ahead by more than two thirds of a certificate's life, or by all of it; or the CA that signs has one
    that is behind that of the CA which asks for others."""
    clock, signed = Clock(1000.0), list[float]()
    start, ahead_s = clock.now, {"ended": 90000.0, "due": 70000.0, "older": 0.0}[why]

    class Behind(Signer):
        async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
            signed.append(clock.now)
            begin = clock.now - ahead_s - 60.0
            return Certificate("the chain", begin, begin + 86400.0)

    source = AccountSource(Failover([]), Path("token"))
    identity = Identity.of("mesh.example", WorkloadName("meshd", "meshd-controller"))
    signer = Behind(source, root(), "CA")
    own = OwnCertificate(signer, source, identity, lambda: None, clock)
    if why == "older":
        signer.trust = replace(signer.trust, renewal=Renewal(start + 3600.0, 0.0))
        own.heed()

    asyncio.run(until(lambda: clock.now >= start + 600.0, own.run(), clock, monkeypatch))
    assert signed[1] - signed[0] <= 1.0
    assert len(signed) <= 60
