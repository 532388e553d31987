"""What a process and its children cost: memory and processor time, from /proc (proc(5))."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree. Pages that its processes share are counted in each, as `ps` would."""
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in tree(pid)) * _PAGE_BYTES


def cpu_s(pid: int) -> float:
    """Processor time, user and system, that the tree's running processes have used."""
    return sum(_ticks(each) for each in tree(pid)) / _TICKS_PER_S


def _ticks(pid: int) -> int:
    # the second field is the program's name in parentheses, and may itself have spaces and parentheses
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def others_s() -> float:
    """Processor time, user, system and stolen, that this machine has spent on neither this process nor a descendant of
    it, ended ones included, in all and since some moment: of use is how it grows."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, stolen = (int(fields[at]) for at in (1, 2, 3, 8))
    ended = os.times()
    ours = cpu_s(os.getpid()) + ended.children_user + ended.children_system
    return (user + nice + system + stolen) / _TICKS_PER_S - ours
