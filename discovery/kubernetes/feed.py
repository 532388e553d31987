"""One list of objects that is kept up to date: listed, then watched from the version of the list on.

    bookmarks     move the version on while nothing happens, so that a watch can begin again where it was
    410           the version is too old, as an event or as a status: listed again
    the end       of a watch, which the server brings about after the time that is asked for: watched again
    broken off    the same; where the server cannot be reached then, or breaks off again and again, that is Away
    garbage       Away

What was listed stays as it was until the next list is whole: no moment with half of it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.access import Query as Parameters
from discovery.kubernetes.objects import Anything, EndpointSlice, Event, Listed, Pod, Service, Status
from discovery.registry import Away
from meshd.api.tasks import Tasks

PAGE: Final = 500
MAX_OBJECTS: Final = 20_000
WATCH_S: Final = (240, 300)
"""How long a watch is asked to last: by chance between these, so that not all of them end at once."""

GRACE_S: Final = 30.0
"""That a watch may last longer than it was asked to."""

BRIEF_S, MAX_BRIEF = 1.0, 3
"""Watches that end so soon and say nothing are a fault, when there are so many on end."""

Content = TypeVar("Content", Service, EndpointSlice, Pod)


class Resource(NamedTuple, Generic[Content]):
    """A kind of object: where it is, and what its list and its objects are read as."""

    prefix: str
    plural: str
    list_kind: str
    page: "msgspec.json.Decoder[Listed[Content]]"
    one: "msgspec.json.Decoder[Content]"

    def path(self, namespace: str = "", name: str = "") -> str:
        """Names are checked to be DNS labels or subdomains before they come here."""
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.prefix}{within}/{self.plural}" + (f"/{name}" if name else "")


SERVICES: Final = Resource(
    "/api/v1", "services", "ServiceList", msgspec.json.Decoder(Listed[Service]), msgspec.json.Decoder(Service)
)
SLICES: Final = Resource(
    "/apis/discovery.k8s.io/v1",
    "endpointslices",
    "EndpointSliceList",
    msgspec.json.Decoder(Listed[EndpointSlice]),
    msgspec.json.Decoder(EndpointSlice),
)
PODS: Final = Resource("/api/v1", "pods", "PodList", msgspec.json.Decoder(Listed[Pod]), msgspec.json.Decoder(Pod))

_EVENT: Final = msgspec.json.Decoder(Event)
_STATUS: Final = msgspec.json.Decoder(Status)
_ANYTHING: Final = msgspec.json.Decoder(Anything)


class Query(NamedTuple):
    """Which objects: of a namespace (of all when it is empty), by labels and by fields."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        given = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in given.items() if value}


async def pages(access: Access, resource: Resource[Content], query: Query) -> AsyncIterator[Listed[Content]]:
    """A list, page by page. Away when it is garbage or has no end; Gone when it took too long."""
    parameters, token, count = query.parameters | {"limit": str(PAGE)}, "", 0
    while True:
        path = resource.path(query.namespace)
        body = await access.get(path, parameters | ({"continue": token} if token else {}))
        assert body is not None
        page = decoded(resource.page, body, path)
        if page.kind != resource.list_kind:
            raise Away(f"the answer to {path} is {page.kind[:60]!r}, and not {resource.list_kind!r}")
        count += len(page.items or ())
        if count > MAX_OBJECTS:
            raise Away(f"more than {MAX_OBJECTS} objects at {path}")
        yield page
        token = page.metadata.continue_
        if not token:
            return


