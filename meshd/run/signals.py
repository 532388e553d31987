"""Which signals `meshd run` passes on to its command.

What a terminal sends (Ctrl-C, Ctrl-\\) goes to every process of the foreground group, and the command is one of them:
passing it on would deliver it twice. Whether a signal came from a terminal cannot be asked of the loop, but whether one
could have sent it can: only the foreground group of our controlling terminal gets any.
"""

import asyncio
import os
import signal
from collections.abc import Callable

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_FROM_TERMINALS = (signal.SIGINT, signal.SIGQUIT)


def handle(receive: Callable[[int], None]) -> None:
    """Call `receive` with each of PASSED_ON that arrives, from now until the process ends.

    What whoever started us had ignored (nohup) stays ignored, for us and for the command.
    """
    loop = asyncio.get_running_loop()
    for signum in PASSED_ON:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            loop.add_signal_handler(signum, receive, signum)


def came_from_terminal(signum: int) -> bool:
    """Whether the command has had this signal already, from the terminal that we share."""
    if signum not in _FROM_TERMINALS:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
