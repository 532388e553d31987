"""When the CA is asked for what a process is given: one asks for many, and after a failure nobody does for a while."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from meshd.agent.certificates import NotSigned
from meshd.api.backoff import Backoff
from meshd.api.clocks import rest_s

RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0


@dataclass(slots=True)
class Standing:
    """Of one thing: until `due_at` nothing else is asked for, be it there or not; `error` is why there is none, or no
    newer one. Who asks holds `lock`: of many processes that come at once, one has the CA asked. `is_paused`: the last
    that was got was due at once, so that another is not asked for the sooner whatever is wrong with it."""

    error: NotSigned | None = None
    due_at: float = 0.0
    is_paused: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_MIN_S, RETRY_MAX_S))

    def failed(self, error: NotSigned, now: float) -> None:
        self.error, self.due_at = error, now + self._backoff.next_s()

    def got(self, due_at: float, ends_at: float, now: float) -> None:
        """What is due at once, since the clocks are apart, is not asked for again and again either; but before it has
        ended, where it has not."""
        self.error, self.due_at, self.is_paused = None, due_at, due_at <= now
        if not self.is_paused:
            self._backoff.reset()
        else:
            self.due_at = now + rest_s(self._backoff.next_s(), ends_at, now)
