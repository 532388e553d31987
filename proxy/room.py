"""How many connections there may be: fewer than this process has descriptors, so that it never runs out of them.

Every connection is a descriptor, those to endpoints and those whose TLS handshake is under way too, so descriptors are
what is counted: by the kernel once a second, and by what was accepted since. When they are used up callers are not
accepted for a while (`proxy.listeners`): they wait in the kernel, and get their turn when others have left.
"""

import os
import resource
from functools import cache
from typing import Final

SHARE: Final = 0.9
"""Of the descriptors this process may have: the others are for endpoints, files, and whoever asks for the metrics."""
MOST: Final = 100_000
"""However many descriptors there are: Linkerd's ceiling of requests in flight."""
ROOM_AGAIN: Final = 0.95
"""So full, or less, it must be before callers are accepted again."""


class Room:
    """What is used of the descriptors. `limit` is how many may be."""

    def __init__(self) -> None:
        self.limit = self.most()
        self._used = 0

    @staticmethod
    def most() -> int:
        """As many as there may be unless less is asked for."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return MOST if soft == resource.RLIM_INFINITY else min(MOST, int(soft * SHARE))

    def set_limit(self, wanted: int) -> None:
        """Have no more than `wanted`; 0: as many as may be."""
        self.limit = min(wanted, self.most()) if wanted else self.most()
        self.look()

    def look(self) -> int:
        """Count them."""
        self._used = used_descriptors()
        return self._used

    def take(self) -> bool:
        """One more was accepted; whether there was room for it."""
        self._used += 1
        if 2 * self._used <= self.limit:
            return True  # of those opened to endpoints since the last count there are not as many
        return (self._used <= self.limit and not _counted_by_stat()) or self.look() <= self.limit

    @property
    def again(self) -> bool:
        """Whether, of what was counted last, enough is free."""
        return self._used <= self.limit * ROOM_AGAIN


def used_descriptors() -> int:
    """Descriptors that this process has open: a number since Linux 6.2, a listing before (proc_pid_fd(5))."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


@cache
def _counted_by_stat() -> bool:
    return os.stat("/proc/self/fd").st_size > 0
