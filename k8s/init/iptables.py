"""A pod's plan as what `iptables-restore --noflush` reads, for IPv4 or IPv6: the table `nat` in one transaction.

Chains of our own hold the rules, so that a second run replaces them; `hooked` are the chains that the kernel's own lead
to already, which would else do so twice.
"""

from collections.abc import Collection, Iterator
from typing import Final

from k8s.init.plan import PodPlan
from k8s.values import Range

HOOKS: Final = {"PREROUTING": "MESHD_INBOUND", "OUTPUT": "MESHD_OUTBOUND"}
"""The kernel's chain → ours."""


def render(plan: PodPlan, version: int, hooked: Collection[str] = (), *, looks_up: bool = True) -> str:
    """What is to be read for IPv4 (4) or IPv6 (6). `hooked` are keys of HOOKS; `looks_up` as in `nftables.render`."""
    lines = [
        "*nat",
        *(f":{ours} - [0:0]" for ours in HOOKS.values()),
        *(f"-A {kernels} -j {ours}" for kernels, ours in HOOKS.items() if kernels not in hooked),
        *(f"-A MESHD_INBOUND {rule}" for rule in _inbound(plan, looks_up)),
        *(f"-A MESHD_OUTBOUND {rule}" for rule in _outbound(plan, version)),
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def _inbound(plan: PodPlan, looks_up: bool) -> Iterator[str]:
    yield "-i lo -j RETURN"
    yield from _ports(plan.left_inbound)
    heard = "-m socket --nowildcard " if looks_up else ""
    yield f"-p tcp {heard}-j REDIRECT --to-ports {plan.inbound_port}"


def _outbound(plan: PodPlan, version: int) -> Iterator[str]:
    yield f"-m owner --uid-owner {plan.proxy_uid} -j RETURN"
    yield "-o lo -j RETURN"
    yield from _ports(plan.left_outbound)
    for network in plan.subnets(version):
        yield f"-d {network} -j RETURN"
    yield f"-p tcp -j REDIRECT --to-ports {plan.outbound_port}"


def _ports(ranges: tuple[Range, ...]) -> Iterator[str]:
    """A rule each: `multiport` has room for fifteen."""
    for low, high in ranges:
        yield f"-p tcp --dport {low if low == high else f'{low}:{high}'} -j RETURN"
