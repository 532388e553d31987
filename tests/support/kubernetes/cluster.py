"""The double of an API server, over real TLS and HTTP: who asks, for what, and how it is answered.

It is as the real one where a client can tell (`tests/recordings/kubernetes` holds what that said), and its controllers
do at once what real ones do soon. What it lacks: server-side apply, protobuf but for what has metadata alone, tables,
and the controllers that make pods of workloads and EndpointSlices of Services (`tests.support.kubelet.played`).
"""

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, web

from meshd.api.names import Address
from meshd.ca import certificates
from meshd.ca.certificates import Life
from meshd.ca.settings import KubernetesSettings
from tests.support.kubernetes import discovery, openapi, patches, protobuf, refusals
from tests.support.kubernetes.api import Answer, Api, Place
from tests.support.kubernetes.core import ACCOUNTS, NODES, PODS, REVIEWS
from tests.support.kubernetes.installed import ACCESS_REVIEWS, allowed, scale_of
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.refusals import Refused, bad_request
from tests.support.kubernetes.rights import bound
from tests.support.kubernetes.tokens import (
    ANONYMOUS,
    API_AUDIENCE,
    NotGood,
    Rule,
    Signer,
    User,
    audiences_wrong,
    check_review,
    jwt,
    written_by,
)
from tests.support.kubernetes.watching import Watch, too_old
from tests.support.kubernetes.webhooks import Webhooks

ADMIN, DELEGATOR, POWERLESS = "an administrator's token", "the CA's own token", "another's token"

IN_PODS = "kubernetes.default.svc"
"""What pods know the API server by."""

_PROXIED = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/:]+)(?::([0-9]+))?/proxy(/.*)?")

