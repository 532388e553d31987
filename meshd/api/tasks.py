"""Named background tasks with an owner, the only way a task is started here.

asyncio keeps no strong reference to a task and reports its error when it happens to be collected. `Tasks` keeps the
reference, logs the error when it happens, and ends what is left when its owner does.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner; `cancel` ends them all and returns when they have ended."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run work in the background; an error in it is logged under OWNER/name."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = loop.create_task(work, name=f"{self._owner}/{name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error)

    async def cancel(self) -> None:
        """End what is still running. Calling it from one of the tasks leaves that one to end by itself."""
        others = [task for task in self._running if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
