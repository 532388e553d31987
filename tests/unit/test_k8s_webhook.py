"""The webhook's authority through the years, and what reviews are answered, with no socket."""

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import Any, cast

import pytest
from cryptography import x509

from discovery.kubernetes.access import Access
from discovery.registry import Away
from k8s.injector.annotations import RELEVANT, names, relevant
from k8s.webhook import certificates, keeping, namespaces
from k8s.webhook.certificates import AUTHORITY_LIFE_S, SPREAD_S, Authority, Unreadable
from k8s.webhook.connections import IDLE_S, Connections
from k8s.webhook.namespaces import MAX_READS, Namespaces
from k8s.webhook.reviews import MAX_WARNING, NoReview, mutated, request_in, validated
from meshd.ca.certificates import KeyPair
from tests.support import aio
from tests.support.injections import SETTINGS

NOW = 1.8e9
DAY_S = 86400.0
NAMES = ("meshd-injector.meshd.svc", "meshd-injector.meshd.svc.cluster.local")


# --- certificates


class Replica:
    """What one controller shows."""

    def __init__(self, authority: Authority) -> None:
        self.shown = certificates.serving(authority, NAMES, NOW)

    def look(self, authority: Authority, now: float) -> None:
        if certificates.is_due(self.shown, authority, now):
            self.shown = certificates.serving(authority, NAMES, now)


@cache
def roots(bundle: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle)


def is_believed(shown: KeyPair, bundle: bytes, now: float) -> bool:
    """As an API server would."""
    leaf = shown.certificate
    for root in roots(bundle):
        if root.subject == leaf.issuer and all(
            each.not_valid_before_utc.timestamp() <= now < each.not_valid_after_utc.timestamp() for each in (root, leaf)
        ):
            leaf.verify_directly_issued_by(root)
            return True
    return False


def test_no_call_meets_a_certificate_that_it_does_not_believe() -> None:
    """Two controllers, for 500 days, of which one looks seldom; the API server knows what was announced last."""
    authority = certificates.begun(NAMES[0], NOW)
    seldom, often = Replica(authority), Replica(authority)
    announced, issuers = authority.bundle, {authority.issuer.certificate.serial_number}
    now = NOW
    for step in range(500 * 3):
        now += DAY_S / 3
        authority = certificates.kept(authority, NAMES[0], now)
        announced = authority.bundle
        often.look(authority, now)
        if step % 2:
            seldom.look(authority, now)
        for each in (seldom, often):
            assert is_believed(each.shown, announced, now), step
        authority = certificates.promoted(authority, now)
        issuers.add(authority.issuer.certificate.serial_number)
        assert len(roots(announced)) <= 3
    assert len(issuers) == 3


def test_the_next_authority_waits_until_everybody_has_heard_of_it() -> None:
    first = certificates.begun(NAMES[0], NOW)
    assert certificates.kept(first, NAMES[0], NOW + AUTHORITY_LIFE_S / 2) is first
    late = NOW + AUTHORITY_LIFE_S * 0.7
    second = certificates.kept(first, NAMES[0], late)
    assert second.issuer is first.issuer
    assert second.following is not None
    assert first.bundle in second.bundle
    assert certificates.kept(second, NAMES[0], late + 1) is second
    assert certificates.promoted(second, late + SPREAD_S - 2) is second
    third = certificates.promoted(second, late + SPREAD_S + 2)
    assert (third.issuer, third.following) == (second.following, None)
    assert third.bundle == second.bundle  # nobody needs to be told
    gone = certificates.kept(third, NAMES[0], NOW + AUTHORITY_LIFE_S + 1)
    assert gone.previous is None


def test_an_authority_that_nobody_looked_after_is_made_anew() -> None:
    first = certificates.begun(NAMES[0], NOW)
    assert certificates.kept(first, NAMES[0], NOW + AUTHORITY_LIFE_S + 1).issuer is not first.issuer


