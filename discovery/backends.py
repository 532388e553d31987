"""What a back end's settings have in common: each is a type beside its back end, and makes its registry.

A new back end is one file with the two of them, and one line: its field in `meshd.agent.settings.Discovery`.
"""

from typing import Any, NamedTuple, Protocol

from discovery.registry import Registry


class Place(NamedTuple):
    """Where the agent is that asks: its host's name and zone, the trust domain of identities, and how this back end is
    called."""

    name: str
    trust_domain: str
    node: str
    zone: str


class RemoteSettings(Protocol):
    """The settings of a back end across the network."""

    def registry(self, place: Place) -> Registry[Any]:
        """The registry that they describe; what it needs is imported here, for agents that use it alone."""
