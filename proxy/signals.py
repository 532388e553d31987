"""What the process that stands for a whole proxy is told by signals: one alone (`proxy.alone`), or the master of
workers (`proxy.workers.master`)."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from meshd.api.tasks import Tasks


def heed(
    tasks: Tasks,
    terminate: Callable[[], None],
    reload: Callable[[], Coroutine[Any, Any, None]],
    hand_over: Callable[[], None],
) -> None:
    """SIGTERM and SIGINT terminate, SIGHUP reloads, SIGUSR2 hands over to another generation."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminate)
    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.start(reload(), "reload"))
    loop.add_signal_handler(signal.SIGUSR2, hand_over)
