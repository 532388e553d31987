"""The `file` back end: `Service` and `Workload` documents in a directory of YAML files, or in one file.

    conf.d/*.yaml, *.yml    read in the order of their names; names beginning with a dot are passed over

Changes are seen by inotify, and looked for again on SIGHUP (`load`). A file that turns bad keeps what was last good of
it; one that somebody is writing anew is read when it is closed; when the whole path goes away, everything known stays,
marked stale, until it is back (`discovery.declaring`).
"""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from stat import S_ISDIR

from discovery.declaring import DocumentSource
from discovery.documents import read_documents
from discovery.inotify import PathWatch
from discovery.ledger import Reading
from meshd.api.loading import ConfigurationError

log = logging.getLogger(__name__)

MAX_FILES = 4096
"""Beyond this the directory is not one of configuration."""

EMPTY_S = 1.0
"""How long a file that had something may be empty before that is taken for what is meant: whoever opens it to write it
anew has it empty at first, and what another file's change has us see just then is nobody's wish."""

Signature = tuple[int, int, int, int]
"""Inode, bytes, and the times of the last changes to the content and to the inode."""

_NONE: Signature = (0, 0, 0, 0)


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
        self._empty_until: dict[str, float] = {}  # by the loop's clock
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
        there = self.path.stat()
        if not S_ISDIR(there.st_mode):
            return {str(self.path): _signature(there)}
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # by what is open, for another may take its place meanwhile
            return self._files_in(directory)
        finally:
            os.close(directory)

    def _files_in(self, directory: int) -> dict[str, Signature]:
        found: dict[str, Signature] = {}
        names = os.listdir(directory)
        if len(names) > MAX_FILES:
            raise OSError(errno.E2BIG, f"it holds more than {MAX_FILES} files")
        for name in names:
            if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                try:
                    found[str(self.path / name)] = _signature(os.stat(name, dir_fd=directory))
                except FileNotFoundError:  # gone since it was listed, or a link to nothing
                    continue
        return found

    def _read(self, files: dict[str, Signature], touched: Iterable[str]) -> None:
        changed = {file for file, signature in files.items() if self._signatures.get(file) != signature}
        named = {str(self.path / name) for name in touched} & files.keys()
        begun = self._begun(files, changed - named) if self._path_watch is not None else frozenset()
        changed = (changed | named) - begun
        files |= {file: self._signatures[file] for file in begun}
        read: dict[str, Reading] = {}
        for file in changed:
            try:
                read[file] = read_documents(Path(file), beside_settings=self._beside_settings)
            except ConfigurationError as error:
                read[file] = error
        gone = self._signatures.keys() - files.keys()
        self._signatures = files
        self._take(read, gone)

    def _begun(self, files: dict[str, Signature], changed: Iterable[str]) -> frozenset[str]:
        """Those of changed that somebody seems to have begun to write: they are passed over, and looked at again."""
        loop = asyncio.get_running_loop()
        emptied = {file for file in changed if files[file][1] == 0 and self._signatures.get(file, _NONE)[1] > 0}
        self._empty_until = {file: self._empty_until.get(file, loop.time() + EMPTY_S) for file in emptied}
        begun = frozenset(file for file, until in self._empty_until.items() if loop.time() < until)
        if begun:
            loop.call_later(EMPTY_S, self._load_if_open)
        return begun

    def _load_if_open(self) -> None:
        if self._path_watch is not None:
            self.load()


def _signature(found: os.stat_result) -> Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
