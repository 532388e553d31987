"""The double of the API server asks webhooks as a real one was recorded to, and makes of their answers what it made."""

import asyncio
import base64
import copy
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshd.ca import certificates
from meshd.ca.certificates import Life
from tests.integration.test_kubernetes_double import RECORDINGS, Player, comparable, player
from tests.support import aio
from tests.support.kubernetes import Cluster
from tests.support.ports import free_port

RECORDED: dict[str, Any] = json.loads((RECORDINGS / "webhook.json").read_text())
CONFIGURED, *EXCHANGES = RECORDED["exchanges"]
BEHAVIOURS = [
    (each["webhook_behaviour"], each.get("failurePolicy", "Fail"), each.get("dryRun", False)) for each in EXCHANGES
]


class Webhook:
    """One that behaves as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.behaviour = "patch"
        self.seen: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.seen.append(review)
        uid: str = review["request"]["uid"]
        response: dict[str, Any] = {"allowed": True}
        match self.behaviour:
            case "patch":
                operations = [
                    {"op": "add", "path": "/metadata/annotations", "value": {"meshd.io/injected": "yes"}},
                    {"op": "add", "path": "/spec/containers/-", "value": {"name": "proxy", "image": "example/proxy:1"}},
                ]
                response |= {"warnings": ["a warning from the webhook"], "patchType": "JSONPatch"}
                response["patch"] = _encoded(operations)
            case "deny":
                response = {"allowed": False, "status": {"message": "denied by test"}}
            case "500":
                return web.Response(status=500, text="oops")
            case "slow":
                await asyncio.sleep(60)
            case "badpatch":
                response["patch"] = _encoded([{"op": "remove", "path": "/spec/none"}])
            case "wronguid":
                uid = "x"
        return web.json_response(review | {"response": {"uid": uid, **response}})


def _encoded(operations: list[Any]) -> str:
    return base64.b64encode(json.dumps(operations).encode()).decode()


@asynccontextmanager
async def listening(webhook: Webhook, directory: Path) -> AsyncIterator[tuple[str, str]]:
    """(URL, caBundle)"""
    life = Life.starting(asyncio.get_running_loop().time() + 1.7e9, 20 * 365 * 86400.0)
    root = certificates.make_root("webhooks.example", life)
    server = certificates.make_server(["127.0.0.1"], root, life)
    (directory / "webhook.pem").write_bytes(certificates.key_pem(server.key) + certificates.pem(server.certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "webhook.pem")
    application = web.Application()
    application.add_routes([web.post("/inject", webhook.answer)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        bundle = base64.b64encode(certificates.pem(root.certificate)).decode()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/inject", bundle
    finally:
        await runner.cleanup()


async def configure(play: Player, url: str, bundle: str, policy: str) -> dict[str, Any]:
    """As it was recorded, but for where the webhook is; what it was answered."""
    await play.send({"method": "DELETE", "path": CONFIGURED["request"]["path"] + "/rec"})
    body = copy.deepcopy(CONFIGURED["request"]["body"])
    (webhook,) = body["webhooks"]
    webhook["clientConfig"] = {"url": url, "caBundle": bundle}
    webhook["failurePolicy"] = policy
    _, _, said = await play.send(CONFIGURED["request"], body)
    found: dict[str, Any] = said
    return found


def test_the_configuration_becomes_whole_as_on_a_real_server(tmp_path: Path) -> None:
    async def scene() -> None:
        async with player(Cluster(tmp_path)) as play:
            await play.replay(CONFIGURED)

    aio.run(scene())


@pytest.mark.parametrize("number", range(len(EXCHANGES)), ids=lambda number: "-".join(map(str, BEHAVIOURS[number])))
def test_what_becomes_of_a_pod(number: int, tmp_path: Path) -> None:
    """The recorded answer, and the recorded request to the webhook, for each way that a webhook may behave."""
    exchange = EXCHANGES[number]

    async def scene() -> None:
        webhook, cluster = Webhook(), Cluster(tmp_path)
        webhook.behaviour = exchange["webhook_behaviour"]
        if webhook.behaviour != "slow":
            cluster.webhooks.wait_s = 60.0
        async with player(cluster) as play, listening(webhook, tmp_path) as (listens, bundle):
            await play.send({"method": "POST", "path": "/api/v1/namespaces"}, {"metadata": {"name": "shop"}})
            nobody = f"https://127.0.0.1:{free_port()}/inject"
            url = nobody if webhook.behaviour == "not listening" else listens
            await configure(play, url, bundle, BEHAVIOURS[number][1])
            status, headers, said = await play.send(exchange["exchange"]["request"])
            real = exchange["exchange"]["response"]
            assert status == real["status"], said
            assert headers.get("Warning") == real["headers"].get("Warning")
            text = json.dumps(real["body"]).replace("https://127.0.0.1:9443/inject", url)
            if webhook.seen:
                recorded = next(
                    each["body"]["request"]["uid"]
                    for each in RECORDED["requests_seen_by_the_webhook"]
                    if _prefix(each["body"]) == exchange["exchange"]["request"]["body"]["metadata"]["generateName"]
                )
                text = text.replace(recorded, webhook.seen[0]["request"]["uid"])
            assert _anonymous(comparable(said)) == _anonymous(comparable(json.loads(text)))

    aio.run(scene())


def _prefix(review: Any) -> str:
    return str(review["request"]["object"]["metadata"]["generateName"])


def _anonymous(said: Any) -> Any:
    """Without the part of a name that is made up, and without service accounts, which the recorded server did not put
    into pods: in all other recordings it did."""
    if said.get("kind") == "Pod":
        said["metadata"]["name"] = said["metadata"]["generateName"]
        for name in ("serviceAccountName", "serviceAccount"):
            said["spec"].pop(name, None)
    return said


def test_what_a_webhook_is_asked(tmp_path: Path) -> None:
    async def scene() -> None:
        webhook, cluster = Webhook(), Cluster(tmp_path)
        async with player(cluster) as play, listening(webhook, tmp_path) as (url, bundle):
            await play.send({"method": "POST", "path": "/api/v1/namespaces"}, {"metadata": {"name": "shop"}})
            await configure(play, url, bundle, "Fail")
            cluster.webhooks.wait_s = 60.0
            await play.send(EXCHANGES[0]["exchange"]["request"])
        real = RECORDED["requests_seen_by_the_webhook"][0]["body"]
        for review in (webhook.seen[0], real):
            del review["request"]["userInfo"]
            _anonymous(review["request"]["object"])
        assert comparable(webhook.seen[0]) == comparable(real)

    aio.run(scene())


def test_it_is_asked_for_what_it_is_configured_for_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        webhook, cluster = Webhook(), Cluster(tmp_path)
        async with player(cluster) as play, listening(webhook, tmp_path) as (url, bundle):
            await configure(play, url, bundle, "Fail")
            request = EXCHANGES[0]["exchange"]["request"]
            elsewhere = request | {"path": "/api/v1/namespaces/default/pods"}
            status, _, _ = await play.send(elsewhere)
            assert (status, webhook.seen) == (201, [])

    aio.run(scene())
