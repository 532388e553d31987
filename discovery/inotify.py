"""Telling when a file or a directory changes, whatever way it is changed.

Editors write beside and rename over, configuration management replaces a directory, Kubernetes swaps a symbolic link:
so the path itself is watched when it is there, and so is the nearest directory above it that exists, to see it come,
go and come again. What is told is only that something may have changed, and the names in question when they are known;
reading is the other side's, and must bear being asked for nothing.

inotify(7) is per inode: after every event the watches are laid anew, which costs nothing where nothing moved.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

SETTLE_S = 0.05
"""Events within this time of the first are one: a file is often written, closed, renamed and touched in a burst."""

_CONTENT = (
    flags.CREATE | flags.CLOSE_WRITE | flags.ATTRIB | flags.MOVED_FROM | flags.MOVED_TO | flags.DELETE
    | flags.DELETE_SELF | flags.MOVE_SELF
)  # fmt: skip

Changed = Callable[[frozenset[str] | None], None]
"""Takes the names that were touched in the directory; None when anything may have been."""


class PathWatch:
    """Follows one path while it is open. OSError from the constructor: the kernel's limits on inotify are reached."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, changed: Changed) -> None:
        self._path, self._loop, self._changed = path, loop, changed
        self._inotify = INotify(nonblocking=True)
        self._names_of: dict[int, str | None] = {}  # watch → the one name of interest in it, None for all
        self._touched: set[str] | None = set()
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._lay()
        except OSError:
            self._inotify.close()
            raise
        loop.add_reader(self._inotify.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
        if self._timer is not None:
            self._timer.cancel()

    def _lay(self) -> None:
        """Watch the path, when it is a directory, and the nearest directory above that exists."""
        laid: dict[int, str | None] = {}
        below = self._path
        for directory in self._path.parents:
            try:
                laid[self._inotify.add_watch(directory, _CONTENT | flags.ONLYDIR)] = below.name
                break
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                below = directory
        try:
            laid[self._inotify.add_watch(self._path, _CONTENT | flags.ONLYDIR)] = None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass
        for watch in self._names_of.keys() - laid.keys():
            try:
                self._inotify.rm_watch(watch)
            except OSError:  # the kernel removed it with its inode
                pass
        self._names_of = laid

    def _readable(self) -> None:
        heard = False
        for event in self._inotify.read(timeout=0):
            if event.wd not in self._names_of and not event.mask & flags.Q_OVERFLOW:
                continue
            name = self._names_of.get(event.wd)
            if name is not None and event.name not in ("", name):
                continue
            heard = True
            if name is not None or not event.name:
                self._touched = None
            elif self._touched is not None:
                self._touched.add(event.name)
        if heard and self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._timer = None
        touched = None if self._touched is None else frozenset(self._touched)
        self._touched = set()
        try:
            self._lay()  # before reading, so that nothing changes unseen in between
        finally:
            self._changed(touched)
