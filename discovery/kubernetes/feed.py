"""A list that is kept up to date: listed, then watched from the version of the list on; of one Service, or of many.

    bookmarks     move the version on while nothing happens, so that a watch can begin again where it was
    410           the version is too old, as an event or as a status: listed again
    the end       of a watch, which the server brings about after the time that is asked for: watched again
    broken off    the same; where the server cannot be reached then, or breaks off again and again, that is Away
    garbage       Away

What was listed stays as it was until the next list is whole: no moment with half of it. A feed of a whole namespace
keeps what is of the Services that were asked for (its parts) and nothing else. One that is asked for later is listed by
itself; what the watch says of it meanwhile is newer than that list, unless its versions say otherwise.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final, Generic

import msgspec

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.access import Query as Parameters
from discovery.kubernetes.lists import MAX_LISTED, MAX_OBJECTS, Content, Query, Resource, decoded, pages
from discovery.kubernetes.objects import Event, Listed, Met, Status, Versioned
from discovery.registry import Away, Denied

WATCH_S: Final = (240, 300)
"""How long a watch is asked to last: by chance between these, so that not all of them end at once."""

GRACE_S: Final = 30.0
"""That a watch may last longer than it was asked to."""

BRIEF_S, MAX_BRIEF = 1.0, 3
"""Watches that end so soon and say nothing are a fault, when there are so many on end."""

_EVENT: Final = msgspec.json.Decoder(Event)
_STATUS: Final = msgspec.json.Decoder(Status)
_MET: Final = msgspec.json.Decoder(Met)


class Part(Generic[Content]):
    """What a feed has of one Service. `listeners` are called whenever it was read, or has failed.

    `away` says why it has ended; it does not begin again. `denied`: the server does not let the agent. `since` is the
    version of the list that it began with, and `touched` what the watch spoke of before there was that list, at which
    versions."""

    __slots__ = ("away", "denied", "listeners", "objects", "since", "synced", "touched")

    def __init__(self) -> None:
        self.objects: dict[str, Content] = {}
        self.synced = False
        self.away, self.denied = "", False
        self.listeners: set[Callable[[], None]] = set()
        self.since = 0
        self.touched: dict[str, int] = {}

    def begin(self, objects: dict[str, Content], version: str) -> None:
        """These are its objects."""
        self.objects, self.since, self.synced = objects, _number(version), True
        self.touched = {}
        self.tell()

    def take(self, name: str, content: Content | None, version: str) -> None:
        """One of them is now so, or is no more."""
        if 0 < _number(version) <= self.since:
            return  # it is from before the list
        if not self.synced:
            self.touched[name] = _number(version)
        if content is None:
            self.objects.pop(name, None)
        elif len(self.objects) < MAX_OBJECTS or name in self.objects:
            self.objects[name] = content
        else:
            raise Away(f"more than {MAX_OBJECTS} objects of one service")
        if self.synced:
            self.tell()

    def catch_up(self, listed: dict[str, Content], version: str) -> None:
        """It was listed while the watch was under way: the later of the two counts."""
        until = _number(version)
        newer = {name for name, at in self.touched.items() if not 0 < at <= until}
        objects = {name: content for name, content in listed.items() if name not in newer}
        self.begin(objects | {name: self.objects[name] for name in newer & self.objects.keys()}, version)

    def ended(self, away: str, *, denied: bool) -> None:
        if not self.away:
            self.away, self.denied = away, denied
        self.tell()

    def tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()


class Feed(Generic[Content]):
    """The objects of a namespace, of `service` alone where it is named, for those Services that are parts."""

    def __init__(self, access: Access, resource: Resource[Content], namespace: str, service: str = "") -> None:
        self._access, self.namespace, self.service = access, namespace, service
        self._resource: Resource[Content] = resource
        self._query = resource.of(namespace, service) if service else Query(namespace)
        self.parts: dict[str, Part[Content]] = {}
        """By the Service's name."""
        self.listed = False
        """Whether it has begun with its list: a part that is added from then on is to `catch_up`."""
        self.ended = False
        self._service_of: dict[str, str] = {}
        """Of the objects that are kept, by name; a label may change."""
        self._version = self._begun = ""
        """Up to which it is known, and that of the last list."""

    async def run(self) -> None:
        """Until it fails."""
        away, denied = "of an error within: see the log", False
        try:
            await self._run()
        except Away as error:
            away, denied = str(error), isinstance(error, Denied)
        finally:
            self.ended = True
            for part in tuple(self.parts.values()):
                part.ended(away, denied=denied)

    async def catch_up(self, name: str, part: Part[Content]) -> None:
        """List what is of a part that was added while the watch was under way."""
        query = self._resource.of(self.namespace, name)
        while self.parts.get(name) is part and not part.synced:  # not let go, nor listed with all others meanwhile
            try:
                version, found = await self._listed(query, MAX_OBJECTS, [name])
            except Away as error:
                part.ended(str(error), denied=isinstance(error, Denied))
                return
            if 0 < _number(version) < _number(self._begun):
                continue  # the watch begins later
            if self.parts.get(name) is part and not part.synced:
                part.catch_up(found.get(name, {}), version)
                self._service_of |= dict.fromkeys(part.objects, name)

    def drop(self, name: str) -> None:
        """The part is no longer wanted."""
        for each in self.parts.pop(name).objects:
            self._service_of.pop(each, None)

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

    @property
    def _path(self) -> str:
        return self._resource.path(self.namespace)

    # --- lists ----------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        self.listed = True
        while True:
            parts = dict(self.parts)
            most = MAX_OBJECTS if self.service else MAX_LISTED
            version, found = await self._listed(self._query, most, parts)
            late = [part for name, part in self.parts.items() if parts.get(name) is not part and part.synced]
            if all(part.since >= _number(version) for part in late):
                break  # what is watched from here on leaves no gap
        self._version = self._begun = version
        self._service_of = {}
        for name, part in self.parts.items():
            if parts.get(name) is part:
                part.objects = found.get(name, {})
            self._service_of |= dict.fromkeys(part.objects, name)
        for name, part in parts.items():
            if self.parts.get(name) is part:
                part.begin(part.objects, version)

    async def _listed(
        self, query: Query, most: int, services: Iterable[str]
    ) -> tuple[str, dict[str, dict[str, Content]]]:
        """The version of a list, and of its objects those of these Services, by Service and name."""
        wanted = frozenset(services)
        for _ in range(MAX_BRIEF):
            found: dict[str, dict[str, Content]] = {}
            version, count = "", 0
            try:
                async for page in pages(self._access, self._resource, query, most):
                    version = version or page.metadata.resource_version
                    count += self._sort(page, wanted, found)
            except Gone:
                continue
            if count > MAX_OBJECTS:
                raise Away(f"more than {MAX_OBJECTS} objects at {self._path}")
            return version, found
        raise Away(f"{self._path}: a list takes longer than the server remembers (410)")

    def _sort(self, page: Listed[Content], wanted: frozenset[str], found: dict[str, dict[str, Content]]) -> int:
        """Put the objects of a page where they belong; how many were."""
        count = 0
        for each in page.items or ():
            service = self._resource.service(each.metadata)
            if each.metadata.namespace != self.namespace:
                raise Away(f"{self._path}: it speaks of the namespace {each.metadata.namespace[:60]!r}")
            if service in wanted:
                found.setdefault(service, {})[each.metadata.name] = each
                count += 1
        return count

    # --- watches --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        seconds = random.randint(*WATCH_S)  # noqa: S311 - to spread load
        parameters: Parameters = self._query.parameters | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._access.lines(self._path, parameters, seconds + GRACE_S) as lines:
            self._confirm()  # it could be reached, and goes on from what is known
            async for line in lines:
                self._take(line)

    def _confirm(self) -> None:
        for part in tuple(self.parts.values()):
            if part.synced:
                part.tell()

    def _take(self, line: bytes) -> None:
        event = decoded(_EVENT, line, self._path)
        if event.type == "ERROR":
            status = decoded(_STATUS, event.object, self._path)
            if status.code == 410:
                raise Gone
            raise Away(f"{self._path}: {status.message[:300]} ({status.reason[:60]}, {status.code})")
        meta = decoded(_MET, event.object, self._path).metadata
        if event.type == "BOOKMARK":
            self._confirm()
        elif event.type in ("ADDED", "MODIFIED", "DELETED"):
            self._changed(event, meta)
        else:
            raise Away(f"{self._path}: an event of type {event.type[:60]!r}, which there is not")
        self._version = meta.resource_version

    def _changed(self, event: Event, meta: Versioned) -> None:
        if meta.namespace != self.namespace:
            raise Away(f"{self._path}: it speaks of the namespace {meta.namespace[:60]!r}")
        service = self._resource.service(meta)
        before = self._service_of.get(meta.name, service)
        if before != service and before in self.parts:
            self.parts[before].take(meta.name, None, meta.resource_version)
        part = self.parts.get(service)
        if part is None or event.type == "DELETED":
            self._service_of.pop(meta.name, None)
            if part is not None:
                part.take(meta.name, None, meta.resource_version)
            return
        content = decoded(self._resource.one, event.object, self._path)
        self._service_of[meta.name] = service
        part.take(meta.name, content, meta.resource_version)


def _number(version: str) -> int:
    """Versions are numbers that grow, of a cluster's objects of one kind; 0 where one is not."""
    return int(version) if version.isascii() and version.isdigit() else 0
