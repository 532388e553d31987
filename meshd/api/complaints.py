"""Log lines that any peer can cause, and so could cause without end: a `Dam` lets through a burst, then one line in so
many seconds, and says how many it left out.

    complaints = logging.getLogger(__name__)
    complaints.addFilter(Dam())
"""

import logging
import time
from collections.abc import Callable

BURST = 50
EVERY_S = 2.0


class Dam(logging.Filter):
    """A token bucket: BURST lines at once, and one more for each EVERY_S seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._room = float(BURST)
        self._looked_at = clock()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._room = min(self._room + (now - self._looked_at) / EVERY_S, BURST)
        self._looked_at = now
        if self._room < 1:
            self._left_out += 1
            return False
        self._room -= 1
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} such lines were left out)", ()
            self._left_out = 0
        return True
