"""Where systemd's slices are among control groups of version 2, and how nftables calls them.

`a-b.slice` is below `a.slice`. Where version 2 is mounted beside version 1, in a directory `unified` (a hybrid
hierarchy), nftables still begins at /sys/fs/cgroup, and that name counts for the path and not for the level.
"""

import os
import re
from pathlib import Path
from typing import Final

from meshd.api.names import WorkloadName
from meshd.capture.plan import Group

MOUNT: Final = Path("/sys/fs/cgroup")
BESIDE_V1: Final = "unified"

_SLICE = re.compile(r"[A-Za-z0-9_:.\\]+(?:-[A-Za-z0-9_:.\\]+)*\.slice")


def check_slice(name: str) -> str:
    """The name; ValueError when systemd has no slice of such a name."""
    if not _SLICE.fullmatch(name) or len(name) > 200:
        raise ValueError(f"{name!r} is not the name of a slice, as in meshed.slice")
    return name


def path_of(name: str) -> str:
    """The slice's place below the root of control groups: a-b.slice is a.slice/a-b.slice."""
    parts = name.removesuffix(".slice").split("-")
    return "/".join("-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def own_slice(slice_: str, workload: WorkloadName) -> str:
    """The slice, below `slice_`, of a workload that has skip lists of its own. No label has the character that stands
    for a dash here, so that no two workloads share one."""
    parts = (each.replace("-", "_") for each in workload)
    return f"{slice_.removesuffix('.slice')}-{'-'.join(parts)}.slice"


def top(mount: Path = MOUNT) -> Path | None:
    """Where version 2 is; None where it is not."""
    return next((each for each in (mount, mount / BESIDE_V1) if (each / "cgroup.controllers").exists()), None)


def is_populated(group: Group, mount: Path = MOUNT) -> bool:
    """Whether there are processes in the group or below it; False where there is no such group any more."""
    try:
        return "populated 1" in (mount / group.path / "cgroup.events").read_text().splitlines()
    except OSError:
        return False


def find(slice_: str, mount: Path = MOUNT) -> Group | None:
    """The slice's control group; None where there is none."""
    root = top(mount)
    if root is None:
        return None
    path = path_of(slice_)
    try:
        number = os.stat(root / path).st_ino
    except OSError:
        return None
    return Group(str((root / path).relative_to(mount)), path.count("/") + 1, number)