def test_what_is_kept_is_read() -> None:
    first = certificates.begun(NAMES[0], NOW)
    whole = certificates.promoted(
        certificates.kept(first, NAMES[0], NOW + AUTHORITY_LIFE_S * 0.7), NOW + AUTHORITY_LIFE_S * 0.8
    )
    for each in (first, whole, certificates.kept(whole, NAMES[0], NOW + AUTHORITY_LIFE_S * 1.5)):
        data = certificates.data_of(each)
        read = certificates.authority_in(data)
        assert read is not None
        assert certificates.data_of(read) == data
        assert read.bundle == each.bundle
    assert certificates.authority_in({}) is None


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"issuer.crt": "?"}, {"issuer.crt": encoded("x")}, {"issuer.key": encoded("x")}, {"previous.crt": encoded("x")},
        {"issuer.key": None}, {"issuer.key": "another's"},
    ],
)  # fmt: skip
def test_a_secret_that_holds_something_else(change: dict[str, Any]) -> None:
    good = certificates.data_of(certificates.begun(NAMES[0], NOW))
    if change == {"issuer.key": "another's"}:
        change = {"issuer.key": certificates.data_of(certificates.begun(NAMES[0], NOW))["issuer.key"]}
    data = {name: value for name, value in (good | change).items() if value is not None}
    with pytest.raises(Unreadable):
        certificates.authority_in(data)


def test_what_is_shown_is_for_the_service_alone() -> None:
    shown = certificates.serving(certificates.begun(NAMES[0], NOW), NAMES, NOW).certificate
    found = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(found.get_values_for_type(x509.DNSName)) == NAMES
    assert len(found) == len(NAMES)
    assert not shown.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# --- reviews


def review(value: Any, kind: str = "Pod", operation: str = "CREATE", old: Any = None) -> bytes:
    group = "" if kind == "Pod" else "meshd.io"
    request = {
        "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "namespace": "shop",
        "operation": operation, "object": value, "oldObject": old,
    }  # fmt: skip
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def answered(content: bytes) -> Any:
    said = json.loads(content)
    assert said["response"].pop("uid") == "u"
    return said["response"]


def pod(**spec: Any) -> Any:
    return {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}], **spec}}


def test_warnings_are_what_an_api_server_passes_on() -> None:
    names_of = [{"name": f"a{number}\n" + "x" * 300, "ports": [{"containerPort": 4143}]} for number in range(20)]
    answer = mutated(
        request_in(review(pod(containers=names_of))), {"meshd.io/inject": "enabled"}, SETTINGS, native=True
    )
    said = answered(answer.body)
    assert (answer.result, said["allowed"], "patch" in said) == ("refused", True, False)
    assert len(said["warnings"]) == 8
    assert all(len(each) <= MAX_WARNING and each.isprintable() for each in said["warnings"])


def test_a_pod_that_has_one_by_hand_is_left_in_peace() -> None:
    body = pod(initContainers=[{"name": "meshd-proxy"}])
    answer = mutated(request_in(review(body)), {"meshd.io/inject": "enabled"}, SETTINGS, native=True)
    assert (answer.result, answered(answer.body)) == ("skipped", {"allowed": True})


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff\xff", b'{"apiVersion": "v1", "kind": "Pod", "request": {}}']
)
def test_what_is_no_review(body: bytes) -> None:
    with pytest.raises(NoReview):
        request_in(body)


BAD = {"metadata": {"name": "web"}, "spec": {"port": 80, "endpoints": [{"address": "a b", "port": 80}]}}


