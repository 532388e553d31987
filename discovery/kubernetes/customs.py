"""Custom resources of one kind, all that a query selects, kept up to date (`discovery.kubernetes.listwatch`).

The objects are few, and any of them matters to everybody; so there is none of the sharing among Services that
`discovery.kubernetes.feed` has. What was listed stays as it was until the next list is whole. Others may write such
objects at length, so the bytes that they come in are bounded.
"""

from collections.abc import Callable
from typing import Final

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import MAX_OBJECTS, Query, Resource, decoded, pages
from discovery.kubernetes.listwatch import MAX_BRIEF, ListWatch
from discovery.kubernetes.objects import Custom, Event, Versioned
from discovery.registry import Away

MAX_BYTES: Final = 16 << 20
"""Of all objects of a kind, as the API server says them: with what it adds, a multiple of what the documents say."""


class Customs(ListWatch):
    """`told` is called whenever they were read, or that has failed."""

    def __init__(self, access: Access, resource: Resource[Custom], query: Query, told: Callable[[], None]) -> None:
        super().__init__(access, resource.path(query.namespace), query)
        self._told = told
        self._resource: Resource[Custom] = resource
        self.objects: dict[tuple[str, str], Custom] = {}
        """By (namespace, name)."""
        self.synced = False
        self.away = ""
        """Why it has ended; it does not begin again."""
        self.failed: Away | None = None
        """The same, where the API server was the reason."""
        self._heard_bytes = 0

    async def run(self) -> None:
        """Until it fails."""
        away = "of an error within: see the log"
        try:
            await self._run()
        except Away as error:
            self.failed, away = error, str(error)
        finally:
            self.away = away
            self._told()

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

    def _confirm(self) -> None:
        self._told()

    def _take(self, line: bytes) -> None:
        self._heard_bytes += len(line)
        if self._heard_bytes > MAX_BYTES:
            raise Gone  # listed again, to see how much it is by now
        super()._take(line)

    def _changed(self, event: Event, met: Versioned) -> None:
        if event.type == "DELETED":
            self.objects.pop((met.namespace, met.name), None)
        else:
            self.objects[met.namespace, met.name] = decoded(self._resource.one, event.object, self._path)
            if len(self.objects) > MAX_OBJECTS:
                raise Away(f"more than {MAX_OBJECTS} objects at {self._path}")
        self._told()
