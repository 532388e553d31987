"""Real programs that tests talk to; the list of them is `scripts/programs`, by which `make test` installs them.

    @pytest.mark.peer("nginx", "curl")
    def test_…: … path("nginx") …

A test whose program is not on this machine is skipped, with a reason that says what to install.
"""

import os
import re
import shutil
from functools import cache
from pathlib import Path

_LIST = Path(__file__).resolve().parents[2] / "scripts" / "programs"
_UNPACKED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshd" / "programs"
"""Where `scripts/setup-system` puts packages of other suites."""

_VERSIONS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: int(re.sub(r"\D", "", str(found)) or 0))
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin", *map(str, reversed(_VERSIONS))]
    + [str(directory) for directory in sorted(_UNPACKED.glob("*/usr/bin"))]
)
"""Debian puts daemons where an ordinary user does not look, and PostgreSQL's in a directory of their version."""


@cache
def packages() -> dict[str, str]:
    """Program → Debian package, PACKAGE/SUITE when this release lacks it."""
    lines = [line.split() for line in _LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {line[0]: line[1] for line in lines if line}


def find(program: str) -> str | None:
    """The path of `program`, None where it is not installed. KeyError when it is not on the list: then no one's machine
    would get it, and the test would be skipped for ever."""
    packages()[program]
    return shutil.which(program, path=_PATH)


def path(program: str) -> str:
    """The path of `program`, in a test that is marked with it."""
    found = find(program)
    assert found is not None, f"mark the test: @pytest.mark.peer({program!r})"
    return found


def why_missing(programs: tuple[str, ...]) -> str | None:
    """The reason to skip a test that needs `programs`; None when all are here."""
    missing = [program for program in programs if find(program) is None]
    if not missing:
        return None
    needed = [packages()[each] for each in missing]
    if any("/" in package for package in needed):
        return f"not installed: {', '.join(missing)} (scripts/setup-system test)"
    return f"not installed: {', '.join(missing)} (apt-get install {' '.join(needed)})"
