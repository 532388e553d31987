"""Log records as entries of systemd's journal, so that it can be asked for what they are about:

    journalctl MESHD_WORKLOAD=default/web

An entry is one datagram of fields to journald's socket (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). A library for
this, libsystemd's, would bring its four libraries for compression and encryption into the proxy, and 1.2 MB; what is
needed of it is below. What is longer than a line may be is cut here, so that an entry always fits into a datagram.
"""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"

MAX_VALUE_BYTES: Final = 48 * 1024
"""Of a field; journald's own limit for a line that a daemon writes to standard error (journald.conf(5), LineMax=)."""

PATIENCE_S: Final = 1.0
"""How long traffic stands still for a journal that hangs: once, until it takes entries again."""

ABOUT: Final = "meshd_"
"""How those attributes of a record begin that become fields of their own; see `meshd.api.logs.about`."""

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s, by the least level of each; 7 is below them all."""


def is_journal(descriptor: int, path: str = SOCKET) -> bool:
    """Whether what is written there becomes entries (JOURNAL_STREAM, systemd.exec(5)), and they can be sent, too."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino)) and os.access(path, os.W_OK)


def entry(fields: Mapping[str, str]) -> bytes:
    """As journald reads it: NAME=VALUE in a line, or, of a value of several lines, NAME in a line, the length of the
    value in eight bytes, the least significant first, and the value."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="backslashreplace")[:MAX_VALUE_BYTES]
        if b"\n" in data:
            parts += [name.encode(), b"\n", len(data).to_bytes(8, "little"), data, b"\n"]
        else:
            parts += [name.encode(), b"=", data, b"\n"]
    return b"".join(parts)


class Journal(logging.Handler):
    """Sends records to journald. What it does not take is lost, and the next entry that it takes says how many: a
    journal that hangs must not have traffic hang with it."""

    def __init__(self, identifier: str, path: str = SOCKET, patience_s: float = PATIENCE_S) -> None:
        super().__init__()
        self._identifier, self._path, self._patience_s = identifier, path, patience_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = self._fields(record)
        except Exception:  # of the call that logs: it is said, and that call's work goes on
            self.handleError(record)
            return
        if self._lost:
            fields["MESSAGE"] += f" ({self._lost} entries before this one were lost)"
        try:
            self._socket.settimeout(0.0 if self._lost else self._patience_s)
            self._socket.sendto(entry(fields), self._path)
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        """systemd.journal-fields(7), and what the record is about."""
        about = {name.upper(): str(value) for name, value in vars(record).items() if name.startswith(ABOUT)}
        return {
            "MESSAGE": self.format(record),
            "PRIORITY": str(next((number for level, number in _PRIORITIES if record.levelno >= level), 7)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **about,
        }

    def close(self) -> None:
        self._socket.close()
        super().close()
