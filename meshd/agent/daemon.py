"""What a long-running process owes its host: signals and an orderly end.

SIGTERM, SIGINT    end in order
SIGHUP             read the configuration again; what is not good is refused and said, and nothing else changes

A service manager is told of all of it (`meshd.api.notify`).
"""

import asyncio
import logging
import signal
from collections.abc import Callable

from meshd.agent.agent import Agent
from meshd.api.notify import keep_watchdog, notify, reloading
from meshd.api.tasks import Tasks

log = logging.getLogger(__name__)


def heed_signals() -> asyncio.Event:
    """What is set when the process is to end. Called before anything is made that an abrupt end would leave behind, the
    socket above all; SIGHUP means nothing until there is something to read again."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def terminate(number: signal.Signals) -> None:
        log.info("%s: ending", number.name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminate, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return ended


async def serve(agent: Agent, reload: Callable[[], None], ended: asyncio.Event) -> None:
    """Run agent until `ended` is set."""

    def reload_and_tell() -> None:
        reloading()
        reload()
        notify("READY=1")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_and_tell)
    told = Tasks("service manager")
    told.start(keep_watchdog(), "watchdog")
    try:
        await agent.start()
        notify("READY=1")
        await ended.wait()
    finally:
        notify("STOPPING=1")
        await agent.stop()
        await told.cancel()
