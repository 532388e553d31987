"""What is led where in a pod, as one value: pure, and the same for whichever program is to put it in force."""

from dataclasses import dataclass
from typing import Final

from k8s.values import Range, joined
from meshd.capture.plan import Network

ALWAYS_SKIPPED_IN: Final = (4190,)
"""Linkerd's port for tap; a probe or a scraper that knows it gets what is there."""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """What comes from elsewhere goes to `inbound_port`, what processes of the pod begin to `outbound_port`; but not
    what the proxy's user begins, nor what stays on loopback, nor what is skipped. What comes for `admin_port`
    is not led anywhere."""

    inbound_port: int = 4143
    outbound_port: int = 4140
    admin_port: int = 4191
    proxy_uid: int = 2102
    skip_inbound: tuple[Range, ...] = ()
    skip_outbound: tuple[Range, ...] = ()
    skip_subnets: tuple[Network, ...] = ()

    @property
    def left_inbound(self) -> tuple[Range, ...]:
        """All ports at which what comes in is left alone, in order, none of them twice."""
        always = (*ALWAYS_SKIPPED_IN, self.admin_port)
        return joined((*self.skip_inbound, *((port, port) for port in always)))

    @property
    def left_outbound(self) -> tuple[Range, ...]:
        return joined(self.skip_outbound)

    def subnets(self, version: int) -> tuple[Network, ...]:
        """Those of IPv4 or of IPv6."""
        return tuple(each for each in self.skip_subnets if each.version == version)
