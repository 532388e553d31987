"""A network of the test's own: a namespace with a bridge, to which hosts are plugged. It has no way out."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.peers import path

BRIDGE: Final = "br0"
NOBODY: Final = "10.77.0.254"
"""The router that hosts have a route by, and that is not there."""
_numbers = itertools.count()


@contextmanager
def network() -> Iterator[Path]:
    """The file that stands for the namespace (ip-netns(8)). It is gone with the last process in it."""
    name = f"meshd-test-{os.getpid()}-{next(_numbers)}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", name, "link", "set", BRIDGE, "up")
        yield Path("/run/netns", name)
    finally:
        ip("netns", "del", name)


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run([path("ip"), *arguments], check=True, capture_output=True, timeout=30)
