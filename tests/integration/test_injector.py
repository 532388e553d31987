"""The webhooks of a real injector, asked by the double of the API server, and directly; over TLS."""

import asyncio
import base64
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from k8s.settings import INJECTOR, Installation
from k8s.settings_text import dumped
from k8s.webhook import certificates
from k8s.webhook.certificates import BACKDATE_S, SPREAD_S
from meshd.admin.page import Page
from tests.support import aio
from tests.support.controllers import DOMAIN, control_plane
from tests.support.injections import SETTINGS
from tests.support.injectors import Installed, installed, installed_in
from tests.support.kubernetes.models import misfit, unknown
from tests.support.kubernetes.patches import JSON, patched
from tests.support.meshed import MESHD
from tests.support.ports import free_ports
from tests.support.waiting import eventually

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "recordings" / "kubernetes" / "webhook.json").read_text()
)
SEEN = [each["body"] for each in RECORDED["requests_seen_by_the_webhook"]]

DAY_S = 86400.0


def sidecars(pod: Any) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", ()) if each["name"].startswith("meshd-")]


INJECTED = ["meshd-init", "meshd-proxy"]


def test_pods_get_their_sidecars_and_nobody_else_notices(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh, mesh.injector() as injector:
            status, warned, pod = await mesh.pod()
            assert (status, warned, sidecars(pod)) == (201, "", INJECTED)
            assert (misfit("V1Pod", pod), unknown("V1Pod", pod)) == ("", [])
            assert pod["metadata"]["labels"]["meshd.io/workload-ns"] == "shop"
            assert pod["spec"]["initContainers"][1]["restartPolicy"] == "Always"  # the cluster is of version 1.36
            status, warned, pod = await mesh.pod("plain")
            assert (status, warned, sidecars(pod)) == (201, "", [])
            status, warned, pod = await mesh.pod(hostNetwork=True)
            assert (status, sidecars(pod)) == (201, [])
            assert warned == '299 - "meshd: the pod is not injected: hostNetwork is enabled"'
            status, warned, pod = await mesh.pod(annotations={"config.meshd.io/proxy-uid": "root"})
            assert (status, sidecars(pod)) == (201, [])
            assert "config.meshd.io/proxy-uid: found 'root'; expected a user's number" in warned
            page = Page(injector).render().decode()
            for result, count in (("injected", 1), ("skipped", 1), ("refused", 2)):
                assert f'meshd_injector_reviews_total{{result="{result}",webhook="inject"}} {count}.0' in page
            assert 'meshd_injector_review_duration_seconds_count{webhook="inject"} 4.0' in page

    aio.run(scene())


def test_a_namespace_that_changes_its_mind(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh, mesh.injector() as injector:
            for marks, wanted in (({"linkerd.io/inject": "enabled"}, INJECTED), ({}, []), ({"a": "b"}, [])):
                mesh.annotate("plain", marks)
                seen = {key: value for key, value in marks.items() if key != "a"}
                known = partial(injector.namespaces.known, "plain")
                await eventually(lambda known=known, seen=seen: known() == seen, "it has heard of it")  # type: ignore[misc]
                assert sidecars((await mesh.pod("plain"))[2]) == wanted

    aio.run(scene())


def test_what_a_real_api_server_sent(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh, mesh.injector() as injector, mesh.caller(injector) as call:
            for review in SEEN:
                status, content = await call("/inject?timeout=2s", json.dumps(review).encode())
                said = json.loads(content)
                assert (status, said["kind"], said["apiVersion"]) == (200, "AdmissionReview", review["apiVersion"])
                response, request = said["response"], review["request"]
                assert (response["uid"], response["allowed"]) == (request["uid"], True)
                assert response["patchType"] == "JSONPatch"
                pod = patched(request["object"], json.loads(base64.b64decode(response["patch"])), JSON)
                assert sidecars(pod) == INJECTED
                assert misfit("V1Pod", pod) == ""

    aio.run(scene())


GOOD = {"metadata": {"name": "web"}, "spec": {"port": 80, "endpoints": [{"address": "192.0.2.1", "port": 80}]}}
BAD = {"metadata": {"name": "web"}, "spec": {"port": 80, "endpoints": [{"address": "no address", "port": 80}]}}
SERVICES = "/apis/meshd.io/v1/namespaces/shop/services"


def of_mesh(body: Any) -> Any:
    return {"apiVersion": "meshd.io/v1", "kind": "Service"} | body


def test_documents_that_the_schema_cannot_catch_are_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh:
            before = of_mesh(BAD | {"metadata": {"name": "old"}})
            await mesh.ask("POST", SERVICES, before)  # nobody is there to look, and failurePolicy is Ignore
            async with mesh.injector():
                status, _, said = await mesh.asked("POST", SERVICES, of_mesh(BAD))
                assert (status, said["reason"]) == (422, "Invalid")
                assert said["message"] == (
                    'admission webhook "validator.meshd.io" denied the request: spec.endpoints[0].address: '
                    "'no address' is neither an IP address nor a host name"
                )
                await mesh.ask("POST", SERVICES, of_mesh(GOOD))
                status, _, said = await mesh.asked("PATCH", f"{SERVICES}/web", BAD)
                assert (status, "spec.endpoints[0].address" in said["message"]) == (422, True)
                marked = await mesh.ask("PATCH", f"{SERVICES}/old", {"metadata": {"labels": {"a": "b"}}})
                assert marked["metadata"]["labels"] == {"a": "b"}
                status, _, _ = await mesh.asked("PATCH", f"{SERVICES}/old", {"spec": {"port": 81}})
                assert status == 422
                nameless = BAD | {"metadata": {"generateName": "web-"}}
                assert (await mesh.asked("POST", SERVICES, of_mesh(nameless)))[0] == 422

    aio.run(scene())


def test_what_is_no_review(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh, mesh.injector() as injector, mesh.caller(injector) as call:
            review = SEEN[0]
            cases = [
                ("/inject", b"", 400), ("/inject", b"[]", 400), ("/inject", b"\xff", 400),
                ("/inject", json.dumps(review | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(), 400),
                ("/inject", json.dumps(review | {"request": review["request"] | {"object": None}}).encode(), 400),
                ("/inject", json.dumps(review | {"request": review["request"] | {"object": "a"}}).encode(), 400),
                ("/inject", TOO_LARGE, 413), ("/else", b"{}", 404),
            ]  # fmt: skip
            for path, body, status in cases:
                assert (await call(path, body))[0] == status, body[:60]
            for change in ({"operation": "UPDATE"}, {"kind": {"group": "", "version": "v1", "kind": "Service"}}):
                other = review | {"request": review["request"] | change}
                status, content = await call("/inject", json.dumps(other).encode())
                assert (status, json.loads(content)["response"]["allowed"]) == (200, True)
                assert "patch" not in json.loads(content)["response"]
            shape = review | {"request": review["request"] | {"object": {"metadata": {}, "spec": {"containers": 1}}}}
            status, content = await call("/inject", json.dumps(shape).encode())
            assert "not a pod: spec.containers" in json.loads(content)["response"]["warnings"][0]

    aio.run(scene())


@pytest.mark.parametrize(("policy", "status"), [("Ignore", 201), ("Fail", 500)])
def test_while_no_injector_answers(policy: str, status: int, tmp_path: Path) -> None:
    async def scene() -> None:
        made = replace(SETTINGS, failure_policy=policy)
        async with installed(tmp_path, made) as mesh:
            found, _, pod = await mesh.pod()
            assert found == status
            assert status == 500 or sidecars(pod) == []
            assert (await mesh.pod("meshd"))[0] == 201  # or there would never be one
            async with mesh.injector():
                assert sidecars((await mesh.pod())[2]) == INJECTED

    aio.run(scene())


def test_without_the_api_server(tmp_path: Path) -> None:
    """What is known goes on; of what is not, an error says so, and failurePolicy decides."""

    async def scene() -> None:
        async with installed(tmp_path) as mesh, mesh.injector() as injector, mesh.caller(injector) as call:

            async def broken(_request: web.Request) -> web.Response:
                return web.Response(status=503, text="none")

            mesh.cluster.interfere = broken
            mesh.cluster.break_watches()
            await eventually(lambda: not injector.namespaces.current, "the watch is broken off")
            review = SEEN[0]
            status, content = await call("/inject", json.dumps(review).encode())
            assert status == 200
            assert "patch" in json.loads(content)["response"]
            new = review | {"request": review["request"] | {"namespace": "new"}}
            status, content = await call("/inject", json.dumps(new).encode())
            assert status == 503
            assert content.startswith(b"the namespace new is not known, and cannot be read:")
            assert injector.waiting_for() == ()
            mesh.cluster.interfere = None
            await eventually(lambda: injector.namespaces.current, "the watch goes on")
            status, content = await call("/inject", json.dumps(new).encode())
            assert (status, "patch" in json.loads(content)["response"]) == (200, False)  # it is not there

    aio.run(scene())


def test_what_it_waits_for(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh:
            answering = asyncio.Event()

            async def later(_request: web.Request) -> None:
                await answering.wait()

            mesh.cluster.interfere = later
            async with mesh.injector(ready=False) as injector:
                waits = " ".join(injector.waiting_for())
                for each in ("the webhooks' certificate", "the namespaces", "the cluster's version"):
                    assert each in waits
                answering.set()
                await eventually(lambda: injector.waiting_for() == (), "it is ready")
                assert injector.keeper.not_after > time.time()

    aio.run(scene())


def test_an_installation_whose_secret_is_not_there(tmp_path: Path) -> None:
    async def scene() -> None:
        async with installed(tmp_path) as mesh:
            await mesh.ask("DELETE", "/api/v1/namespaces/meshd/secrets/meshd-injector-tls")
            async with mesh.injector(ready=False) as injector:
                missing = "meshd-injector-tls is not there"
                await eventually(lambda: missing in injector.keeper.trouble, "it says what is missing")
                body = {"metadata": {"name": "meshd-injector-tls"}, "data": {"issuer.crt": "bm90aGluZw=="}}
                await mesh.ask("POST", "/api/v1/namespaces/meshd/secrets", body)  # and holds something else
                await eventually(lambda: injector.waiting_for() == (), "it is ready")

    aio.run(scene())


# --- its certificates


def test_replicas_share_one_authority(tmp_path: Path) -> None:
    async def scene() -> None:
        made = replace(SETTINGS, failure_policy="Fail")
        async with installed(tmp_path, made) as mesh, mesh.injector(), mesh.injector():
            assert len(mesh.bundles()) == 1
            for _ in range(4):
                assert sidecars((await mesh.pod())[2]) == INJECTED

    aio.run(scene())


class Clock:
    """The wall clock, and what is added to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


TOO_LARGE = b" " * (9 << 20)


async def ever_more(mesh: Installed, done: asyncio.Event) -> int:
    """Pods are made, one after another, until it is enough; every one of them has its sidecar."""
    count = 0
    while not done.is_set():
        status, _, pod = await mesh.pod()
        assert status == 201, pod
        assert sidecars(pod) == INJECTED
        mesh.cluster.webhooks.forget()  # each with a handshake of its own
        count += 1
    return count


def test_no_review_fails_while_the_authority_is_followed_by_another(tmp_path: Path) -> None:
    async def scene() -> None:
        made, clock = replace(SETTINGS, failure_policy="Fail"), Clock()
        async with installed(tmp_path, made) as mesh:
            old = certificates.begun(made.injector_name, time.time() - 300 * DAY_S)  # in its last third
            mesh.keep(certificates.data_of(old))
            async with mesh.injector(clock=clock) as one, mesh.injector(clock=clock) as other:
                done = asyncio.Event()
                making = asyncio.create_task(ever_more(mesh, done))  # noqa: TID251 - its result is wanted
                held = certificates.authority_in(mesh.secret())
                assert held is not None
                assert held.following is not None
                assert mesh.bundles() == {held.bundle.decode()}
                for each in (one, other):
                    await each.keeper.look()
                assert mesh.secret() == certificates.data_of(held)  # it is too early
                clock.ahead_s = SPREAD_S + 1
                assert clock.ahead_s < BACKDATE_S  # the certificate is good for the API server's clock, which is right
                await one.keeper.look()
                after = certificates.authority_in(mesh.secret())
                assert after is not None
                assert after.issuer.certificate == held.following.certificate
                assert after.previous == held.issuer.certificate
                assert mesh.bundles() == {after.bundle.decode()}
                await other.keeper.look()
                shown = [each.keeper.shown_by for each in (one, other)]
                assert shown == [after.issuer.certificate.subject] * 2
                done.set()
                assert await making > 0

    aio.run(scene())


def test_hundreds_of_pods_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        made = replace(SETTINGS, failure_policy="Fail")
        async with installed(tmp_path, made) as mesh, mesh.injector() as injector:
            found = await asyncio.gather(*(mesh.pod() for _ in range(200)))
            assert [sidecars(pod) for _, _, pod in found] == [INJECTED] * 200
            assert injector.server.results["inject", "injected"] == 200

    aio.run(scene())


# --- in a controller


async def page(session: aiohttp.ClientSession, port: int, path: str) -> tuple[int, str]:
    """(status, text); 0 while nobody answers."""
    try:
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()
    except aiohttp.ClientError:
        return 0, ""


def test_a_controller_hosts_it(tmp_path: Path) -> None:
    """The real program: it waits for the webhooks, and has their metrics."""

    async def scene() -> None:
        async with control_plane(tmp_path) as plane:
            installation = Installation(trust_domain=DOMAIN, trust_anchors=plane.bundle_pem, failure_policy="Fail")
            (tmp_path / "settings.yaml").write_text(dumped(installation))
            (tmp_path / "state").mkdir()
            webhooks, admin = free_ports(2)
            options = {
                "config": tmp_path / "settings.yaml", "listen": "127.0.0.1:0", "admin": f"127.0.0.1:{admin}",
                "webhooks": f"127.0.0.1:{webhooks}", "socket": tmp_path / "state" / "meshd.sock",
                "ca": f"https://{plane.ca.address}", "token-file": plane.own_token, "kubeconfig": plane.kubeconfig,
            }  # fmt: skip
            argv = [*MESHD, "controller", *(f"--{name}={value}" for name, value in options.items())]
            with (tmp_path / "controller.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
            try:
                async with aiohttp.ClientSession() as session, installed_in(plane.cluster, installation) as mesh:
                    plane.cluster.webhooks.services["meshd", INJECTOR] = [("127.0.0.1", webhooks)]
                    async with asyncio.timeout(60):
                        while (await page(session, admin, "/ready"))[0] != 200:
                            await asyncio.sleep(0.05)
                    status, _, pod = await mesh.pod()
                    assert (status, sidecars(pod)) == (201, INJECTED)
                    _, metrics = await page(session, admin, "/metrics")
                    assert 'meshd_injector_reviews_total{result="injected",webhook="inject"} 1.0' in metrics
            finally:
                if process.returncode is None:
                    process.terminate()
                assert await process.wait() == 0, (tmp_path / "controller.log").read_text()

    aio.run(scene())


def is_anchors(variable: Any) -> bool:
    return bool(variable["name"] == "MESHD_PROXY_TRUST_ANCHORS")


def test_pods_are_told_what_is_to_be_trusted_now(tmp_path: Path) -> None:
    async def scene() -> None:
        bundle = ""
        async with installed(tmp_path) as mesh, mesh.injector(anchors=lambda: bundle):
            told = []
            for bundle in ("", SETTINGS.trust_anchors * 2, ""):  # noqa: B007 - the injector asks for it
                _, _, pod = await mesh.pod()
                told += [
                    each["value"].count("BEGIN") for each in pod["spec"]["initContainers"][1]["env"] if is_anchors(each)
                ]
            assert told == [1, 2, 2]

    aio.run(scene())
