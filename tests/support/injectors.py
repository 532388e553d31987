"""A cluster with a mesh installed in it as far as the injector needs it, and injectors that are real, on loopback."""

import base64
import copy
import io
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from discovery.kubernetes.access import Access
from k8s.crds import KINDS, definition_of
from k8s.manifests.kinds import manifest
from k8s.manifests.rights import rights
from k8s.manifests.webhooks import webhooks
from k8s.settings import CONTROLLER, INJECTOR, Installation
from k8s.webhook.injector import Injector
from k8s.webhook.keeping import SECRET
from meshd.api.names import Address
from tests.support.injections import SETTINGS
from tests.support.kubernetes import ADMIN, API_AUDIENCE, Cluster, Rule
from tests.support.kubernetes.api import Place
from tests.support.kubernetes.core import NAMESPACES, SECRETS
from tests.support.waiting import eventually

Body = dict[str, Any]

WAIT_S = 60.0
"""For a review; as long as for all else that tests wait for."""

SECRET_PLACE = Place(SECRETS, "meshd", SECRET)


class Installed:
    """`cluster` is the double; `session` asks it as its administrator."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession, installation: Installation) -> None:
        self.cluster, self.session, self.installation = cluster, session, installation
        cluster.webhooks.wait_s = WAIT_S
        account = f"system:serviceaccount:meshd:{CONTROLLER}"
        self._token = cluster.add(account, API_AUDIENCE)
        cluster.account_rules[account] = tuple(_rules(installation))

    async def install(self) -> None:
        """What of an installation the injector has to do with; the namespace `shop` is meshed."""
        for name in ("meshd", "plain", "shop"):
            await self.asked("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self.annotate("shop", {"meshd.io/inject": "enabled"})
        await self.ask("POST", "/api/v1/namespaces/meshd/secrets", {"metadata": {"name": SECRET}, "type": "Opaque"})
        for kind in KINDS:
            await self.asked("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition_of(kind))
        for each in map(manifest, webhooks(self.installation)):
            plural = f"{each['kind'].lower()}s"
            await self.ask("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", each)

    async def ask(self, method: str, path: str, body: Any = None) -> Body:
        status, _, said = await self.asked(method, path, body)
        assert status in (200, 201), said
        return said

    async def asked(self, method: str, path: str, body: Any = None) -> tuple[int, str, Body]:
        """(status, warnings, what is said)"""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": kind, "User-Agent": "kubectl"}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.cluster.url + path, data=data, headers=headers) as response:
            return response.status, ", ".join(response.headers.getall("Warning", [])), await response.json()

    async def pod(self, namespace: str = "shop", **more: Any) -> tuple[int, str, Body]:
        """(status, warnings, what became of it)"""
        marks = more.pop("annotations", {})
        body = {"metadata": {"generateName": "web-", "annotations": marks}, "spec": {"containers": [APP], **more}}
        return await self.asked("POST", f"/api/v1/namespaces/{namespace}/pods", body)

    @asynccontextmanager
    async def injector(
        self,
        installation: Installation | None = None,
        clock: Callable[[], float] = time.time,
        *,
        ready: bool = True,
        anchors: Callable[[], str] = str,
        port: int = 0,
    ) -> AsyncIterator[Injector]:
        """One more, that the Service leads to."""
        access = Access(str(self.cluster.kubeconfig(self._token, "injector.kubeconfig")))
        injector = Injector(installation or self.installation, access, Address("127.0.0.1", port), clock, anchors)
        pods = self.cluster.webhooks.services.setdefault(("meshd", INJECTOR), [])
        await injector.start()
        place = (injector.server.address.host, injector.server.address.port)
        try:
            if ready:
                await eventually(lambda: injector.waiting_for() == (), "the injector is ready")
            pods.append(place)
            yield injector
        finally:
            if place in pods:
                pods.remove(place)
            await injector.close()
            await access.close()

    def secret(self) -> dict[str, str]:
        found: dict[str, str] = self.cluster.api.get(SECRET_PLACE).get("data") or {}
        return found

    def keep(self, data: dict[str, str]) -> None:
        """Have the Secret hold that."""
        self.cluster.api.update(SECRET_PLACE, self.cluster.api.get(SECRET_PLACE) | {"data": data}, "somebody")

    def bundles(self) -> set[str]:
        """What the API server has been told to believe, PEM."""
        kinds = [kind for kind in self.cluster.api.kinds.values() if kind.plural.endswith("webhookconfigurations")]
        found = [hook for kind in kinds for hook in self.cluster.api.get(Place(kind, name=INJECTOR))["webhooks"]]
        return {base64.b64decode(hook["clientConfig"].get("caBundle", "")).decode() for hook in found}

    def annotate(self, namespace: str, marks: dict[str, str]) -> None:
        place = Place(NAMESPACES, name=namespace)
        content = copy.deepcopy(self.cluster.api.get(place))
        content["metadata"]["annotations"] = marks
        self.cluster.api.update(place, content, "somebody")

    @asynccontextmanager
    async def caller(self, injector: Injector) -> AsyncIterator[Callable[[str, bytes], Any]]:
        """Asks that injector itself, as the API server would: (path, body) → (status, content)."""
        (bundle,) = self.bundles()
        tls = ssl.create_default_context(cadata=bundle)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:

            async def call(path: str, body: bytes) -> tuple[int, bytes]:
                url = f"https://{injector.server.address}{path}"
                name = self.installation.injector_name
                async with session.post(url, data=io.BytesIO(body), server_hostname=name) as response:
                    return response.status, await response.read()

            yield call


APP = {"name": "app", "image": "docker.example/app:1"}


def _rules(installation: Installation) -> list[Rule]:
    """What the manifests let the controller do, in the words of the double."""
    found = []
    for each in map(manifest, rights(installation)):
        if each["kind"] in ("ClusterRole", "Role") and each["metadata"]["name"] == CONTROLLER:
            space = each["metadata"].get("namespace", "")
            found += [
                Rule(tuple(rule["verbs"]), tuple(rule["resources"]), tuple(rule["apiGroups"]), space)
                for rule in each["rules"]
            ]
    return found


@asynccontextmanager
async def installed(directory: Path, installation: Installation = SETTINGS) -> AsyncIterator[Installed]:
    cluster = Cluster(directory)
    async with cluster.serves(), installed_in(cluster, installation) as made:
        yield made


@asynccontextmanager
async def installed_in(cluster: Cluster, installation: Installation) -> AsyncIterator[Installed]:
    """In a cluster that is there already."""
    tls = ssl.create_default_context(cafile=cluster.ca)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        made = Installed(cluster, session, installation)
        await made.install()
        yield made
