"""What a long-running process owes its host: signals and an orderly end.

SIGTERM, SIGINT    end in order
SIGHUP             read the configuration again; what is not good is refused and said, and nothing else changes
"""

import asyncio
import logging
import signal
from collections.abc import Callable

from meshd.agent.agent import Agent

log = logging.getLogger(__name__)


async def serve(agent: Agent, reload: Callable[[], None], ended: asyncio.Event) -> None:
    """Run agent until it is told to end, by a signal or by `ended`."""
    loop = asyncio.get_running_loop()

    def terminate(number: signal.Signals) -> None:
        log.info("%s: ending", number.name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminate, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await agent.start()
        await ended.wait()
    finally:
        await agent.stop()
