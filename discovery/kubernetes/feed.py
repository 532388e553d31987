"""A list that is kept up to date (`discovery.kubernetes.listwatch`), of one Service or of many.

What was listed stays as it was until the next list is whole: no moment with half of it. A feed of a whole namespace
keeps what is of the Services that were asked for (its parts) and nothing else. One that is asked for later is listed by
itself; what the watch says of it meanwhile is newer than that list, unless its versions say otherwise.
"""

from collections.abc import Callable, Iterable
from typing import Generic

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import MAX_LISTED, MAX_OBJECTS, Content, Query, Resource, decoded, pages
from discovery.kubernetes.listwatch import MAX_BRIEF, ListWatch
from discovery.kubernetes.objects import Event, Listed, Versioned
from discovery.registry import Away, Denied


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


class Feed(ListWatch, Generic[Content]):
    """The objects of a namespace, of `service` alone where it is named, for those Services that are parts."""

    def __init__(self, access: Access, resource: Resource[Content], namespace: str, service: str = "") -> None:
        query = resource.of(namespace, service) if service else Query(namespace)
        super().__init__(access, resource.path(namespace), query)
        self.namespace, self.service = namespace, service
        self._resource: Resource[Content] = resource
        self.parts: dict[str, Part[Content]] = {}
        """By the Service's name."""
        self.listed = False
        """Whether it has begun with its list: a part that is added from then on is to `catch_up`."""
        self.ended = False
        self._service_of: dict[str, str] = {}
        """Of the objects that are kept, by name; a label may change."""
        self._begun = ""
        """The version of the last list."""

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

    def _confirm(self) -> None:
        for part in tuple(self.parts.values()):
            if part.synced:
                part.tell()

    def _changed(self, event: Event, met: Versioned) -> None:
        if met.namespace != self.namespace:
            raise Away(f"{self._path}: it speaks of the namespace {met.namespace[:60]!r}")
        service = self._resource.service(met)
        before = self._service_of.get(met.name, service)
        if before != service and before in self.parts:
            self.parts[before].take(met.name, None, met.resource_version)
        part = self.parts.get(service)
        if part is None or event.type == "DELETED":
            self._service_of.pop(met.name, None)
            if part is not None:
                part.take(met.name, None, met.resource_version)
            return
        content = decoded(self._resource.one, event.object, self._path)
        self._service_of[met.name] = service
        part.take(met.name, content, met.resource_version)


def _number(version: str) -> int:
    """Versions are numbers that grow, of a cluster's objects of one kind; 0 where one is not."""
    return int(version) if version.isascii() and version.isdigit() else 0
