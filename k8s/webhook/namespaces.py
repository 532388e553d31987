"""The annotations of all namespaces, kept up to date: they say which pods are to be injected, and how.

A review waits for no API server where its namespace is known and the watch is going on. One that is not known, as it
was made a moment ago, is read by itself; while the watch is broken off, all are. Where that fails too, what was known
last counts, and a namespace of which nothing is known has its pods wait, or not, as `failurePolicy` says.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Final

from discovery.kubernetes.access import Access, Gone
from discovery.kubernetes.lists import MAX_OBJECTS, NAMESPACES, Query, decoded, pages
from discovery.kubernetes.listwatch import MAX_BRIEF, ListWatch
from discovery.kubernetes.objects import Event, Versioned
from discovery.registry import Away
from k8s.injector.annotations import relevant
from meshd.api.complaints import Dam
from meshd.api.names import is_label

complaints = logging.getLogger(__name__)
complaints.addFilter(Dam())

AGAIN_S: Final = (0.5, 30.0)
"""Least and most before the API server is asked again."""

MAX_READS: Final = 4
"""Namespaces that are read by themselves at a time. Anybody who can connect may name some that there are not; the rest
of what the controller asks the API server is not to wait for that."""

Annotations = Mapping[str, str]


class Namespaces(ListWatch):
    """`listed`: whether they have been read once; `current`: whether what is known is what is so."""

    def __init__(self, access: Access) -> None:
        super().__init__(access, NAMESPACES.path(), Query())
        self._known: dict[str, dict[str, str]] = {}
        self.current = self.listed = False
        self._reads = asyncio.Semaphore(MAX_READS)
        self.trouble, self._said = "the namespaces are not listed yet", ""

    async def run(self) -> None:
        """For ever."""
        wait_s = AGAIN_S[0]
        while True:
            try:
                await self._run()
            except Away as error:
                if self.current:
                    wait_s = AGAIN_S[0]
                self.current, self.trouble = False, str(error)
                self._complain(str(error))
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - to spread load
            wait_s = min(2 * wait_s, AGAIN_S[1])

    def _complain(self, trouble: str) -> None:
        """Once: the API server may be away for hours."""
        if trouble == self._said:
            return
        self._said = trouble
        if trouble:
            complaints.warning("namespaces cannot be read, and are as they were last: %s", trouble)
        else:
            complaints.info("namespaces can be read")

    def known(self, name: str) -> Annotations | None:
        """Those of one namespace, as they were heard of last; None for one of which nothing is known."""
        return self._known.get(name)

    async def annotations(self, name: str) -> Annotations:
        """Those of one namespace that the injector goes by. Away where nothing is known of it."""
        known = self._known.get(name)
        if known is not None and self.current:
            return known
        if not is_label(name):
            return {}  # there is none of that name, and the path of another object is nobody's to choose
        path = NAMESPACES.path(name=name)
        try:
            async with self._reads:
                body = await self._access.get(path, {}, absent_is_none=True)
        except (Away, Gone) as error:
            if known is not None:
                return known
            raise Away(f"the namespace {name} is not known, and cannot be read: {error}") from error
        return {} if body is None else relevant(decoded(NAMESPACES.one, body, path).metadata.annotations)

    async def _list(self) -> None:
        for _ in range(MAX_BRIEF):
            known: dict[str, dict[str, str]] = {}
            version = ""
            try:
                async for page in pages(self._access, NAMESPACES, self._query):
                    version = version or page.metadata.resource_version
                    for each in page.items or ():
                        known[each.metadata.name] = relevant(each.metadata.annotations)
            except Gone:
                continue
            self._known, self._version, self.listed = known, version, True
            self._confirm()
            return
        raise Away(f"{self._path}: a list takes longer than the server remembers (410)")

    def _confirm(self) -> None:
        self.current, self.trouble = True, ""
        self._complain("")

    def _changed(self, event: Event, met: Versioned) -> None:
        if event.type == "DELETED":
            self._known.pop(met.name, None)
            return
        found = decoded(NAMESPACES.one, event.object, self._path)
        self._known[met.name] = relevant(found.metadata.annotations)
        if len(self._known) > MAX_OBJECTS:
            raise Away(f"more than {MAX_OBJECTS} namespaces")
