"""The first process of a container, which the kernel spares what it does not handle: it ends when it is told, however
early. Here a library takes its time to be loaded.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.meshed import MESHD, children
from tests.support.waiting import wait_until

PROGRAMS = {
    "meshd-proxy": [sys.executable, "-P", "-m", "proxy.main", "--control"],
    "meshd": [*MESHD, "agent", "--config"],
}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of process numbers: needs root")
@pytest.mark.peer("unshare")
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_it_ends_while_it_starts(program: list[str], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "uvloop.py").write_text(f"open({str(fifo)!r})")
    argv = ["unshare", "--pid", "--fork", "--kill-child", *program, str(tmp_path / "nothing")]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(tmp_path)}) as unshare:
        try:
            (first,) = wait_until(lambda: children(unshare.pid), "the first process")
            wait_until(lambda: _waits(first), "it loads what it needs")
            os.kill(first, signal.SIGTERM)
            assert unshare.wait(60) == 128 + signal.SIGTERM
        finally:
            unshare.kill()


def _waits(pid: int) -> bool:
    """Whether it opens a FIFO that nobody writes to."""
    return Path(f"/proc/{pid}/wchan").read_text() == "wait_for_partner"
