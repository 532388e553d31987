"""A pod's plan as the text of the nftables table `inet meshd`, for IPv4 and IPv6 in one transaction.

    chain inbound    what comes in by an interface
    chain outbound   what processes of the pod begin

A connection to a port where nobody listens is left to the kernel (`socket`), which refuses it: else it would be made,
with the proxy, and a probe that only connects would find well what is gone. Kernels that cannot look it up do without.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from k8s.init.plan import PodPlan
from k8s.values import Range
from meshd.capture.plan import Network
from meshd.capture.table import PRIORITY, TABLE, removal


def render(plan: PodPlan, *, looks_up: bool = True) -> str:
    """What `nft -f -` is to read: the table as it is to be, whatever it was. `looks_up`: the kernel is to see whether
    somebody listens."""
    lines = [
        *_block("chain inbound", _inbound(plan, looks_up)),
        *_block("chain outbound", _outbound(plan)),
    ]
    return removal() + "\n".join([f"table {TABLE} {{", *(f"\t{line}" for line in lines), "}", ""])


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"\t{line}" for line in lines), "}"]


def _inbound(plan: PodPlan, looks_up: bool) -> Iterator[str]:
    yield f"type nat hook prerouting priority {PRIORITY}; policy accept;"
    yield 'iifname "lo" return'
    yield f"tcp dport {_set(plan.left_inbound)} return"
    heard = "socket wildcard { 0, 1 } " if looks_up else ""
    yield f"{heard}meta l4proto tcp redirect to :{plan.inbound_port}"


def _outbound(plan: PodPlan) -> Iterator[str]:
    yield f"type nat hook output priority {PRIORITY}; policy accept;"
    yield f"meta skuid {plan.proxy_uid} return"
    yield 'oifname "lo" return'
    if plan.left_outbound:
        yield f"tcp dport {_set(plan.left_outbound)} return"
    for version, keyword in ((4, "ip"), (6, "ip6")):
        if networks := plan.subnets(version):
            yield f"{keyword} daddr {{ {', '.join(map(str, _collapsed(networks)))} }} return"
    yield f"meta l4proto tcp redirect to :{plan.outbound_port}"


def _set(ranges: Iterable[Range]) -> str:
    return f"{{ {', '.join(str(low) if low == high else f'{low}-{high}' for low, high in ranges)} }}"


def _collapsed(networks: tuple[Network, ...]) -> Iterator[Network]:
    """Without those that are part of others: a set has each address once."""
    v4 = [each for each in networks if isinstance(each, ipaddress.IPv4Network)]
    v6 = [each for each in networks if isinstance(each, ipaddress.IPv6Network)]
    yield from ipaddress.collapse_addresses(v4)
    yield from ipaddress.collapse_addresses(v6)
