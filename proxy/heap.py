"""The C library's heap, told how a proxy uses it (mallopt(3)).

What is read from a socket is an object of up to 256 KiB that is freed a moment later. Left to itself glibc gives the
end of its heap back to the kernel each time, and asks for it again: page faults were a third of what a large body cost.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

KEPT_BYTES: Final = 4 << 20
"""Free memory at the heap's end that is kept: what a few reads and writes of the largest kind take."""
MAPPED_BYTES: Final = 1 << 20
"""What is larger gets pages of its own, and gives them back: nothing that is read or written at a time."""


def keep() -> None:
    """Keep what is freed for what is read next. Does nothing where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def give_back() -> None:
    """Give back what starting has used and is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
