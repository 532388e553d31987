"""The feeds that are in use: of a few Services one each, so that nothing is read that nobody asked for; of many in one
namespace one for all of them, since each is a connection."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from discovery.kubernetes.access import Access
from discovery.kubernetes.feed import Feed, Part
from discovery.kubernetes.lists import Content, Resource
from meshd.api.tasks import Tasks

FEW: Final = 8
"""Services of one namespace that have feeds of their own."""

Place = tuple[str, str, str]
"""The plural of a resource, a namespace, and the name of a Service, which is empty for a feed of many."""

Listener = Callable[[], None]


class Feeds:
    """What is read of Services, one part for each however many use it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._feeds: dict[Place, tuple[Feed[Any], asyncio.Task[None]]] = {}
        self._parts: dict[Place, tuple[Part[Any], Feed[Any]]] = {}
        self._tasks = Tasks("discovery kubernetes")

    def use(self, resource: Resource[Content], namespace: str, service: str, listener: Listener) -> Part[Content]:
        """What there is of a Service; it calls listener, until it is let go."""
        place = (resource.plural, namespace, service)
        found = self._parts.get(place)
        if found is None or found[0].away:
            feed = self._feed(resource, namespace, service)
            part: Part[Content] = Part()
            feed.parts[service] = part
            self._parts[place] = (part, feed)
            if feed.listed:
                self._tasks.start(feed.catch_up(service, part), f"list {'/'.join(place)}")
        else:
            part = found[0]
        part.listeners.add(listener)
        return part

    def _feed(self, resource: Resource[Content], namespace: str, service: str) -> Feed[Content]:
        """The feed that a Service is to be a part of."""
        wide = self._feeds.get((resource.plural, namespace, ""))
        if wide is not None and not wide[0].ended:
            return wide[0]
        count = sum(place[:2] == (resource.plural, namespace) for place in self._feeds)
        place = (resource.plural, namespace, service if count < FEW else "")
        feed = Feed(self._access, resource, namespace, place[2])
        task = self._tasks.start(feed.run(), "/".join(place))
        self._feeds[place] = (feed, task)
        task.add_done_callback(lambda _: self._forget(place, feed))
        return feed

    def _forget(self, place: Place, feed: Feed[Any]) -> None:
        if (found := self._feeds.get(place)) is not None and found[0] is feed:
            del self._feeds[place]

    def let_go(
        self, resource: Resource[Content], namespace: str, service: str, part: Part[Content], listener: Listener
    ) -> None:
        """listener is not to be called any more."""
        part.listeners.discard(listener)
        found = self._parts.get((resource.plural, namespace, service))
        if part.listeners or found is None or found[0] is not part:
            return
        feed = self._parts.pop((resource.plural, namespace, service))[1]
        feed.drop(service)
        place = (resource.plural, namespace, feed.service)
        if not feed.parts and (open_ := self._feeds.get(place)) is not None and open_[0] is feed:
            del self._feeds[place]
            open_[1].cancel()

    def __len__(self) -> int:
        return len(self._feeds)

    async def close(self) -> None:
        await self._tasks.cancel()
        self._feeds.clear()
        self._parts.clear()
