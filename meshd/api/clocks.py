"""What a certificate that was just signed says of this host's clock: the CA's clock is in it.

A certificate is good from a minute before it is made. The agent says so of hosts (`meshd.agent.clock`, which has more
to go by), the proxy of the node that it is on.
"""

from typing import Final

from meshd.api.control import Certificate

CLOCKS_APART_S: Final = 300.0
"""A new certificate that has been good for longer than this was issued by another clock."""


def clocks_apart(issued: Certificate, now: float) -> str:
    """What a certificate that was issued just now says of the time `now`; empty when it is nothing bad."""
    if issued.not_before > now:
        return f"this host's clock is at least {issued.not_before - now:.0f} s behind the CA's: set the clock"
    if now - issued.not_before > CLOCKS_APART_S:
        return f"this host's clock is some {now - issued.not_before:.0f} s ahead of the CA's: set the clock"
    return ""
