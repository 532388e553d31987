"""What the service manager is told of a start: READY=1 when the proxy is ready, or else soon.

Units are ordered after the proxy, so that they end before it does; one that waited until it is ready would wait for
ever where there is no CA. So after `PATIENCE_S` the manager hears READY=1 too, and in STATUS what is missing, which
`systemctl status` shows; who needs more than a proxy that runs asks its /ready, as `meshd capture wait` does. For a
generation that follows another there is no such patience: the one before goes on until it is ready.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from meshd.api.notify import notify

PATIENCE_S: Final = 10.0
MAX_STATUS: Final = 500


class Starting:
    """`waiting_for` says what is missing. Begun with `begin`, over with `ready` or `end`."""

    def __init__(self, waiting_for: Callable[[], Iterable[str]]) -> None:
        self._waiting_for = waiting_for
        self._impatience: asyncio.TimerHandle | None = None
        self._told = False

    def begin(self) -> None:
        """The process runs, and is nobody's successor."""
        self._impatience = asyncio.get_running_loop().call_later(PATIENCE_S, self._tell)

    def _tell(self) -> None:
        self._told = True
        missing = " ".join(", ".join(self._waiting_for()).split())
        notify("READY=1", f"STATUS=not ready yet: waiting for {missing}"[:MAX_STATUS])

    def ready(self) -> None:
        """All is there."""
        self.end()
        notify("READY=1", *(("STATUS=ready",) if self._told else ()))

    def end(self) -> None:
        """Nothing more is to be said of the start."""
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
