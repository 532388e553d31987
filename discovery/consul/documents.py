"""The mesh's documents in Consul's KV store: below a prefix, each key is what a file of `conf.d` would be.

All keys are read by one blocking query. A folder is a key that holds nothing; but a prefix under which there is not
even one of those is a place that is not there, which is how a Consul that lost its data looks.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import quote

from discovery.backends import Place
from discovery.consul import index
from discovery.consul.client import Client
from discovery.consul.settings import ConsulDiscovery, ConsulDocuments
from discovery.documents import Placed, documents_in
from discovery.store import Kind
from meshd.api.documents import Service
from meshd.api.loading import ConfigurationError, Finding

_SHOWN: Final = "/:@!$&'()*+,;=-._~"
"""What of a key is shown as it is, besides letters and digits: others choose what keys are called."""


class ConsulDocumentStore:
    """The documents at `wanted` in the Consul of `settings`, which is called as `place` says."""

    def __init__(self, settings: ConsulDiscovery, wanted: ConsulDocuments, place: Place) -> None:
        self._client = Client(settings)
        self._name, self._prefix, self._datacenter = place.name, wanted.prefix, settings.datacenter
        self._meshed_only = settings.meshed_only
        self.place = f"{place.name}:{wanted.prefix}"
        self.kinds: tuple[Kind, ...] = tuple(dict.fromkeys(wanted.kinds))

    async def follow(self) -> AsyncGenerator[dict[str, bytes] | None, None]:
        cursor, loop = index.Cursor(), asyncio.get_running_loop()
        while True:
            begun = loop.time()
            pairs, at = await self._client.values(self._prefix, self._datacenter, cursor.index, index.MOST_WAIT_S)
            held_s = loop.time() - begun
            space_s = cursor.heard(at, held_s, index.MOST_WAIT_S, changed=at != cursor.index)
            if pairs is None:
                yield None
            else:
                yield {self._origin(each.key): each.value for each in pairs if each.value}
            await asyncio.sleep(space_s)

    def _origin(self, key: str) -> str:
        return f"{self._name}:{quote(key, safe=_SHOWN)}"

    def read(self, origin: str, content: bytes) -> tuple[Placed, ...]:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ConfigurationError([Finding(origin, f"not UTF-8 text: byte {error.start}")]) from error
        found = documents_in(text, origin)
        if self._meshed_only and (plain := [finding for each in found for finding in _plain(each, origin)]):
            raise ConfigurationError(plain)
        return found

    async def close(self) -> None:
        await self._client.close()


def _plain(placed: Placed, origin: str) -> list[Finding]:
    """What of a document would be called in plain text."""
    document = placed.document
    if not isinstance(document, Service):
        return []
    message = "it has no `workload`, and would be called in plain text, which `meshedOnly` rules out"
    return [
        Finding(origin, message, f"spec.endpoints[{number}]", f"Service {document.metadata.name}")
        for number, endpoint in enumerate(document.spec.endpoints or ())
        if not endpoint.workload
    ]
