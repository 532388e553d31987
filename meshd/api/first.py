"""The first process of a container, which is spared every signal that it does not handle (pid_namespaces(7)): told to
end while it starts, it would go on until it is killed, and its pod be waited for through all of its grace period.
"""

import os
import signal
import sys
from types import FrameType


def heed_as_first() -> None:
    """End by SIGTERM and SIGINT until there is more to it than that; where this process is one like any other, it does
    so by itself."""
    if os.getpid() == 1:
        end_in_order()


def end_in_order() -> None:
    """From now on end by SIGTERM and SIGINT as by `sys.exit`, whichever process this is: what is left to do is done."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
