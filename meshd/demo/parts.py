"""The demo's processes: each in a session of its own, so that Ctrl-C is heard here alone, with a log that is shown when
it fails, and ended by the kernel should the demo be killed."""

import os
from collections.abc import Sequence
from pathlib import Path

from meshd.api.problems import Problem
from meshd.run import logs
from meshd.run.child import Child, describe

END_WITHIN_S = 8.0


class Part:
    """One process, from `start` to `stop`."""

    def __init__(self, name: str, child: Child, log: Path) -> None:
        self.name = name
        self._child = child
        self._log = log

    @classmethod
    def start(cls, name: str, argv: Sequence[str], directory: Path) -> "Part":
        log = directory / f"{name.replace(' ', '-')}.log"
        with logs.open_log(log) as output:
            return cls(name, Child.spawn(argv, environment(), output=output, new_session=True, cwd=directory), log)

    def check(self) -> None:
        """Problem when it has ended, which none should by itself."""
        if self._child.ended.done():
            raise self.failed(describe(self._child.ended.result()))

    def failed(self, why: str) -> Problem:
        """It did not do as it should: what to tell."""
        return Problem(f"{self.name} failed ({why}); its log ends with\n{logs.tail(self._log)}")

    async def finish(self) -> None:
        """Wait for a process that is to end by itself. Problem when it does not end well."""
        if (status := await self._child.ended) != 0:
            raise self.failed(describe(status))

    async def stop(self) -> None:
        await self._child.stop(END_WITHIN_S)


def environment() -> dict[str, str]:
    """Ours, without what would lead a part out of the demo: another agent's socket, another proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MESHD_") and not name.lower().endswith("_proxy")
    }
