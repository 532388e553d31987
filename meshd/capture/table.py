"""A plan as the text of the nftables table `inet meshd`, which `nft -f` puts in force in one transaction.

    chain output       what processes of this host begin: those captured go on to `captured`, directly or, from the
                       slice, by `from_slice`, whose only rule says in its comment which control group that is: a slice
                       that is made anew is another; what others of this host begin for a meshed port, at an address
                       that is not loopback, goes to the inbound listener
    chain prerouting   what comes from elsewhere for a meshed port
    chain captured     loopback and what is skipped goes on as it is, the rest to the outbound listener

All chains see the first packet of a connection and no other (nat), so counters count connections. Where the proxy has
no listener of that family, what would be led to it is refused: anybody might listen there in its place. The table is
replaced as a whole, so that what is in force is at any time the old one or the new one. Pure: equal plans are equal
texts. What else is in the kernel's rules is never named here.
"""

import dataclasses
import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from meshd.api.names import Address
from meshd.capture.plan import Group, Listener, Network, Plan, Skips

TABLE: Final = "inet meshd"
MARK: Final = "meshd"
"""What the table's comment begins with; the digest of what is in it comes after."""

COUNTERS: Final = {
    "outbound": "connections of meshed processes, led to the proxy",
    "inbound": "connections to meshed ports, led to the proxy",
    "skipped": "connections of meshed processes that skip lists leave alone",
    "passed": "connections that went on in plain text while the proxy was away (failOpen)",
    "refused": "connections refused, for the proxy does not listen by IPv4 or by IPv6",
}
"""Name → what it counts."""

FROM_SLICE: Final = "from_slice"
"""The chain that is in the table when, and only when, the slice is."""

PRIORITY: Final = -100
"""NF_IP_PRI_NAT_DST, where address translation of destinations is done."""

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound
_LOOPBACK = ("127.0.0.1", "::1")
_LOOPBACK_RETURNS = ("ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return")


def render(plan: Plan) -> str:
    """What `nft -f -` is to read: the table as it is to be, whatever it was."""
    return f"table {TABLE}\ndelete table {TABLE}\n{declared(plan)}"