Interfere = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Cluster:
    """A cluster whose API answers while `serves` is open; what it holds stays when it is closed, and the port too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Where the certificates are kept: `api-ca.pem` is what clients check the server against."""
        self.api = Api()
        self.webhooks = Webhooks(self.api)
        self.signer = Signer()
        self.users: dict[str, User] = {
            ADMIN: User("admin", ("system:masters", "system:authenticated"), (Rule(),)),
            DELEGATOR: User("ca", rules=(Rule(("create",), ("tokenreviews",), ("authentication.k8s.io",)),)),
            POWERLESS: User("x"),
        }
        """By bearer token."""
        self.account_rules: dict[str, tuple[Rule, ...]] = {}
        """What service accounts may do besides what roles let them, by user name
        (`system:serviceaccount:NAMESPACE:NAME`)."""
        self.accounts: dict[str, tuple[str, list[str]]] = {}
        """token → (user name, audiences): tokens that are good although nobody requested them."""
        self.knows_audiences = True
        """As all API servers since 1.12 do."""
        self.answer: Any = None
        """Answered in place of a review's verdict, when it is set."""
        self.asked = 0
        """Reviews asked for."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, query) of every request, in the order they came."""
        self.bookmark_every_s = 60.0
        self.gone_as_status = False
        """Answer a watch that is too old with HTTP 410, as a server whose cache is cold does, and not with an event."""
        self.interfere: Interfere | None = None
        """Asked first for every request; what it returns is the answer."""
        self.host, self.port = "127.0.0.1", 0
        self._watches: set[asyncio.Task[Any]] = set()
        self._stopped = asyncio.Event()

    # --- what tests do to it

    @property
    def url(self) -> str:
        return f"https://{Address(self.host, self.port)}"

    @property
    def ca(self) -> Path:
        return self.directory / "api-ca.pem"

    def add(self, username: str, *audiences: str) -> str:
        """A token of that user, for those audiences."""
        token = jwt(f"{username} {len(self.accounts)}")
        self.accounts[token] = (username, list(audiences))
        return token

    def settings(self, token: str = DELEGATOR) -> KubernetesSettings:
        """A CA's, that asks with that token."""
        (self.directory / "own.token").write_text(token + "\n")
        return KubernetesSettings(self.url, str(self.ca), str(self.directory / "own.token"))

    def kubeconfig(self, token: str = ADMIN, name: str = "kubeconfig") -> Path:
        """A file by which clients find this cluster."""
        file = self.directory / name
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [
                {"name": "double", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}
            ],
            "users": [{"name": "someone", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "someone"}}],
        }  # fmt: skip
        file.write_text(json.dumps(content))
        return file

    def compact(self) -> None:
        """Forget the past, so that who asks for what came after an old version is told that it is gone."""
        self.api.store.compact()

    def break_watches(self) -> int:
        """Break off all watches in the middle; how many there were."""
        count = len(self._watches)
        for task in list(self._watches):
            task.cancel()
        return count

    def add_node(self, name: str, zone: str = "zone-1", region: str = "r1") -> None:
        labels = {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone}
        self.api.create(Place(NODES), {"metadata": {"name": name, "labels": labels}}, "kubelet")

    @asynccontextmanager
    async def serves(self) -> AsyncIterator["Cluster"]:
        tls = self._tls()
        application = web.Application(client_max_size=3 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self.host, self.port, ssl_context=tls, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.break_watches()
            await self.webhooks.close()
            await runner.cleanup()

    def _tls(self) -> ssl.SSLContext:
        if not self.ca.exists():
            life = Life.starting(time.time(), 3600.0)
            root = certificates.make_root("cluster.example", life)
            server = certificates.make_server(["127.0.0.1", self.host, "localhost", IN_PODS], root, life)
            self.ca.write_bytes(certificates.pem(root.certificate))
            key = certificates.key_pem(server.key)
            (self.directory / "api.pem").write_bytes(key + certificates.pem(server.certificate))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.directory / "api.pem")
        return tls

    # --- requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.query)))
        if self.interfere is not None and (answer := await self.interfere(request)) is not None:
            return answer
        try:
            user = self._user(request)
            if request.path in ("/healthz", "/livez", "/readyz"):
                return web.Response(text="ok")
            address = f"127.0.0.1:{self.port}"
            if (found := discovery.discovered(request.path, self.api.kinds.values(), address)) is not None:
                return _json_response(found)
            if request.path == "/openapi/v2" and openapi.OLD in request.headers.get("Accept", ""):
                return web.Response(body=openapi.old(), content_type=openapi.OLD_CALLED)
            if (through := _PROXIED.fullmatch(request.path)) is not None:
                return await self._proxied(user, *through.groups())
            place = self._place(request.path)
            verb = _verb(request, place)
            self._authorize(user, verb, place)
            if place.name or place.kind.verbs != ("create",):
                self._check_verb(verb, place)
            if verb == "watch":
                return await self._watch(request, place)
            return _response(await self._answered(request, verb, place))
        except Refused as refused:
            warning = [each.warning for each in self.api.kinds.values() if f"/{each.plural}/" in request.path]
            headers = dict(refused.headers) | _warned([text for text in warning if text][:1])
            return _json_response(refused.status, refused.code, headers)
        except _NoSuchPath:
            return web.Response(status=404, text="404 page not found\n")

    def _user(self, request: web.Request) -> User:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if not kind:
            return ANONYMOUS
        if kind.lower() != "bearer":
            raise refusals.unauthorized()
        token = token.strip()
        if token in self.users:
            return self.users[token]
        try:
            name, audiences = self._account(token)
        except NotGood as error:
            raise refusals.unauthorized() from error
        if API_AUDIENCE not in audiences:
            raise refusals.unauthorized()
        rules = (*self.account_rules.get(name, ()), *bound(self.api, name))
        return User(name, ("system:serviceaccounts", "system:authenticated"), rules)

    def _account(self, token: str) -> tuple[str, list[str]]:
        """(user name, audiences) of a token; NotGood when it is nobody's."""
        if token in self.accounts:
            return self.accounts[token]
        claims = self.signer.claims(token)
        of = claims["kubernetes.io"]
        account = self.api.store.get(ACCOUNTS.key, (of["namespace"], of["serviceaccount"]["name"]))
        if account is None:
            name = of["serviceaccount"]["name"]
            raise NotGood(f'[invalid bearer token, serviceaccounts "{name}" not found]')
        if account["metadata"]["uid"] != of["serviceaccount"]["uid"]:
            raise NotGood("[invalid bearer token, service account UID does not match claim]")
        return claims["sub"], claims["aud"]

    def _authorize(self, user: User, verb: str, place: Place) -> None:
        kind = place.kind
        if kind is ACCESS_REVIEWS and user is not ANONYMOUS:
            return  # everybody who is known may ask what they may
        resource = f"{kind.plural}/{place.subresource}" if place.subresource else kind.plural
        if any(rule.allows(verb, kind.group, resource, place.namespace, place.name) for rule in user.rules):
            return
        where = f'in the namespace "{place.namespace}"' if place.namespace else "at the cluster scope"
        why = f'User "{user.name}" cannot {verb} resource "{resource}" in API group "{kind.group}" {where}'
        raise refusals.forbidden(kind.plural, kind.group, place.name, why)

    @staticmethod
    def _may(user: User, asked: dict[str, str]) -> bool:
        resource = "/".join(each for each in (asked.get("resource", ""), asked.get("subresource", "")) if each)
        what = (
            asked.get("verb", ""),
            asked.get("group", ""),
            resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
        )
        return any(rule.allows(*what) for rule in user.rules)

    def _check_verb(self, verb: str, place: Place) -> None:
        if place.subresource:
            entries = [each for each in place.kind.subresources if each["name"].endswith("/" + place.subresource)]
            if not entries:
                raise _NoSuchPath
            allowed = entries[0]["verbs"]
        else:
            allowed = place.kind.verbs
        if verb not in allowed:
            message = "the server does not allow this method on the requested resource"
            raise Refused(405, "MethodNotAllowed", message, {})

    def _place(self, path: str) -> Place:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise _NoSuchPath
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        kind = self.api.kinds.get((group, version, rest[0]))
        if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
            raise _NoSuchPath
        return Place(kind, namespace, *rest[1:])

    async def _answered(self, request: web.Request, verb: str, place: Place) -> Answer:
        query, author = request.query, request.headers.get("User-Agent", "").partition("/")[0]
        how: dict[str, Any] = {"dry": query.get("dryRun") == "All", "strict": query.get("fieldValidation", "Warn")}
        match verb:
            case "get" if place.subresource == "scale":
                return Answer(200, scale_of(self.api.get(place)))
            case "get":
                return Answer(200, self.api.get(place), _kinds_warning(place.kind))
            case "list":
                return Answer(200, self.api.list(place, query), _kinds_warning(place.kind))
            case "delete" | "deletecollection":
                options = await _body(request) if request.can_read_body else {}
                if verb == "delete":
                    return self.api.delete(place, options, author)
                return self.api.delete_all(place, query, options, author)
            case "patch" if place.subresource == "scale":
                patch = {"spec": {"replicas": (await _json(request))["spec"]["replicas"]}}
                whole = Place(place.kind, place.namespace, place.name)
                return Answer(200, scale_of(self.api.patch(whole, patch, patches.MERGE, author, **how).body))
            case "patch":
                patch = await _json(request)
                if not self.webhooks.are_for(place):
                    return self.api.patch(place, patch, request.content_type, author, **how)
                content = patches.patched(self.api.get(place), patch, request.content_type)
                return await self._reviewed(place, content, author, self._user(request).name, False, **how)
        content = await _body(request)
        if place.kind is REVIEWS:
            return Answer(201, self._review(content, author))
        if place.kind is ACCESS_REVIEWS:
            asked = (content.get("spec") or {}).get("resourceAttributes") or {}
            return Answer(201, allowed(content, self._may(self._user(request), asked)))
        if place.subresource == "token":
            account = self.api.get(Place(place.kind, place.namespace, place.name))
            return Answer(201, self.signer.request(content, account, author))
        _check_type(content, place.kind)
        if not self.webhooks.are_for(place):
            made = self.api.create if verb == "create" else self.api.update
            return made(place, content, author, **how)
        user = self._user(request).name
        return await self._reviewed(place, content, author, user, verb == "create", **how)

    async def _reviewed(
        self, place: Place, content: dict[str, Any], author: str, user: str, new: bool, *, dry: bool, strict: str
    ) -> Answer:
        """What becomes of an object that webhooks are asked about."""
        warnings: tuple[str, ...] = ()
        if new:
            content = self.api.prepared(place, content, author, strict)
            content, warnings = await self.webhooks.mutated(place, content, user, dry=dry)
            content["metadata"].pop("managedFields", None)
            self.api.create(place, content, author, dry=True, strict=strict)  # refused before anybody else is asked
            warnings += await self.webhooks.validate(place, content, None, user, dry=dry)
            answer = self.api.create(place, content, author, dry=dry, strict=strict)
        else:
            old = self.api.get(place)
            self.api.update(place, content, author, dry=True, strict=strict)
            warnings = await self.webhooks.validate(place, content, old, user, dry=dry)
            answer = self.api.update(place, content, author, dry=dry, strict=strict)
        answer.warnings = (*answer.warnings, *warnings)
        return answer

    async def _proxied(self, user: User, namespace: str, name: str, port: str, path: str | None) -> web.Response:
        """What a pod's port answers, to whom may ask that way: `pods/proxy`."""
        place = Place(PODS, namespace, name, "proxy")
        self._authorize(user, "get", place)
        address = self.api.get(Place(PODS, namespace, name))["status"].get("podIP")
        if not address:
            raise Refused(503, "ServiceUnavailable", "no endpoints available for the pod")
        url = f"http://{Address(address, int(port or 80))}{path or '/'}"
        try:
            async with ClientSession() as session, session.get(url) as got:
                return web.Response(body=await got.read(), status=got.status, content_type=got.content_type)
        except ClientError as error:
            raise Refused(503, "ServiceUnavailable", f"error trying to reach service: {error}") from error

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        watch = Watch(self.api, place, request.query, self.bookmark_every_s)
        version = int(request.query.get("resourceVersion") or 0)
        if self.gone_as_status and 0 < version < self.api.store.compacted:
            raise too_old(version, self.api.store.version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            async for event in watch.events():
                await response.write(json.dumps(event).encode() + b"\n")
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        except ConnectionError:
            pass
        finally:
            self._watches.discard(task)
        return response

    # --- tokens

    def _review(self, review: Any, author: str) -> Any:
        self.asked += 1
        if self.answer is not None:
            return self.answer
        check_review(review)
        spec = review["spec"]
        status = self._verdict(spec["token"], spec.get("audiences") or [API_AUDIENCE])
        return {**review, "metadata": {"managedFields": [written_by(author)]}, "status": status}

    def _verdict(self, token: str, wanted: list[str]) -> dict[str, Any]:
        try:
            username, audiences = self._account(token)
        except NotGood as error:
            return {"user": {}, "error": str(error)}
        user: dict[str, Any] = {"username": username, "uid": "4c1b", "groups": ["system:authenticated"]}
        if token not in self.accounts:
            claims = self.signer.claims(token)
            of = claims["kubernetes.io"]
            user["uid"] = of["serviceaccount"]["uid"]
            user["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{of['namespace']}", *user["groups"]]
            user["extra"] = {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]}
            if pod := of.get("pod"):
                user["extra"]["authentication.kubernetes.io/pod-name"] = [pod["name"]]
                user["extra"]["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        if not self.knows_audiences:
            return {"authenticated": True, "user": user}
        good = [each for each in wanted if each in audiences]
        if not good:
            return {"user": {}, "error": audiences_wrong(audiences, wanted)}
        return {"authenticated": True, "user": user, "audiences": good}


class _NoSuchPath(Exception):
    pass


def _verb(request: web.Request, place: Place) -> str:
    match request.method:
        case "GET" if place.name:
            return "get"
        case "GET":
            return "watch" if request.query.get("watch") in ("1", "true") else "list"
        case "DELETE":
            return "delete" if place.name else "deletecollection"
        case method:
            return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


async def _body(request: web.Request) -> dict[str, Any]:
    if request.content_type == protobuf.MEDIA:
        return protobuf.read(await request.read())
    if request.content_type not in ("application/json", "application/octet-stream"):
        message = (
            "the body of the request was in an unknown format - accepted media types include: application/json, "
            "application/yaml, application/vnd.kubernetes.protobuf"
        )
        raise Refused(415, "UnsupportedMediaType", message, {})
    content = await _json(request)
    if not isinstance(content, dict):
        raise bad_request("couldn't get version/kind; json parse error: json: cannot unmarshal into Go value")
    return content


def _check_type(content: dict[str, Any], kind: Kind) -> None:
    version, name = content.get("apiVersion", kind.api_version), content.get("kind", kind.name)
    if version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({kind.api_version})"
        )
    if name != kind.name:
        raise bad_request(
            f'{name} in version "{kind.version}" cannot be handled as a {kind.name}: no kind "{name}" is registered'
        )


def _kinds_warning(kind: Kind) -> tuple[str, ...]:
    return (kind.warning,) if kind.warning else ()


def _warned(warnings: list[str]) -> dict[str, str]:
    escaped = (text.replace("\\", "\\\\").replace('"', '\\"') for text in warnings)
    said = ", ".join(f'299 - "{text}"' for text in escaped)
    return {"Warning": said} if said else {}


def _response(answer: Answer) -> web.Response:
    return _json_response(answer.body, answer.code, _warned(list(answer.warnings)))


def _json_response(content: Any, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    kind = {"Content-Type": "application/json"}  # with no charset, as the real one says it
    return web.Response(body=json.dumps(content).encode(), status=code, headers=(headers or {}) | kind)
