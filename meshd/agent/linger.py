"""When an embedded agent has outlived its use.

It is started by the first `meshd run` of a user and shared by those that follow, so it stays for a while after the last
has gone, and for as long after its own start for the first to arrive.
"""

import asyncio
from collections.abc import Callable

from meshd.agent.registry import Registry


class Linger:
    """Calls `expired` once no workload has been registered for linger_s seconds."""

    def __init__(self, registry: Registry, linger_s: float, expired: Callable[[], None]) -> None:
        self._registry, self._linger_s, self._expired = registry, linger_s, expired
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        registry.subscribe(self._look)
        self._look()

    def _look(self) -> None:
        if self._registry.registered:
            self.cancel()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger_s, self._expired)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