class Feed(Generic[Content]):
    """The objects that match `query`, by name. `listeners` are called whenever it was read, or has failed."""

    def __init__(self, access: Access, resource: Resource[Content], query: Query) -> None:
        self._access, self._query = access, query
        self._resource: Resource[Content] = resource
        self.objects: dict[tuple[str, str], Content] = {}
        """By (namespace, name)."""
        self.synced = False
        self.away = ""
        """Why it has ended; it does not begin again."""
        self.listeners: set[Callable[[], None]] = set()
        self._version = ""

    async def run(self) -> None:
        """Until it fails."""
        try:
            await self._run()
        except Away as error:
            self.away = str(error)
        except Exception:
            self.away = "of an error within: see the log"
            self._tell()
            raise
        self._tell()

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
        return self._resource.path(self._query.namespace)

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    async def _list(self) -> None:
        for _ in range(MAX_BRIEF):
            objects: dict[tuple[str, str], Content] = {}
            version = ""
            try:
                async for page in pages(self._access, self._resource, self._query):
                    version = version or page.metadata.resource_version
                    for each in page.items or ():
                        objects[each.metadata.namespace, each.metadata.name] = each
            except Gone:
                continue
            self.objects, self._version, self.synced = objects, version, True
            self._tell()
            return
        raise Away(f"{self._path}: a list takes longer than the server remembers (410)")

    async def _watch(self) -> None:
        seconds = random.randint(*WATCH_S)  # noqa: S311 - to spread load
        parameters: Parameters = self._query.parameters | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        async with self._access.lines(self._path, parameters, seconds + GRACE_S) as lines:
            self._tell()  # it could be reached, and goes on from what is known
            async for line in lines:
                self._take(line)
                self._tell()

    def _take(self, line: bytes) -> None:
        event = decoded(_EVENT, line, self._path)
        if event.type == "ERROR":
            status = decoded(_STATUS, event.object, self._path)
            if status.code == 410:
                raise Gone
            raise Away(f"{self._path}: {status.message[:300]} ({status.reason[:60]}, {status.code})")
        version = decoded(_ANYTHING, event.object, self._path).metadata.resource_version
        if event.type in ("ADDED", "MODIFIED", "DELETED"):
            content = decoded(self._resource.one, event.object, self._path)
            key = (content.metadata.namespace, content.metadata.name)
            if event.type == "DELETED":
                self.objects.pop(key, None)
            elif len(self.objects) < MAX_OBJECTS or key in self.objects:
                self.objects[key] = content
            else:
                raise Away(f"more than {MAX_OBJECTS} objects at {self._path}")
        elif event.type != "BOOKMARK":
            raise Away(f"{self._path}: an event of type {event.type[:60]!r}, which there is not")
        self._version = version


Decoded = TypeVar("Decoded")


def decoded(decoder: "msgspec.json.Decoder[Decoded]", content: bytes | msgspec.Raw, path: str) -> Decoded:
    """What the answer to path says; Away when it is not what it should be."""
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Away(f"the answer to {path} cannot be read: {error}") from error


class Feeds:
    """The feeds that are in use, one for each query however many use it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._open: dict[tuple[str, Query], tuple[Feed[Service] | Feed[EndpointSlice], asyncio.Task[None]]] = {}
        self._tasks = Tasks("discovery kubernetes")

    def use(self, resource: Resource[Content], query: Query, listener: Callable[[], None]) -> Feed[Content]:
        """The feed of a query, which calls listener until it is let go."""
        place = (resource.plural, query)
        found = self._open.get(place)
        if found is None or found[0].away:
            feed: Feed[Content] = Feed(self._access, resource, query)
            task = self._tasks.start(feed.run(), f"{resource.path(query.namespace)} {query.labels}{query.fields}")
            self._open[place] = (feed, task)  # type: ignore[assignment]
        else:
            feed = found[0]  # type: ignore[assignment]
        feed.listeners.add(listener)
        return feed

    def let_go(
        self, resource: Resource[Content], query: Query, feed: Feed[Content], listener: Callable[[], None]
    ) -> None:
        feed.listeners.discard(listener)
        place = (resource.plural, query)
        found = self._open.get(place)
        if not feed.listeners and found is not None and found[0] is feed:
            del self._open[place]
            found[1].cancel()

    def __len__(self) -> int:
        return len(self._open)

    async def close(self) -> None:
        await self._tasks.cancel()
        self._open.clear()
