"""The audit log: who asked the CA for what, and what became of it. One JSON object a line, appended, never changed.

    {"time":"2026-03-01T12:00:00Z","sequence":7,"action":"sign","decision":"issued","actor":"node vm1", …}

A line is on disk, synced, before the answer that it tells of leaves the CA, and an answer whose line cannot be written
does not leave. The store comes first: a process that dies between the two leaves a number that is missing here, and
stands for what nobody was told of.

The file is opened for each write: after logrotate has moved it away, the next line begins a new one. Several processes
append to it, each in one write what it has. Secrets are no part of any record here, and what peers chose is bounded.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from meshd.ca.material import when
from meshd.ca.source import Unreachable

MAX_TEXT: Final = 400
"""Characters of any one field: names and reasons may hold what a peer made up."""

Decision = Literal["issued", "refused", "changed"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is in a line; a field that says nothing is left out. `sequence` is null when the store could not be asked
    for the next; a number that is missing in the log is a missing line."""

    time: str
    sequence: int | None
    action: str
    decision: Decision
    actor: str
    peer: str = ""
    identity: str = ""
    node: str = ""
    serial: str = ""
    until: str = ""
    subject: str = ""
    """What was changed: a token, an entry, a denial."""
    reason: str = ""


class AuditLog:
    """The log in `file`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_broken = False

    def write(
        self,
        now: float,
        sequence: int | None,
        action: str,
        decision: Decision,
        actor: str,
        *,
        peer: str = "",
        identity: str = "",
        node: str = "",
        serial: str = "",
        until: float = 0.0,
        subject: str = "",
        reason: str = "",
    ) -> None:
        """Append a line; Unreachable when it cannot be."""
        line = Line(
            when(now),
            sequence,
            action,
            decision,
            actor,
            peer=peer,
            identity=identity,
            node=node,
            serial=serial,
            until=when(until) if until else "",
            subject=subject,
            reason=reason,
        )
        self.append([line])

    def append(self, lines: Sequence[Line]) -> None:
        """Append them, and have them on disk; Unreachable when they cannot be."""
        data = b"".join(msgspec.json.encode(_bounded(line)) + b"\n" for line in lines)
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.geteuid() == 0:
                    self._give_to_owner(descriptor)
                begin = b"\n" if self._is_broken else b""  # what a full disk cut off is not the beginning of this line
                is_new = os.fstat(descriptor).st_size == 0
                written = os.write(descriptor, begin + data)
                self._is_broken = written < len(begin + data)
                _sync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                _sync_directory(self._file.parent)
        except OSError as error:
            raise Unreachable(f"the audit log {self._file} cannot be written: {error.strerror}") from error
        if self._is_broken:
            raise Unreachable(f"the audit log {self._file} cannot be written: the disk is full")

    def _give_to_owner(self, descriptor: int) -> None:
        """A file that a command of root's began must not keep the daemon, which is another user, from writing."""
        owner = self._file.parent.stat()
        if os.fstat(descriptor).st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a device or a pipe, which has nothing to be synced
            raise


def _sync_directory(directory: Path) -> None:
    """Have it know of a file that is new, even after a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


_MADE_UP: Final = ("actor", "peer", "identity", "node", "subject", "reason")


def _bounded(line: Line) -> Line:
    """With what a peer made up fit for JSON: not too long, and without half characters (of a bad header)."""
    texts = {name: getattr(line, name)[:MAX_TEXT].encode("utf-8", "replace").decode() for name in _MADE_UP}
    return msgspec.structs.replace(line, **texts)
