"""The environment of a unit, and who but root can put something into it.

What waits for the mesh before a unit starts (`meshd.capture.injection`) runs as root, and systemd starts it in the
unit's own environment: the dynamic linker heeds what that says (ld.so(8): LD_PRELOAD, LD_AUDIT, LD_LIBRARY_PATH) before
the program's first line. Where somebody else may write the file of an `EnvironmentFile=`, or a library that
`Environment=` names, what they write would be root's.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LINKER: Final = frozenset(("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"))

_IGNORED: Final = " (ignore_errors="
_GLOB: Final = frozenset("*?[")


def refusals(files: str, variables: str) -> Iterator[str]:
    """Why root's programs must not start there. The arguments are as `systemctl show` has `EnvironmentFiles`, a line
    each, and `Environment`."""
    for line in files.splitlines():
        name = line.partition(_IGNORED)[0]
        if reason := _others(_fixed(name)):
            yield f"its EnvironmentFile= {name} is not for root alone to write ({reason}): {_ADVICE}"
    for name, value in _variables(variables):
        for each in value.replace(":", " ").split() if name in LINKER else ():
            if reason := _others(Path(each)):
                yield f"its Environment= has {name}={value}, which is not for root alone to write ({reason}): {_ADVICE}"


_ADVICE: Final = "what waits for the mesh runs there as root; give it to root (chown, chmod)"


def _variables(said: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(said)
    except ValueError:  # systemd quotes in one more way: what cannot be read is looked at word by word
        words = said.split()
    for word in words:
        name, _, value = word.partition("=")
        yield name, value


def _fixed(name: str) -> Path:
    """The path before its first wildcard: whoever may write there may add a file."""
    parts = []
    for part in Path(name).parts:
        if _GLOB & set(part):
            break
        parts.append(part)
    return Path(*parts)


def _others(path: Path) -> str:
    """Who but root can change what is at path; empty where nobody can."""
    real = path.resolve()
    for each in dict.fromkeys((path, *path.parents, real, *real.parents)):
        try:
            found = each.lstat()
        except FileNotFoundError:
            if each.parent.is_dir() and _open_to_others(each.parent.stat(), sticky=True):
                return f"anybody may make {each}"
            continue
        except OSError as error:
            return f"{each}: {error.strerror}"
        if found.st_uid != 0:
            return f"{each} belongs to uid {found.st_uid}"
        if not stat.S_ISLNK(found.st_mode) and _open_to_others(found):
            return f"{each} has the mode {stat.S_IMODE(found.st_mode):04o}"
    return ""


def _open_to_others(found: os.stat_result, *, sticky: bool = False) -> bool:
    """Whether others may write it. In a directory with the sticky bit they may add names, which counts where `sticky`,
    and not replace them."""
    mode = found.st_mode
    writable = bool(mode & stat.S_IWOTH) or bool(mode & stat.S_IWGRP and found.st_gid != 0)
    return writable and (sticky or not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX))
