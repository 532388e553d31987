"""A double of a cluster's API server that reviews tokens as the real one does, and refuses what the real one refuses.

Over real TLS and HTTP, answers in the real one's words (kube-apiserver 1.30): 401 to whom it does not know, 403 to whom
may not create TokenReviews, 415 and 400 to what is no TokenReview, else 201 with the verdict. A token is good for its
audiences alone, and for the API server's own where none is asked for.
"""

import base64
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.settings import KubernetesSettings

DELEGATOR, POWERLESS = "the CA's own token", "another's token"
API_AUDIENCE = "https://kubernetes.default.svc.cluster.local"


def jwt(name: str) -> str:
    """Something of the form of a service account's token; who it is of only the cluster can say."""

    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256', 'kid': 'x'})}.{part({'sub': name})}.{part('signature')}"


@dataclass
class Cluster:
    """`accounts`: token → (user name, audiences). `knows_audiences`: as all API servers since 1.12 do."""

    directory: Path
    accounts: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    knows_audiences: bool = True
    answer: Any = None
    """Answered in place of a verdict, when it is set."""
    asked: int = 0
    port: int = 0

    def add(self, username: str, *audiences: str) -> str:
        """A token of that user, for those audiences."""
        token = jwt(f"{username} {len(self.accounts)}")
        self.accounts[token] = (username, list(audiences))
        return token

    def settings(self, token: str = DELEGATOR) -> KubernetesSettings:
        (self.directory / "own.token").write_text(token + "\n")
        return KubernetesSettings(
            f"https://127.0.0.1:{self.port}", str(self.directory / "api-ca.pem"), str(self.directory / "own.token")
        )

    @asynccontextmanager
    async def serves(self) -> AsyncIterator["Cluster"]:
        life = Life.starting(time.time(), 3600.0)
        root = certificates.make_root("cluster.example", life)
        server = certificates.make_server(["127.0.0.1"], root, life)
        (self.directory / "api-ca.pem").write_bytes(certificates.pem(root.certificate))
        (self.directory / "api.pem").write_bytes(
            certificates.key_pem(server.key) + certificates.pem(server.certificate)
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.directory / "api.pem")
        application = web.Application()
        application.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._review)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _review(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            return web.json_response(self.answer, status=201)
        own = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if own not in {DELEGATOR, POWERLESS}:
            return _status(401, "Unauthorized", "Unauthorized")
        if own == POWERLESS:
            return _status(403, "Forbidden", 'tokenreviews.authentication.k8s.io is forbidden: User "x" cannot create')
        if request.content_type != "application/json":
            return _status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        review = await request.json()
        if (review.get("apiVersion"), review.get("kind")) != ("authentication.k8s.io/v1", "TokenReview"):
            return _status(400, "BadRequest", "the object provided is unrecognized")
        if not review["spec"].get("token"):
            return _status(400, "BadRequest", "token is required for TokenReview in authentication")
        status = self._verdict(review["spec"]["token"], review["spec"].get("audiences") or [API_AUDIENCE])
        return web.json_response({**review, "metadata": {}, "status": status}, status=201)

    def _verdict(self, token: str, wanted: list[str]) -> dict[str, Any]:
        if token not in self.accounts:
            return {"user": {}, "error": "[invalid bearer token, Token has been invalidated]"}
        username, audiences = self.accounts[token]
        user = {"username": username, "uid": "4c1b", "groups": ["system:authenticated"]}
        if not self.knows_audiences:
            return {"authenticated": True, "user": user}
        good = [each for each in wanted if each in audiences]
        if not good:
            error = f"[invalid bearer token, token audiences {audiences} is invalid for the target audiences {wanted}]"
            return {"user": {}, "error": error}
        return {"authenticated": True, "user": user, "audiences": good}


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.json_response(body, status=code)
