"""What is on a host's disk, a line each: `listing.py`, on a host of a test. Type, mode, owner, path, and what is in it,
as a hash. For any Python 3; nothing of meshd's is imported.
"""

import hashlib
import os
import stat
from pathlib import Path

NOT_ON_DISK = {"/proc", "/sys", "/dev", "/run", "/tmp"}

REMEMBERS = {
    "/var/log": "what happened",
    "/var/cache": "what apt and ldconfig worked out",
    "/var/lib/apt": "what apt knows",
    "/var/lib/dpkg": "what dpkg did; that the package is gone from it is asked of dpkg",
    "/var/lib/systemd": "when timers ran, seeds, and that deb-systemd-helper was ever called",
    "/var/tmp": "of services that run",
    "/root": "what the test put there",
    "/etc/passwd-": "the copy before the last change",
    "/etc/group-": "likewise",
    "/etc/shadow-": "likewise",
    "/etc/gshadow-": "likewise",
    "/etc/.pwd.lock": "made by whoever changed users first",
    "/etc/subuid-": "the copy before the last change",
    "/etc/subgid-": "likewise",
    "/etc/machine-id": "made at boot",
}
"""What a host remembers of all packages that ever were, not what a package left."""


def main() -> None:
    for directory, directories, files in os.walk("/"):
        directories[:] = sorted(name for name in directories if not passed_over(os.path.join(directory, name)))
        for name in sorted((*directories, *files)):
            path = Path(directory, name)
            if not passed_over(str(path)):
                print(line(path))


def passed_over(path: str) -> bool:
    return path in NOT_ON_DISK or path in REMEMBERS


def line(path: Path) -> str:
    found = path.lstat()
    what = ""
    if stat.S_ISLNK(found.st_mode):
        what = os.readlink(path)
    elif stat.S_ISREG(found.st_mode):
        what = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {path} {what}"


main()
