"""The mesh's documents as objects of a cluster: `services.meshd.io` and `workloads.meshd.io` (`k8s/crds`).

An object is the document of its own name and namespace, so that who may write in one namespace says nothing of the
services of another. Of each kind that is asked for there is one list that is kept up to date.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from discovery.backends import Place
from discovery.documents import Placed, document_of
from discovery.kubernetes.access import Access
from discovery.kubernetes.customs import Customs
from discovery.kubernetes.lists import Query, Resource
from discovery.kubernetes.objects import Custom, Listed
from discovery.kubernetes.settings import KubernetesDiscovery, KubernetesDocuments
from discovery.registry import Away
from discovery.store import Kind
from meshd.api.documents import API_VERSION, GROUP
from meshd.api.tasks import Tasks

SETTLE_S: Final = 0.2
"""Between two readings: much may change at a time."""


def resource_of(kind: Kind) -> Resource[Custom]:
    """Where the API server has the documents of a kind."""
    plural = f"{kind.lower()}s"
    page, one = msgspec.json.Decoder(Listed[Custom]), msgspec.json.Decoder(Custom)
    return Resource(f"/apis/{API_VERSION}", plural, f"{kind}List", page, one)


class KubernetesDocumentStore:
    """The documents of `wanted` kinds in the cluster that `settings` say, which is called as `place` says."""

    def __init__(
        self, settings: KubernetesDiscovery, wanted: KubernetesDocuments, place: Place, access: Access | None = None
    ) -> None:
        self._name, self._query = place.name, Query(wanted.namespace, wanted.labels)
        self.place = f"{place.name}:{API_VERSION}{f'/{wanted.namespace}' if wanted.namespace else ''}"
        self.kinds: tuple[Kind, ...] = tuple(dict.fromkeys(wanted.kinds))
        self._access = access or Access(settings.kubeconfig, settings.context)

    async def follow(self) -> AsyncGenerator[dict[str, bytes], None]:
        tasks, news = Tasks(f"documents of {self.place}"), asyncio.Event()
        feeds = [(kind, Customs(self._access, resource_of(kind), self._query, news.set)) for kind in self.kinds]
        for kind, feed in feeds:
            tasks.start(feed.run(), kind)
        known: dict[str, tuple[Custom, bytes]] = {}
        try:
            while True:
                await news.wait()
                news.clear()
                if away := next((feed.away for _, feed in feeds if feed.away), ""):
                    raise Away(away)
                if all(feed.synced for _, feed in feeds):
                    known = self._contents(feeds, known)
                    yield {origin: content for origin, (_, content) in known.items()}
                await asyncio.sleep(SETTLE_S)
        finally:
            await tasks.cancel()

    def _contents(
        self, feeds: list[tuple[Kind, Customs]], known: dict[str, tuple[Custom, bytes]]
    ) -> dict[str, tuple[Custom, bytes]]:
        found: dict[str, tuple[Custom, bytes]] = {}
        for kind, feed in feeds:
            for (namespace, name), each in feed.objects.items():
                origin = f"{self._name}:{kind.lower()}s.{GROUP}/{namespace}/{name}"
                before = known.get(origin)
                found[origin] = before if before is not None and before[0] is each else (each, _content(kind, each))
        return found

    def read(self, origin: str, content: bytes) -> tuple[Placed, ...]:
        return document_of(msgspec.json.decode(content), origin)

    async def close(self) -> None:
        await self._access.close()


def _content(kind: Kind, found: Custom) -> bytes:
    """The object as the document that it is."""
    metadata = found.metadata
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "labels": metadata.labels},
    }
    if found.spec is not msgspec.UNSET:
        document["spec"] = found.spec
    return msgspec.json.encode(document)
