"""The machine that the figures come from, since they mean nothing without it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, cores that this run may use, memory, kernel, interpreter."""

    processor: str
    cores: int
    memory_gib: int
    kernel: str
    python: str

    @classmethod
    def here(cls) -> "Machine":
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in cpu if line.startswith("model name")]
        return cls(
            processor=models[0] if models else platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)),
            kernel=platform.release(),
            python=platform.python_version(),
        )

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB, Linux {self.kernel}, CPython {self.python}"
        )
