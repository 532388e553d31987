"""The way to know what there is of a kind: listed, then watched from the version of the list on.

    bookmarks     move the version on while nothing happens, so that a watch can begin again where it was
    410           the version is too old, as an event or as a status: listed again
    the end       of a watch, which the server brings about after the time that is asked for: watched again
    broken off    the same; where the server cannot be reached then, or breaks off again and again, that is Away
    garbage       Away

What is made of the objects is the affair of those that list and watch: `discovery.kubernetes.feed` and
`discovery.kubernetes.customs`.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.access import Query as Parameters
from discovery.kubernetes.lists import Query, decoded
from discovery.kubernetes.objects import Event, Met, Status, Versioned
from discovery.registry import Away

WATCH_S: Final = (240, 300)
"""How long a watch is asked to last: by chance between these, so that not all of them end at once."""

GRACE_S: Final = 30.0
"""That a watch may last longer than it was asked to."""

BRIEF_S, MAX_BRIEF = 1.0, 3
"""Watches that end so soon and say nothing are a fault, when there are so many on end."""

_EVENT: Final = msgspec.json.Decoder(Event)
_STATUS: Final = msgspec.json.Decoder(Status)
_MET: Final = msgspec.json.Decoder(Met)


class ListWatch(ABC):
    """The objects at `path` that a query selects. `_version` is that up to which they are known."""

    def __init__(self, access: Access, path: str, query: Query) -> None:
        self._access, self._path, self._query = access, path, query
        self._version = ""

    @abstractmethod
    async def _list(self) -> None:
        """Know them anew, and their version. Away."""

    @abstractmethod
    def _confirm(self) -> None:
        """They are as they were: the server could be reached, and has said so."""

    @abstractmethod
    def _changed(self, event: Event, met: Versioned) -> None:
        """One of them is now so, or is no more; `met` is its metadata. Away."""

    async def _run(self) -> None:
        """List and watch until it fails: Away."""
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

    def _take(self, line: bytes) -> None:
        event = decoded(_EVENT, line, self._path)
        if event.type == "ERROR":
            status = decoded(_STATUS, event.object, self._path)
            if status.code == 410:
                raise Gone
            raise Away(f"{self._path}: {status.message[:300]} ({status.reason[:60]}, {status.code})")
        met = decoded(_MET, event.object, self._path).metadata
        if event.type == "BOOKMARK":
            self._confirm()
        elif event.type in ("ADDED", "MODIFIED", "DELETED"):
            self._changed(event, met)
        else:
            raise Away(f"{self._path}: an event of type {event.type[:60]!r}, which there is not")
        self._version = met.resource_version
