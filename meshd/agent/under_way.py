"""What one connection has under way besides its watches: work of one kind, and no more at a time than a bound."""

from collections.abc import Callable, Coroutine
from typing import Any

from meshd.agent.registry import Unacceptable
from meshd.api.tasks import Tasks


class UnderWay:
    """At most `most` of it, run by `tasks`; `full` is what is said where there is more."""

    def __init__(self, tasks: Tasks, most: int, full: str) -> None:
        self._tasks, self._most, self._full = tasks, most, full
        self._count = 0

    def start(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Unacceptable, with nothing begun, where the bound is reached."""
        if self._count >= self._most:
            raise Unacceptable(self._full, retry=True)
        self._count += 1
        self._tasks.start(self._counted(work), name)

    async def _counted(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        finally:
            self._count -= 1
