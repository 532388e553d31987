"""How meshd's own programs are started: with the interpreter, and from the environment, that run this one."""

import shutil
import sys
from pathlib import Path

from meshd.api.problems import Problem

PYTHON = (sys.executable, "-P")
"""-P: the directory that the user happens to be in is not searched for modules."""

MESHD = (*PYTHON, "-m", "meshd.cli")


def proxy() -> str:
    """The path of meshd-proxy. Problem when it is not installed."""
    beside = Path(sys.executable).parent / "meshd-proxy"
    found = str(beside) if beside.is_file() else shutil.which("meshd-proxy")
    if found is None:
        raise Problem(f"meshd-proxy is neither at {beside} nor in PATH: install meshd again")
    return found
