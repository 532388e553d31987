"""Custom resources of one kind, all that a query selects: listed, then watched from the version of the list on.

The objects are few, and any of them matters to everybody; so there is none of the sharing among Services that
`discovery.kubernetes.feed` has. What the two have alike: bookmarks, a watch that ends is begun again where it was, 410
is a new list, and what was listed stays as it was until the next list is whole. Others may write such objects at
length, so the bytes that they come in are bounded.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import msgspec

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.feed import BRIEF_S, GRACE_S, MAX_BRIEF, WATCH_S
from discovery.kubernetes.lists import MAX_OBJECTS, Query, Resource, decoded, pages
from discovery.kubernetes.objects import Custom, Event, Met, Status
from discovery.registry import Away

MAX_BYTES: Final = 16 << 20
"""Of all objects of a kind, as the API server says them: with what it adds, a multiple of what the documents say."""

_EVENT: Final = msgspec.json.Decoder(Event)
_STATUS: Final = msgspec.json.Decoder(Status)
_MET: Final = msgspec.json.Decoder(Met)


class Customs:
    """`told` is called whenever they were read, or that has failed."""

    def __init__(self, access: Access, resource: Resource[Custom], query: Query, told: Callable[[], None]) -> None:
        self._access, self._query, self._told = access, query, told
        self._resource: Resource[Custom] = resource
        self._path = resource.path(query.namespace)
        self.objects: dict[tuple[str, str], Custom] = {}
        """By (namespace, name)."""
        self.synced = False
        self.away = ""
        """Why it has ended; it does not begin again."""
        self._version = ""
        self._heard_bytes = 0

    async def run(self) -> None:
        """Until it fails."""
        away = "of an error within: see the log"
        try:
            await self._run()
        except Away as error:
            away = str(error)
        finally:
            self.away = away
            self._told()

    async def _run(self) -> None:
        await self._list()
        brief = gone = 0
        while True:
            begun, before = asyncio.get_running_loop().time(), self._version
            try:
                await self._watch()
            except Gone:
                gone += 1
                if gone > MAX_BRIEF:
                    raise Away(f"{self._path}: what was just listed is too old to be watched (410)") from None
                await self._list()
                continue
            gone = 0
            if asyncio.get_running_loop().time() - begun >= BRIEF_S or self._version != before:
                brief = 0
                continue
            brief += 1
            if brief > MAX_BRIEF:
                raise Away(f"{self._path}: watches end as soon as they begin")
            await asyncio.sleep(random.uniform(0.5, 1.0) * 0.1 * 2**brief)  # noqa: S311 - to spread load

    async def _list(self) -> None:
        for _ in range(MAX_BRIEF):
            objects: dict[tuple[str, str], Custom] = {}
            version = ""
            try:
                async for page in pages(self._access, self._resource, self._query, most_bytes=MAX_BYTES):
                    version = version or page.metadata.resource_version
                    for each in page.items or ():
                        objects[each.metadata.namespace, each.metadata.name] = each
            except Gone:
                continue
            self.objects, self._version, self.synced = objects, version, True
            self._heard_bytes = 0
            self._told()
            return
        raise Away(f"{self._path}: a list takes longer than the server remembers (410)")

    async def _watch(self) -> None:
        seconds = random.randint(*WATCH_S)  # noqa: S311 - to spread load
        parameters = self._query.parameters | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._access.lines(self._path, parameters, seconds + GRACE_S) as lines:
            self._told()  # it could be reached, and goes on from what is known
            async for line in lines:
                self._take(line)
                self._told()

    def _take(self, line: bytes) -> None:
        self._heard_bytes += len(line)
        if self._heard_bytes > MAX_BYTES:
            raise Gone  # listed again, to see how much it is by now
        event = decoded(_EVENT, line, self._path)
        if event.type == "ERROR":
            status = decoded(_STATUS, event.object, self._path)
            if status.code == 410:
                raise Gone
            raise Away(f"{self._path}: {status.message[:300]} ({status.reason[:60]}, {status.code})")
        meta = decoded(_MET, event.object, self._path).metadata
        if event.type == "DELETED":
            self.objects.pop((meta.namespace, meta.name), None)
        elif event.type in ("ADDED", "MODIFIED"):
            self.objects[meta.namespace, meta.name] = decoded(self._resource.one, event.object, self._path)
            if len(self.objects) > MAX_OBJECTS:
                raise Away(f"more than {MAX_OBJECTS} objects at {self._path}")
        elif event.type != "BOOKMARK":
            raise Away(f"{self._path}: an event of type {event.type[:60]!r}, which there is not")
        self._version = meta.resource_version
