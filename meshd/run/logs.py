"""The files that processes without a terminal write to."""

from pathlib import Path
from typing import IO

MAX_LOG_BYTES = 4 << 20
"""A log beyond this is put aside (as `.1`, the one before is dropped) when its process starts again."""

_TAIL_BYTES = 16 << 10


def open_log(path: Path) -> IO[bytes]:
    """The log at path, to append to, readable by its owner alone."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    path.touch(mode=0o600)
    return path.open("ab")


def tail(path: Path, lines: int = 10) -> str:
    """The last lines of a log, each indented; a remark when there are none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            last = log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError as error:
        last = [f"({path} cannot be read: {error.strerror})"]
    return "\n".join(f"    {line}" for line in last or ["(it wrote nothing)"])
