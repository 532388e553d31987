"""The `file` back end: `Service` and `Workload` documents in a directory of YAML files, or in one file.

    conf.d/*.yaml, *.yml    read in the order of their names; names beginning with a dot are passed over

Changes are seen by inotify, and looked for again on SIGHUP (`load`). A file that turns bad keeps what was last good of
it; when the whole path goes away, everything known stays, marked stale, until it is back (`discovery.declaring`).
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from discovery.declaring import DocumentSource
from discovery.documents import read_documents
from discovery.inotify import PathWatch
from discovery.ledger import Reading
from meshd.api.loading import ConfigurationError

log = logging.getLogger(__name__)

MAX_FILES = 4096
"""Beyond this the directory is not one of configuration."""

Signature = tuple[int, int, int, int]


class FileSource(DocumentSource):
    """Documents under `path`; with `beside_settings`, a document without `kind` is the settings and is passed over."""

    def __init__(
        self,
        path: Path,
        trust_domain: str,
        *,
        beside_settings: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(f"file {path}", str(path), trust_domain, clock)
        self.path = path
        self._beside_settings = beside_settings
        self._signatures: dict[str, Signature] = {}
        self._path_watch: PathWatch | None = None

    def start(self) -> None:
        try:
            self._path_watch = PathWatch(self.path.absolute(), asyncio.get_running_loop(), self.load)
        except OSError as error:
            reason = f"changes are seen on SIGHUP only: inotify says {error.strerror}"
            log.warning("%s: %s (see fs.inotify in sysctl)", self.path, reason)
            self._hamper(reason)
        else:
            self.load()  # what came between its being read and its being watched

    async def close(self) -> None:
        if self._path_watch is not None:
            self._path_watch.close()
            self._path_watch = None

    def load(self, touched: frozenset[str] | None = None) -> None:
        """Read what changed since the last time, and every file named in touched whatever it looks like."""
        try:
            files = self._files()
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            self._lose(f"{reason}: create it, or correct `discovery` in the settings")
        else:
            self._read(files, touched or frozenset())

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
        self._take(read, gone)


def _signature(file: Path) -> Signature:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
