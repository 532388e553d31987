"""What travels: bytes that both ends can make from a number, and their checksum."""

import random
import zlib
from functools import cache
from typing import Final

MAX_BYTES: Final = 1 << 20
PATTERN: Final = random.Random(7).randbytes(MAX_BYTES)

SIZES: Final = (1, 2, 100, 1_000, 1_000, 1_000, 4_000, 16_384, 60_000, 65_536, 65_537, 300_000, MAX_BYTES)
"""Bytes of bodies: around every bound on their way, small ones more often."""


def body(size: int) -> bytes:
    """`size` bytes, the same for the same size."""
    return PATTERN[:size]


@cache
def summed(size: int) -> int:
    """The checksum of `body(size)`."""
    return zlib.crc32(body(size))
