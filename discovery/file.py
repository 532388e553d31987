"""The `file` back end: `Service` and `Workload` documents in a directory of YAML files, or in one file.

    conf.d/*.yaml, *.yml    read in the order of their names; names beginning with a dot are passed over

Changes are seen by inotify, and looked for again on SIGHUP (`load`). A file that turns bad keeps what was last good of
it (`discovery.ledger`); when the whole path goes away, everything known stays, marked stale, until it is back.

What is refused is logged when it is first found, and listed in `findings` for as long as it lasts.
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from discovery.catalogue import Catalogue
from discovery.documents import read_documents
from discovery.inotify import PathWatch
from discovery.ledger import Ledger, Reading
from discovery.names import Authority
from discovery.source import Answered, Close, Known
from discovery.watchers import Watchers
from meshd.api.control import Health
from meshd.api.documents import Document, Workload
from meshd.api.endpoints import EndpointSet
from meshd.api.loading import ConfigurationError, Finding

log = logging.getLogger(__name__)

MAX_FILES = 4096
"""Beyond this the directory is not one of configuration."""

Signature = tuple[int, int, int, int]


class FileSource:
    """Documents under `path`. `trust_domain` is that of the identities in them; with `beside_settings`, a document
    without `kind` is the settings and is passed over. Holds nothing before `load`."""

    def __init__(
        self,
        path: Path,
        trust_domain: str,
        *,
        beside_settings: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._trust_domain, self._beside_settings, self._clock = trust_domain, beside_settings, clock
        self._ledger = Ledger()
        self._signatures: dict[str, Signature] = {}
        self._catalogue = Catalogue()
        self._away = ""
        self._unwatched = ""
        self._read_at = 0.0
        self._health = Health(f"file {path}", healthy=True, since=clock())
        self._logged: frozenset[Finding] = frozenset()
        self._watchers = Watchers(self._find)
        self._subscribers: list[Callable[[], None]] = []
        self._path_watch: PathWatch | None = None

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong now."""
        away = (Finding(str(self.path), self._away),) if self._away else ()
        return away + self._ledger.findings

    @property
    def documents(self) -> tuple[Document, ...]:
        """What is in force."""
        return self._ledger.documents

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return tuple(document for document in self._ledger.documents if isinstance(document, Workload))

    def watch(self, authority: Authority, answered: Answered) -> Close:
        return self._watchers.watch(authority, answered)

    def health(self) -> Health:
        return self._health

    def known(self) -> Known:
        return Known(self._read_at, stale=bool(self._away))

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after everything that `workloads`, `findings` or `health` give may differ."""
        self._subscribers.append(changed)

    def _find(self, authority: Authority) -> EndpointSet | None:
        return self._catalogue.find(authority, stale=bool(self._away))

    # --- how it is learned --------------------------------------------------------------------------------------

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """See changes as they happen, until `close`."""
        try:
            self._path_watch = PathWatch(self.path.absolute(), loop, self.load)
        except OSError as error:
            self._unwatched = f"changes are seen on SIGHUP only: inotify says {error.strerror}"
            log.warning("%s: %s (see fs.inotify in sysctl)", self.path, self._unwatched)
            self._judge()

    def close(self) -> None:
        if self._path_watch is not None:
            self._path_watch.close()
            self._path_watch = None

    def load(self, touched: frozenset[str] | None = None) -> None:
        """Read what changed since the last time, and every file named in touched whatever it looks like."""
        try:
            files = self._files()
            self._away, self._read_at = "", self._clock()
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            self._away = f"{reason}: create it, or correct `discovery` in the settings"
        else:
            self._read(files, touched or frozenset())
        self._catalogue = Catalogue.of(self._ledger.documents, self._trust_domain)
        self._report()
        self._judge()
        self._watchers.refresh()
        for changed in self._subscribers:
            changed()

    def _files(self) -> dict[str, Signature]:
        if not self.path.is_dir():
            return {str(self.path): _signature(self.path)}
        found: dict[str, Signature] = {}
        names = os.listdir(self.path)
        if len(names) > MAX_FILES:
            raise OSError(errno.E2BIG, f"it holds more than {MAX_FILES} files")
        for name in names:
            file = self.path / name
            if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                try:
                    found[str(file)] = _signature(file)
                except FileNotFoundError:  # gone since it was listed, or a link to nothing
                    continue
        return found

    def _read(self, files: dict[str, Signature], touched: Iterable[str]) -> None:
        changed = {file for file, signature in files.items() if self._signatures.get(file) != signature}
        changed |= {str(self.path / name) for name in touched} & files.keys()
        read: dict[str, Reading] = {}
        for file in changed:
            try:
                read[file] = read_documents(Path(file), beside_settings=self._beside_settings)
            except ConfigurationError as error:
                read[file] = error
        gone = self._signatures.keys() - files.keys()
        self._signatures = files
        self._ledger.update(read, gone)

    def _report(self) -> None:
        for finding in self.findings:
            if finding not in self._logged:
                log.error("%s (what was last good stays in force)", finding)
        if self._logged and not self.findings:
            log.info("%s: all documents are good again", self.path)
        self._logged = frozenset(self.findings)

    def _judge(self) -> None:
        healthy = not self.findings
        message = self._unwatched if healthy else "; ".join(map(str, self.findings[:3]))
        since = self._health.since if healthy == self._health.healthy else self._clock()
        self._health = Health(self._health.name, healthy, message, since)


def _signature(file: Path) -> Signature:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
