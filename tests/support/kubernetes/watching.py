"""The events of a watch: changes as they concern what is watched, bookmarks, and the error when the past is gone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tests.support.kubernetes import refusals
from tests.support.kubernetes.api import Api, Place, _typed, parse_version
from tests.support.kubernetes.kinds import Object
from tests.support.kubernetes.selectors import Matches
from tests.support.kubernetes.store import Change, TooOld

LONGEST_S = 3600.0


class Watch:
    """One watch, checked by the time it is made: Refused when it is answered with an error instead."""

    def __init__(self, api: Api, place: Place, query: Mapping[str, str], bookmark_every_s: float) -> None:
        self._api, self._place, self._every_s = api, place, bookmark_every_s
        self._matches: Matches = api.selector(place, query)
        self._bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        self._initial = query.get("sendInitialEvents") in ("true", "1")
        match, self._from = query.get("resourceVersionMatch", ""), parse_version(query.get("resourceVersion", ""))
        if match and not self._initial:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise _forbidden("resourceVersionMatch", why)
        if self._initial and match != "NotOlderThan":
            why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise _forbidden("resourceVersionMatch", why)
        self._timeout_s = float(query.get("timeoutSeconds") or LONGEST_S)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Until the time-out that the client asked for."""
        loop, store, kind = asyncio.get_running_loop(), self._api.store, self._place.kind
        end = loop.time() + self._timeout_s
        version = self._from
        if version == 0 or self._initial:
            version = store.version
            for each in store.all(kind.key).values():
                if self._matches(each):
                    yield {"type": "ADDED", "object": _typed(each, kind)}
            if self._initial:
                yield self._bookmark(version, ended=True)
        bookmark_at = loop.time() + self._every_s
        while True:
            try:
                changes = store.since(version, kind.key)
            except TooOld:
                yield {"type": "ERROR", "object": too_old(version, store.version).status}
                return
            for change in changes:
                if (event := self._event(change)) is not None:
                    yield event
            version = max(version, store.version)
            now = loop.time()
            if now >= bookmark_at and self._bookmarks:
                bookmark_at = now + self._every_s
                yield self._bookmark(version)
            if now >= end:
                return
            await store.changes(min(end, bookmark_at if self._bookmarks else end) - now)

    def _event(self, change: Change) -> dict[str, Any] | None:
        was = change.before is not None and self._matches(change.before)
        is_now = change.after is not None and self._matches(change.after)
        if is_now:
            assert change.after is not None
            return {"type": "MODIFIED" if was else "ADDED", "object": _typed(change.after, self._place.kind)}
        if was:
            assert change.before is not None
            last = change.before
            last = last | {"metadata": last["metadata"] | {"resourceVersion": str(change.version)}}
            return {"type": "DELETED", "object": _typed(last, self._place.kind)}
        return None

    def _bookmark(self, version: int, ended: bool = False) -> dict[str, Any]:
        kind, meta = self._place.kind, {"resourceVersion": str(version)}
        content: Object = {"metadata": meta, **kind.empty}
        if ended:
            content["metadata"] = meta | {"annotations": {"k8s.io/initial-events-end": "true"}}
        return {"type": "BOOKMARK", "object": _typed(content, kind)}


def too_old(version: int, current: int) -> refusals.Refused:
    return refusals.expired(f"too old resource version: {version} ({current})")


def _forbidden(path: str, why: str) -> refusals.Refused:
    cause = refusals.Cause(path, f"Forbidden: {why}", "FieldValueForbidden")
    return refusals.unprocessable("ListOptions", "meta.k8s.io", "", [cause])