def removal() -> str:
    """The same, for it not to be there; right also where it is not."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def slice_mark(group: Group) -> str:
    """The comment by which it is known that this very group is captured."""
    return f"{MARK} slice {group.id}"


def digest(plan: Plan) -> str:
    """What tells this table from another, in its comment."""
    ids = [str(group.id) for group in (plan.group, *(each for each, _ in plan.by_group)) if group is not None]
    return hashlib.sha256("\n".join([*_body(plan), *ids]).encode()).hexdigest()[:16]


def digests(plan: Plan, *, or_open: bool) -> tuple[str, ...]:
    """Those of the tables that may be in force for it; `or_open`: the one of while the proxy is away is another."""
    return (digest(plan), digest(dataclasses.replace(plan, is_open=True))) if or_open else (digest(plan),)


def declared(plan: Plan) -> str:
    """The table alone."""
    lines = [f'comment "{MARK} {digest(plan)}"', *_body(plan)]
    return "\n".join([f"table {TABLE} {{", *(f"\t{line}" for line in lines), "}", ""])


def _body(plan: Plan) -> list[str]:
    lines = [f"counter {name} {{ }}" for name in COUNTERS]
    lines += _block("chain captured", _captured(plan))
    if plan.group is not None:
        lines += _block(f"chain {FROM_SLICE}", [f'goto captured comment "{slice_mark(plan.group)}"'])
    lines += _block("chain prerouting", _prerouting(plan))
    lines += _block("chain output", _output(plan))
    return lines


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"\t{line}" for line in lines), "}"]


# --- what processes begin -------------------------------------------------------------------------------------------


def _output(plan: Plan) -> Iterator[str]:
    yield f"type nat hook output priority {PRIORITY}; policy accept;"
    yield "meta l4proto != tcp return"
    if plan.exempt:
        yield f"meta skuid {_set(plan.exempt)} return"
    if plan.group is not None:
        yield f"{_socket(plan.group)} goto {FROM_SLICE}"
    if plan.uids:
        yield f"meta skuid {_set(plan.uids)} goto captured"
    if plan.ports:
        yield from _LOOPBACK_RETURNS
        yield from _lead(plan, _meshed_ports(plan), plan.inbound, "inbound")


def _captured(plan: Plan) -> Iterator[str]:
    yield from _LOOPBACK_RETURNS
    if plan.is_open:
        # Chains of this type see what is tracked, and the kernel tracks nothing unless a rule needs it: this one does.
        yield 'meta l4proto tcp ct state new counter name "passed" return'
        return
    for group in _by_family(plan.virtual):
        yield from _lead(plan, f"{_daddr(group)} meta l4proto tcp", plan.outbound, "outbound", _family(group))
    yield from _skipped("", plan.skips)
    for each, skips in plan.by_group:
        yield from _skipped(f"{_socket(each)} ", skips)
    yield from _lead(plan, "meta l4proto tcp", plan.outbound, "outbound")


def _skipped(who: str, skips: Skips) -> Iterator[str]:
    if skips.ports:
        yield f'{who}tcp dport {_set(skips.ports)} counter name "skipped" return'
    for group in _by_family(skips.networks):
        yield f'{who}{_daddr(group)} counter name "skipped" return'


def _socket(group: Group) -> str:
    return f'socket cgroupv2 level {group.level} "{group.path}"'


# --- what comes from elsewhere --------------------------------------------------------------------------------------


def _prerouting(plan: Plan) -> Iterator[str]:
    yield f"type nat hook prerouting priority {PRIORITY}; policy accept;"
    if plan.ports:
        yield from _lead(plan, _meshed_ports(plan), plan.inbound, "inbound", from_here=False)


def _meshed_ports(plan: Plan) -> str:
    return f"fib daddr type local tcp dport {_set(plan.ports)}"


# --- where it is led ------------------------------------------------------------------------------------------------


def _lead(
    plan: Plan, match: str, to: Listener, counter: str, only: int | None = None, *, from_here: bool = True
) -> Iterator[str]:
    """What matches goes to the listener of its family; `only` is the one that the match leaves."""
    if plan.is_open:
        yield f'{match} counter name "passed" return'
        return
    for version, address in ((4, to.v4), (6, to.v6)):
        if only not in (None, version):
            continue
        family = f"meta nfproto ipv{version} " if only is None else ""
        how = None if address is None else _translation(version, address, from_here)
        if how is None:
            yield f'{family}{match} counter name "refused" reject with tcp reset'
        else:
            yield f'{family}{match} counter name "{counter}" {how}'


def _translation(version: int, address: Address, from_here: bool) -> str | None:
    """`redirect` leads to the loopback address what begins here, and to the interface's what comes in by one, from
    where loopback cannot be reached."""
    if address.host in _ANY or (from_here and address.host in _LOOPBACK):
        return f"redirect to :{address.port}"
    if address.host in _LOOPBACK:
        return None
    return f"dnat {'ip' if version == 4 else 'ip6'} to {address}"


# --- sets -----------------------------------------------------------------------------------------------------------


def _set(numbers: Iterable[int]) -> str:
    return f"{{ {', '.join(map(str, sorted(set(numbers))))} }}"


def _by_family(all_of_them: Iterable[Network]) -> Iterator[list[Network]]:
    """Those of IPv4 and those of IPv6, without those that are part of others."""
    every = list(all_of_them)
    v4 = [each for each in every if isinstance(each, ipaddress.IPv4Network)]
    v6 = [each for each in every if isinstance(each, ipaddress.IPv6Network)]
    if v4:
        yield list(ipaddress.collapse_addresses(v4))
    if v6:
        yield list(ipaddress.collapse_addresses(v6))


def _family(group: Sequence[Network]) -> int:
    return group[0].version


def _daddr(group: Sequence[Network]) -> str:
    keyword = "ip" if _family(group) == 4 else "ip6"
    return f"{keyword} daddr {{ {', '.join(map(str, group))} }}"
