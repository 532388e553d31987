"""Documents in a place across the network: a part of Consul's KV store, the objects of a cluster.

    read          what differs is read anew; a part that turned bad keeps what was last good of it
    away          what was last good stays in force, for as long as it takes, marked stale
    gone          so it does when the place itself is no more, after there was something: a registry that lost its data
                  says just that. A place that is there and empty is believed
    on disk       what was last good outlasts the process: an agent that starts while the registry is away goes by it
    kinds         documents of other kinds are passed over: who may write there decides nothing else of this host

What the place is, is the affair of a `discovery.store.DocumentStore`. Its services are looked up as those of files are.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final

from discovery.declaring import DocumentSource
from discovery.keeping import ContentKeeper
from discovery.ledger import Reading
from discovery.names import Authority
from discovery.registry import Away
from discovery.source import NOT_YET, Answer, Known
from discovery.store import DocumentStore
from discovery.watchers import Watchers
from meshd.api.backoff import Backoff
from meshd.api.control import Health
from meshd.api.loading import ConfigurationError, Finding
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)

MAX_PARTS: Final = 4096
MAX_BYTES: Final = 4 << 20
"""Of all parts together: what is more is no configuration, and would keep the agent parsing."""

OFF_LOOP_BYTES: Final = 16 << 10
"""More than this is parsed in a thread, where it does not hold up others."""

REST: Final = 4.0
"""After parsing there is a rest of so many times its time: who changes things all the time costs a fifth of a core."""

FIRST_RETRY_S, MOST_RETRY_S = 0.5, 15.0

SAVE_S: Final = 2.0
"""What is new is on disk so soon."""

NOT_READ: Final = "it was not read yet"


class RemoteDocuments(DocumentSource):
    """The documents in `store`; what was good is kept by `keeper`."""

    def __init__(
        self,
        store: DocumentStore,
        keeper: ContentKeeper,
        trust_domain: str,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(f"config {store.place}", store.place, trust_domain, clock)
        self._health = Health(self._health.name, healthy=False, message=NOT_READ, since=clock())
        self._store, self._keeper = store, keeper
        self._watchers = Watchers(self._find, remote=True)
        self._monotonic = monotonic
        self._contents: dict[str, bytes] = {}
        self._good: dict[str, bytes] = {}
        self._passed_over: dict[str, int] = {}
        self._again = asyncio.Event()
        self._saving: asyncio.TimerHandle | None = None
        self._recalled = asyncio.Event()
        self._tasks = Tasks(f"documents of {store.place}")

    def known(self) -> Known:
        return Known(self._read_at, stale=bool(self._away) or not self._read_at)

    def _find(self, authority: Authority) -> Answer:
        if not self._read_at and not self._contents:
            return NOT_YET
        return self._catalogue.find(authority, stale=self.known().stale)

    # --- how it is learned ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Do not wait any longer before trying again."""
        self._again.set()

    def start(self) -> None:
        self._tasks.start(self._follow(), "follow")

    async def recalled(self) -> None:
        await self._recalled.wait()

    async def close(self) -> None:
        await self._tasks.cancel()
        if self._saving is not None:
            self._saving.cancel()
            self._save()
        await self._store.close()

    async def _follow(self) -> None:
        try:
            await self._recall()
        finally:
            self._recalled.set()
        backoff = Backoff(FIRST_RETRY_S, MOST_RETRY_S)
        while True:
            try:
                async with aclosing(self._store.follow()) as readings:
                    async for contents in readings:
                        backoff.reset()
                        await self._heard(contents)
                reason = "it ended without a reason"
            except Away as error:
                reason = str(error)
            except Exception:
                log.exception("%s: following it failed", self.place)
                reason = "an error within: see the log"
            self._watchers.begin()
            self._lose(f"cannot be read: {reason}")
            self._again.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await self._again.wait()

    async def _recall(self) -> None:
        kept = self._keeper.load()
        if kept:
            read = await self._read(kept)
            self._contents, self._good = dict(kept), dict(kept)
            self._ledger.update(read)
            self._watchers.begin()
            self._settle()

    async def _heard(self, contents: Mapping[str, bytes] | None) -> None:
        if contents is None and self._contents:
            self._lose("is gone, after there was something: make it again, empty, if that was meant")
            return
        contents = contents or {}
        if len(contents) > MAX_PARTS or sum(map(len, contents.values())) > MAX_BYTES:
            raise Away(f"there is more than {MAX_PARTS} parts or {MAX_BYTES >> 20} MiB, which is no configuration")
        changed = {origin: content for origin, content in contents.items() if self._contents.get(origin) != content}
        gone = self._contents.keys() - contents.keys()
        if not changed and not gone and self._read_at and not self._away:
            self._read_at = self._clock()
            return
        began = self._monotonic()
        read = await self._read(changed)
        took_s = self._monotonic() - began
        self._contents = dict(contents)
        for origin in gone:
            self._good.pop(origin, None)
        self._passed_over = {origin: count for origin, count in self._passed_over.items() if origin in contents}
        self._watchers.begin()
        self._hampered = self._unwanted()
        self._take(read, gone)
        if changed or gone:
            self._save_soon()
        await asyncio.sleep(REST * took_s)

    # --- what the parts say -----------------------------------------------------------------------------------------

    async def _read(self, contents: Mapping[str, bytes]) -> dict[str, Reading]:
        if sum(map(len, contents.values())) > OFF_LOOP_BYTES:
            found = await asyncio.to_thread(self._readings, contents)
        else:
            found = self._readings(contents)
        for origin, reading in found.items():
            if not isinstance(reading, ConfigurationError):
                self._good[origin] = contents[origin]
        return {origin: self._wanted(origin, reading) for origin, reading in found.items()}

    def _readings(self, contents: Mapping[str, bytes]) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        for origin, content in contents.items():
            try:
                found[origin] = self._store.read(origin, content)
            except ConfigurationError as error:
                found[origin] = ConfigurationError([_printable(finding) for finding in error.findings])
        return found

    def _wanted(self, origin: str, reading: Reading) -> Reading:
        """Those of the kinds that are taken from here."""
        self._passed_over.pop(origin, None)
        if isinstance(reading, ConfigurationError):
            return reading
        wanted = tuple(each for each in reading if type(each.document).__name__ in self._store.kinds)
        if len(wanted) < len(reading):
            self._passed_over[origin] = len(reading) - len(wanted)
        return wanted

    def _unwanted(self) -> str:
        """What is to be said of documents that are passed over."""
        count = sum(self._passed_over.values())
        return f"documents passed over, of kinds that `config.kinds` does not name: {count}" if count else ""

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _save_soon(self) -> None:
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_S, self._save)

    def _save(self) -> None:
        self._saving = None
        self._keeper.save(self._good)


def _printable(finding: Finding) -> Finding:
    """Without what would move the cursor of a terminal: others wrote it."""
    parts = (finding.file, finding.message, finding.path, finding.document)
    return Finding(*("".join(each if each.isprintable() else "?" for each in part) for part in parts))
