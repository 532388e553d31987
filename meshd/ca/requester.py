"""Who asks the CA for a certificate, as far as that was proven, and what they may have for it.

What proves it is `meshd.ca.attest`; that what was granted is kept to is a rule of `meshd.ca.rules`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshd.api.names import Identity, WorkloadName
from meshd.ca.patterns import matches_node, matches_workload
from meshd.ca.records import Entry, JoinToken


class Grant(Protocol):
    """What someone may have certificates for."""

    def __call__(self, identity: Identity) -> str:
        """Why identity is not theirs to have; empty when it is. It is of the CA's trust domain. Unreachable when that
        cannot be looked up now."""


@dataclass(frozen=True, slots=True)
class Requester:
    """`name` says by what it is known; `node` and `serial` are of the host's certificate that it showed; `token` is the
    token that it joins with. What it proved itself with is good until `until` (seconds since the epoch)."""

    name: str
    grant: Grant
    address: str = ""
    node: str = ""
    serial: str = ""
    token: JoinToken | None = None
    until: float = math.inf

    def __str__(self) -> str:
        return f"{self.name} at {self.address}" if self.address else self.name


@dataclass(frozen=True, slots=True)
class AnyWorkload:
    """For what is shared by all agents, and says of none of them which host it is on."""

    what: str

    def __call__(self, identity: Identity) -> str:
        if identity.host:
            return f"{identity} is a host's identity, and {self.what} stands for workloads only"
        return ""


@dataclass(frozen=True, slots=True)
class OfNode:
    """For a host that proved which it is: itself, and the workloads that an entry lets it have. `entries_of` looks the
    entries of a node up, in the thread that asks for what is granted: it may block."""

    node: str
    entries_of: Callable[[str], Sequence[Entry]]

    def __call__(self, identity: Identity) -> str:
        if identity.host:
            return "" if identity.host == self.node else f"{identity} is another node's, and this is {self.node}"
        if any(
            matches_node(entry.node, self.node) and matches_workload(entry.workload, identity.workload)
            for entry in self.entries_of(self.node)
        ):
            return ""
        return (
            f"no entry lets the node {self.node} have {identity.workload}: `meshd ca entry add --node {self.node} "
            f"--workload {identity.workload}` of the CA would"
        )


@dataclass(frozen=True, slots=True)
class Joining:
    """For the holder of a join token: the identity of a node, and not yet that of any workload. Whether the token is
    still good is asked where it is used (`Store.join`)."""

    token: JoinToken

    def __call__(self, identity: Identity) -> str:
        if not identity.host:
            return f"{identity} is a workload's identity, and a join token is for joining as a node"
        if not matches_node(self.token.node, identity.host):
            return f"the join token {self.token.id} is for the node {self.token.node}, not for {identity.host}"
        return ""


@dataclass(frozen=True, slots=True)
class OneWorkload:
    """For what is one workload itself."""

    what: str
    workload: WorkloadName

    def __call__(self, identity: Identity) -> str:
        if identity.host or identity.workload != self.workload:
            return f"{identity} is not {self.what}'s, which is {self.workload}"
        return ""


ITSELF = Requester("itself", AnyWorkload("the CA"))
"""The CA, for its own server."""

LOCAL = Requester("local", AnyWorkload("an agent with a CA of its own"))
"""The agent in whose process the CA is."""
