"""What a certificate that was just signed says of this host's clock, for the CA's is in it; and what becomes of one by
clocks that are apart: whoever renews one is neither to show it before it is good, nor to ask for the next at once.

A certificate is good from a minute before it is made. The agent says so of hosts (`meshd.agent.clock`, which has more
to go by), the proxy of the node that it is on.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from meshd.api.control import Certificate

CLOCKS_APART_S: Final = 300.0
"""A new certificate that has been good for longer than this was issued by another clock."""

LOOK_AGAIN_S: Final = 30.0
"""At the clock, which somebody may have set."""


def clocks_apart(issued: Certificate, now: float) -> str:
    """What a certificate that was issued just now says of the time `now`; empty when it is nothing bad."""
    if issued.not_before > now:
        return f"this host's clock is at least {issued.not_before - now:.0f} s behind the CA's: set the clock"
    if now - issued.not_before > CLOCKS_APART_S:
        return f"this host's clock is some {now - issued.not_before:.0f} s ahead of the CA's: set the clock"
    return ""


def rest_s(wanted_s: float, ends_at: float, now: float, least_s: float = 0.0) -> float:
    """How long to use a certificate that is due as soon as it is there, by this host's clock or since the CA's is
    behind what it asks for: the next would be so too. Not until it has ended, where it has not."""
    left_s = ends_at - now
    return max(least_s, min(wanted_s, left_s / 3)) if left_s > 0 else wanted_s


async def until_good(begins_at: float, serves_until: Callable[[], float], clock: Callable[[], float]) -> None:
    """Have the certificate in use serve until the next, which begins then, is good by this clock, or itself is over:
    the CA's clock or this one is wrong, and the peers' may be like either. `serves_until` is asked anew whenever the
    clock is; 0 where none is in use, or it is not to serve."""
    while (left_s := min(begins_at, serves_until()) - clock()) > 0:
        await asyncio.sleep(min(left_s, LOOK_AGAIN_S))
