"""The table of addresses in a file, `names.json`: read at the start, written soon after it changed.

It is a help and not a need, since nearly every address follows from its name: that the file cannot be read or written
is logged, and no more.
"""

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from meshd.agent.names.table import Given, Table

log = logging.getLogger(__name__)

FILE_NAME = "names.json"

SAVE_S = 2.0

MAX_BYTES = 32 << 20
"""Of MAX_NAMES of them, as long as names can be."""

VERSION = 1


class _File(msgspec.Struct, frozen=True):
    version: int
    names: tuple[Given, ...]


def read(file: Path) -> tuple[Given, ...]:
    """What is in the file; OSError or ValueError where it cannot be read."""
    with file.open("rb") as opened:
        found = msgspec.json.decode(opened.read(MAX_BYTES), type=_File)
    if found.version != VERSION:
        raise ValueError(f"it is of version {found.version}")
    return found.names


class Store:
    """Keeps `table` in `file`."""

    def __init__(self, table: Table, file: Path) -> None:
        self._table, self._file = table, file
        self._saving: asyncio.TimerHandle | None = None
        self._load()
        table.changed = self._soon

    def _load(self) -> None:
        try:
            refused = self._table.restore(read(self._file))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s: the addresses of before are not known, and given anew: %s", self._file, error)
            return
        if refused:
            log.warning("%s: %d addresses of before are not in the range, and not used", self._file, refused)

    def _soon(self) -> None:
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_S, self._save)

    def _save(self) -> None:
        self._saving = None
        beside = self._file.with_suffix(".new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(_File(VERSION, tuple(self._table.all()))))
            beside.replace(self._file)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)

    def close(self) -> None:
        """Write what is new, and when each was used last."""
        if self._saving is not None:
            self._saving.cancel()
        if len(self._table):
            self._save()
