"""The seam of a registry across the network: all that a back end like Consul, Kubernetes or DNS has to be.

What such back ends have in common is no affair of theirs: `discovery.following` watches each service once however many
ask, begins again after failures, keeps what was last good, and makes a `Source` of them.
"""

from collections.abc import AsyncGenerator
from typing import Generic, NamedTuple, Protocol, TypeVar

from discovery.names import Authority
from meshd.api.endpoints import EndpointSet

Key = TypeVar("Key", bound=tuple[object, ...])
"""One service as a registry sees it: a NamedTuple of strings and integers, which can be kept in a file."""

MAX_ENDPOINTS = 20_000
"""Endpoints of one service; a registry that says more is not believed."""


class Located(NamedTuple, Generic[Key]):
    """The service at an address. `whole`: the address is the service's own, a virtual one, and not one endpoint's."""

    key: Key
    whole: bool = False


class Away(Exception):
    """The registry cannot be read now, or said what cannot be believed. The message is for operators, and has no
    secrets in it."""


class Denied(Away):
    """The registry is there, and does not let this agent read it, or this of it."""


class Registry(Protocol[Key]):
    """A registry. What it says is parsed strictly; every call has a time-out and a bound on what it takes in."""

    @property
    def name(self) -> str:
        """How operators know it, as in `consul`."""

    @property
    def key(self) -> type[Key]:
        """The type of its keys."""

    def claim(self, authority: Authority) -> Key | None:
        """Which of its services authority names, by its form alone; None: a form that is not its own. The host is no IP
        address."""

    async def locate(self, address: str, port: int) -> Located[Key] | None:
        """The service that has an endpoint, or itself, at an IP address and port; None for none. Away. An endpoint that
        is not ready counts."""

    def follow(self, key: Key) -> AsyncGenerator[EndpointSet | None, None]:
        """What the registry says of a service, whole, each time that it was read, whether or not it differs; None: no
        such service. Ends by Away, and is begun again later."""

    async def probe(self) -> None:
        """Whether the registry can be read at all: Away if not."""

    async def close(self) -> None:
        """Give up what it holds."""
