"""What an agent tells a registry of its own workloads, where the registry takes it."""

from typing import Protocol, runtime_checkable

from msgspec import Struct

from meshd.api.endpoints import Endpoint, ServiceName


class Announcement(Struct, frozen=True):
    """A workload of this host at one of its ports: `endpoint` is how other hosts reach it, as an endpoint of `service`.
    Who is not `healthy` is known but not called; `message` says why."""

    service: ServiceName
    endpoint: Endpoint
    healthy: bool = True
    message: str = ""


@runtime_checkable
class Publisher(Protocol):
    """A registry that takes announcements. It says them again until the registry has them, and after it lost them."""

    @property
    def trouble(self) -> str:
        """Why the registry has not what it should have; empty when it has."""

    def publish(self, announcements: tuple[Announcement, ...]) -> None:
        """These are all there are now; what was published before and is not among them is withdrawn."""

    async def withdraw(self) -> None:
        """Withdraw all of it and say no more: the agent ends. Given a few seconds at most."""
