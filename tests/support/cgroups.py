"""Cgroups of the test's own (version 2), below a slice that is there while the test is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

PLACES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


@contextmanager
def cgroups(*names: str) -> Iterator[list[Path]]:
    """The directory of a cgroup for each name. Skips the test where none can be made."""
    top = next((each for each in PLACES if (each / "cgroup.controllers").exists()), None)
    if top is None:
        pytest.skip("no cgroups of version 2 here")
    slice_ = top / f"meshd-test-{os.getpid()}.slice"
    made = [slice_ / name for name in names]
    try:
        for group in made:
            group.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        yield made
    finally:
        for group in made:
            wait_until(lambda group=group: not (group / "cgroup.procs").read_text(), "the cgroup is empty")  # type: ignore[misc]
            group.rmdir()
        slice_.rmdir()


def inside(group: Path, *argv: str) -> list[str]:
    """The command line that runs argv in the cgroup."""
    return ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *argv]
