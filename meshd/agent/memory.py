"""Which workloads were announced when the agent last ran: all that it remembers.

An agent that starts again knows of no workload until `meshd run` and the proxies are back. To tell callers that there
is no such service would send them out of the mesh for a moment, so for the workloads remembered here it says nothing
yet (`meshd.agent.local`), and callers go on with what they know. After a boot nobody knows anything, and nothing is
remembered.
"""

import logging
from collections.abc import Set
from pathlib import Path

import msgspec

from meshd.api.names import InvalidName, WorkloadName

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Kept(msgspec.Struct, frozen=True):
    """The file: workloads as NAMESPACE/NAME, and the boot they ran in."""

    boot: str
    workloads: tuple[str, ...]


class Memory:
    """A list of workloads in `file`, read once and written when it changes. It is a help, not a need: that it cannot be
    read or written is logged, and no more."""

    def __init__(self, file: Path, boot: str = "") -> None:
        """`boot` names the machine's present boot; the kernel's own name for it unless given."""
        self._file = file
        self._boot = boot or BOOT_ID.read_text(encoding="ascii").strip()
        self._kept: Set[WorkloadName] | None = None

    def recall(self) -> frozenset[WorkloadName]:
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            workloads = frozenset(map(WorkloadName.parse, kept.workloads))
        except FileNotFoundError:
            return frozenset()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, InvalidName) as error:
            log.warning("%s: what was announced before is not known: %s", self._file, error)
            return frozenset()
        return workloads if kept.boot == self._boot else frozenset()

    def keep(self, workloads: Set[WorkloadName]) -> None:
        if workloads == self._kept:
            return
        self._kept = frozenset(workloads)
        beside = self._file.with_suffix(".new")
        try:
            beside.write_bytes(msgspec.json.encode(_Kept(self._boot, tuple(sorted(map(str, workloads))))))
            beside.replace(self._file)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)