@pytest.mark.parametrize(
    ("value", "operation", "old", "allowed"),
    [
        (BAD, "CREATE", None, False),
        (BAD, "UPDATE", {"metadata": {"name": "web"}, "spec": {"port": 81}}, False),
        (BAD, "UPDATE", BAD, True),
        (BAD | {"metadata": {"name": "web", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, "UPDATE", {}, True),
        (BAD, "DELETE", None, True),
        ({"metadata": {"name": "Web"}, "spec": {"port": 80}}, "CREATE", None, False),
        ({"metadata": {"name": "web"}, "spec": {"port": "80"}}, "CREATE", None, False),
        ({"metadata": {"name": "web", "uid": "x", "managedFields": []}, "spec": {"port": 80}}, "CREATE", None, True),
        ({"metadata": {"generateName": "web-"}, "spec": {"port": 80}}, "CREATE", None, True),
    ],
)
def test_documents(value: Any, operation: str, old: Any, allowed: bool) -> None:
    answer = validated(request_in(review(value, "Service", operation, old)))
    said = answered(answer.body)
    assert said["allowed"] is allowed
    if not allowed:
        assert said["status"]["code"] == 422
        assert said["status"]["message"]


def test_what_is_kept_of_a_namespace() -> None:
    marks = {"meshd.io/inject": "enabled", "config.linkerd.io/proxy-uid": "1", "a": "b" * 1000}
    assert relevant(marks) == {name: value for name, value in marks.items() if name != "a"}
    assert {each for word in ("proxy-uid", "image", "native-sidecar") for each in names(word)} <= RELEVANT


# --- connections


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_connections_are_so_many_and_none_is_idle_for_ever() -> None:
    async def scene() -> None:
        connections = Connections(asyncio.Protocol, max_connections=2)
        made = [(connections(), Transport()) for _ in range(3)]
        for protocol, transport in made:
            protocol.connection_made(cast("asyncio.BaseTransport", transport))
        (_, used), (silent_protocol, silent), (_, beyond) = made
        assert (connections.count, [each.aborted for each in (used, silent, beyond)]) == (2, [False, False, True])
        for _ in range(6):
            await asyncio.sleep(IDLE_S * 0.9)
            with connections.busy(used):
                await asyncio.sleep(IDLE_S * 3)  # a review that takes its time is not cut
        assert (used.aborted, silent.aborted) == (False, True)
        silent_protocol.connection_lost(None)
        assert connections.count == 1
        assert connections.is_old(used)
        await asyncio.sleep(IDLE_S * 2)
        assert used.aborted

    aio.run_in_made_up_time(scene())


# --- namespaces


class Slow(Access):
    """An API server that answers when the test lets it; no namespace is there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.answers = asyncio.Event()

    async def get(self, path: str, query: Mapping[str, str], *, absent_is_none: bool = False) -> bytes | None:
        self.asked.append(path)
        await self.answers.wait()
        return None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "A", "a?watch=1", "x" * 64])
def test_nobody_chooses_what_the_api_server_is_asked(name: str) -> None:
    server = Slow()
    server.answers.set()
    assert asyncio.run(Namespaces(server).annotations(name)) == {}
    assert not server.asked


def test_names_of_no_namespace_leave_the_api_server_to_others() -> None:
    async def scene() -> None:
        server = Slow()
        namespaces = Namespaces(server)
        reads = asyncio.gather(*(namespaces.annotations(f"n{number}") for number in range(3 * MAX_READS)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(server.asked) == MAX_READS
        server.answers.set()
        assert await reads == [{}] * 3 * MAX_READS
        assert len(server.asked) == 3 * MAX_READS

    asyncio.run(scene())


class Broken(Access):
    """An API server that is away."""

    def __init__(self) -> None:
        self.asked = 0
        self.often = asyncio.Event()

    async def get(self, *_: Any, **__: Any) -> bytes | None:
        self.asked += 1
        if self.asked == 20:
            self.often.set()
        raise Away("it cannot be reached")


def test_an_api_server_that_is_away_for_long_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(namespaces, "AGAIN_S", (0.001, 0.001))
    monkeypatch.setattr(keeping, "AGAIN_S", 0.001)
    monkeypatch.setattr(keeping, "POLL_S", 0.001)

    async def told(work: Callable[[Access], Coroutine[Any, Any, None]]) -> list[str]:
        caplog.clear()
        access = Broken()
        running = asyncio.get_running_loop().create_task(work(access))
        await access.often.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [each.getMessage() for each in caplog.records]

    async def main() -> None:
        (said,) = await told(lambda access: Namespaces(access).run())
        assert said == "namespaces cannot be read, and are as they were last: it cannot be reached"
        (said,) = await told(lambda access: keeping.Keeper(access, SETTINGS, lambda _: None, lambda: NOW).run())
        assert said == "the webhook's certificate: it cannot be reached"

    aio.run(main())
