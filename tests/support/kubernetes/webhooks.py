"""Admission by webhooks, as the real API server asks them: AdmissionReview over TLS that the `caBundle` verifies,
patches, warnings and denials, and what `failurePolicy` makes of a webhook that does not answer as it should.

The order is a real server's: built-in admission, mutating webhooks, validation, validating webhooks. What is left out:
matchConditions, reinvocation, and webhooks for what is deleted.
"""

import asyncio
import base64
import json
import ssl
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp

from meshd.api.names import Address
from tests.support.kubernetes import patches
from tests.support.kubernetes.api import Api, Place
from tests.support.kubernetes.core import NAMESPACES, SLICES
from tests.support.kubernetes.installed import MUTATING, VALIDATING
from tests.support.kubernetes.kinds import Object
from tests.support.kubernetes.refusals import Refused

AGENT = "kube-apiserver-admission"


class _Failed(Exception):
    """The webhook gave no answer that can be used; the message is the API server's."""


class Webhooks:
    """Those that are configured in `api`. `services` is where a Service's pods are, taken in turn: (namespace, name) →
    (host, port); of one that is not there EndpointSlices say it, and where they do not nobody answers for it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sessions: dict[tuple[str, str], aiohttp.ClientSession] = {}
        self._left: list[aiohttp.ClientSession] = []
        self._turn = 0
        self.wait_s: float | None = None
        """How long a webhook is waited for, where that is not to be as it is configured: on a busy machine."""
        self.services: dict[tuple[str, str], list[tuple[str, int]]] = {}

    def forget(self) -> None:
        """Have the next call begin with a handshake; calls that are under way go on."""
        for session in self._sessions.values():
            self._left.append(session)
        self._sessions = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        for session in self._left:
            await session.close()
        self._sessions.clear()

    async def mutated(self, place: Place, content: Object, user: str, *, dry: bool) -> tuple[Object, tuple[str, ...]]:
        """(what is to be made, warnings)."""
        warnings: list[str] = []
        for webhook in self._wanted(MUTATING, place, content, "CREATE"):
            answer = await self._asked(webhook, place, content, None, "CREATE", user, dry)
            if answer is None:
                continue
            warnings += answer.get("warnings") or ()
            if patch := answer.get("patch"):
                for operation in json.loads(base64.b64decode(patch)):
                    try:
                        content = patches.patched(content, [operation], patches.JSON)
                    except Refused as refused:
                        raise _internal(_why(operation)) from refused
        return content, tuple(warnings)

    async def validate(
        self, place: Place, content: Object, old: Object | None, user: str, *, dry: bool
    ) -> tuple[str, ...]:
        """Warnings; Refused where one of them says no."""
        warnings: list[str] = []
        operation = "CREATE" if old is None else "UPDATE"
        for webhook in self._wanted(VALIDATING, place, content, operation):
            answer = await self._asked(webhook, place, content, old, operation, user, dry)
            warnings += (answer or {}).get("warnings") or ()
        return tuple(warnings)

    # --- which

    def are_for(self, place: Place) -> bool:
        """Whether any is asked about such objects."""
        return any(
            _matches(rule, place, operation)
            for webhook in (*self._all(MUTATING), *self._all(VALIDATING))
            for rule in webhook["rules"]
            for operation in ("CREATE", "UPDATE")
        )

    def _all(self, kind: Any) -> Iterator[Object]:
        for configuration in self._api.store.all(kind.key).values():
            yield from configuration.get("webhooks") or ()

    def _wanted(self, kind: Any, place: Place, content: Object, operation: str) -> Iterator[Object]:
        space = self._api.store.get(NAMESPACES.key, ("", place.namespace)) if place.namespace else None
        labels = (space or {"metadata": {}})["metadata"].get("labels") or {}
        own = content["metadata"].get("labels") or {}
        for webhook in self._all(kind):
            if (
                any(_matches(rule, place, operation) for rule in webhook["rules"])
                and (space is None or _selects(webhook["namespaceSelector"], labels))
                and _selects(webhook["objectSelector"], own)
            ):
                yield webhook

    # --- one review

    async def _asked(
        self, webhook: Object, place: Place, content: Object, old: Object | None, operation: str, user: str, dry: bool
    ) -> Object | None:
        """The response, when it allows; None where it is to be ignored that there is none."""
        name, kind = webhook["name"], place.kind
        resource = {"group": kind.group, "version": kind.version, "resource": kind.plural}
        what = {"group": kind.group, "version": kind.version, "kind": kind.name}
        typed = {"kind": kind.name, "apiVersion": kind.api_version}
        options = "CreateOptions" if operation == "CREATE" else "UpdateOptions"
        request = {
            "uid": str(uuid.uuid4()), "kind": what, "resource": resource, "requestKind": what,
            "requestResource": resource,
            **({"name": content["metadata"]["name"]} if content["metadata"].get("name") else {}),
            **({"namespace": place.namespace} if place.namespace else {}),
            "operation": operation, "userInfo": {"username": user}, "object": typed | content,
            "oldObject": None if old is None else typed | old, "dryRun": dry,
            "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"},
        }  # fmt: skip
        review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
        try:
            response = await self._called(webhook, review)
        except _Failed as error:
            if webhook["failurePolicy"] == "Ignore":
                return None
            raise _internal(f'failed calling webhook "{name}": {error}') from error
        if not response["allowed"]:
            status = response.get("status") or {}
            why = f": {status['message']}" if status.get("message") else " without explanation"
            raise Refused(
                status.get("code", 403), status.get("reason", ""), f'admission webhook "{name}" denied the request{why}'
            )
        return response

    async def _called(self, webhook: Object, review: Object) -> Object:
        config, timeout_s = webhook["clientConfig"], webhook["timeoutSeconds"]
        url, server_name = self._place_of(config)
        shown = f"{config.get('url') or url}?timeout={timeout_s}s"
        session = self._session(config.get("caBundle", ""), server_name)
        headers = {"User-Agent": AGENT, "Content-Type": "application/json", "Accept": "application/json, */*"}
        try:
            async with (
                asyncio.timeout(self.wait_s or timeout_s),
                session.post(
                    f"{url}?timeout={timeout_s}s", data=json.dumps(review), headers=headers,
                    server_hostname=server_name or None,
                ) as response,
            ):  # fmt: skip
                content = await response.read()
        except TimeoutError as error:
            raise _Failed(f'failed to call webhook: Post "{shown}": context deadline exceeded') from error
        except aiohttp.ClientError as error:
            raise _Failed(f'failed to call webhook: Post "{shown}": {error}') from error
        if response.status != 200:
            said = content.decode().strip()
            why = f'an error on the server ("{said}") has prevented the request from succeeding'
            raise _Failed(f"failed to call webhook: {why}")
        try:
            answer = json.loads(content)["response"]
            found = answer["uid"]
        except (ValueError, KeyError, TypeError) as error:
            raise _Failed(f"received invalid webhook response: {error}") from error
        if found != review["request"]["uid"]:
            wanted = review["request"]["uid"]
            raise _Failed(f'received invalid webhook response: expected response.uid="{wanted}", got "{found}"')
        return dict(answer)

    def _place_of(self, config: Object) -> tuple[str, str]:
        """(URL, the name that its certificate is checked for; empty for the URL's own)."""
        if "url" in config:
            return config["url"], ""
        service = config["service"]
        pods = self.services.get((service["namespace"], service["name"])) or self._found(service)
        if not pods:
            raise _Failed("failed to call webhook: no endpoints available for service")
        self._turn += 1
        host, port = pods[self._turn % len(pods)]
        return (
            f"https://{Address(host, port)}{service.get('path', '/')}",
            f"{service['name']}.{service['namespace']}.svc",
        )

    def _found(self, service: Object) -> list[tuple[str, int]]:
        """Where a Service leads by what EndpointSlices say of it. Of several ports it is the first."""
        return [
            (address, port["port"])
            for (namespace, _), each in self._api.store.all(SLICES.key).items()
            if namespace == service["namespace"]
            and (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service["name"]
            for endpoint in each["endpoints"]
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
            for port in (each.get("ports") or ())[:1]
        ]

    def _session(self, bundle: str, server_name: str) -> aiohttp.ClientSession:
        """With connections that are kept, as a real server's client; another bundle is another client."""
        if (bundle, server_name) not in self._sessions:
            tls = ssl.create_default_context(cadata=base64.b64decode(bundle).decode() or None)
            connector = aiohttp.TCPConnector(ssl=tls, limit=0)
            self._sessions[bundle, server_name] = aiohttp.ClientSession(connector=connector)
        return self._sessions[bundle, server_name]


def _why(operation: Object) -> str:
    """Why an operation of a patch cannot be done, as the real server says it of what is not there."""
    path = operation["path"]
    key = path.rpartition("/")[2]
    done = operation["op"]
    return f"error in {done} for path: '{path}': Unable to {done} nonexistent key: {key}: missing value"


def _internal(why: str) -> Refused:
    message = f"Internal error occurred: {why}"
    return Refused(500, "InternalError", message, {"causes": [{"message": why}]})


def _matches(rule: Object, place: Place, operation: str) -> bool:
    kind = place.kind
    resource = f"{kind.plural}/{place.subresource}" if place.subresource else kind.plural
    return (
        bool({operation, "*"} & set(rule["operations"]))
        and bool({kind.group, "*"} & set(rule["apiGroups"]))
        and bool({kind.version, "*"} & set(rule["apiVersions"]))
        and bool({resource, "*"} & set(rule["resources"]))
    )


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    exact = all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(requirement: Object, labels: dict[str, str]) -> bool:
    key, values = requirement["key"], requirement.get("values") or ()
    match requirement["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
