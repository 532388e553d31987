"""What etcd is to the real API server: objects, every change under a number, and the past until it is compacted."""

import asyncio
import copy
from typing import Any, NamedTuple

Object = dict[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty where there is none."""


class Change(NamedTuple):
    """`after` is None for a deletion, and `before` for what is new."""

    version: int
    resource: str
    key: Key
    before: Object | None
    after: Object | None


class TooOld(Exception):
    """The past that is asked for has been compacted."""


class Store:
    """Objects by resource (`plural.group`) and key. What it gives out is not to be changed."""

    def __init__(self) -> None:
        self.version = 1
        self.compacted = 0
        """The oldest version that can still be read."""
        self._changes: list[Change] = []
        self._now: dict[str, dict[Key, Object]] = {}
        self._base: dict[str, dict[Key, Object]] = {}
        """As it was at the compaction."""
        self._waiting: set[asyncio.Event] = set()

    def get(self, resource: str, key: Key) -> Object | None:
        return self._now.get(resource, {}).get(key)

    def put(self, resource: str, key: Key, content: Object) -> Object:
        """Keep content, under the next version."""
        content = copy.deepcopy(content)
        content["metadata"]["resourceVersion"] = str(self.version + 1)
        self._changed(resource, key, content)
        return content

    def remove(self, resource: str, key: Key) -> Object:
        """What was removed, under the version at which it was."""
        gone = copy.deepcopy(self._now[resource][key])
        gone["metadata"]["resourceVersion"] = str(self.version + 1)
        self._changed(resource, key, None, gone)
        return gone

    def _changed(self, resource: str, key: Key, after: Object | None, gone: Object | None = None) -> None:
        self.version += 1
        objects = self._now.setdefault(resource, {})
        before = gone or objects.get(key)
        self._changes.append(Change(self.version, resource, key, before, after))
        if after is None:
            del objects[key]
        else:
            objects[key] = after
        for event in self._waiting:
            event.set()

    def all(self, resource: str, version: int | None = None) -> dict[Key, Object]:
        """The objects of a resource in the order of their keys, as of a version; TooOld when nobody knows any more."""
        if version is None or version >= self.version:
            objects = self._now.get(resource, {})
        elif version < self.compacted:
            raise TooOld
        else:
            objects = dict(self._base.get(resource, {}))
            for change in self._changes:
                if change.version > version:
                    break
                if change.resource == resource:
                    if change.after is None:
                        objects.pop(change.key, None)
                    else:
                        objects[change.key] = change.after
        return dict(sorted(objects.items()))

    def since(self, version: int, resource: str) -> list[Change]:
        """What changed of a resource after a version; TooOld when that cannot be known."""
        if version < self.compacted:
            raise TooOld
        return [each for each in self._changes if each.version > version and each.resource == resource]

    def compact(self) -> None:
        """Forget the past."""
        self.compacted = self.version
        self._base = {resource: dict(objects) for resource, objects in self._now.items()}
        self._changes.clear()

    async def changes(self, timeout_s: float) -> None:
        """Return when there is news of anything, or after timeout_s."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(event)
